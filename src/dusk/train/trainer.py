"""The one trainer: transformers.Trainer on packed batches, with an objective of ours."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from dusk.data.packing import TokenStore
from dusk.errors import WorkError
from dusk.train.adamw16 import AdamW16
from dusk.train.batch import Batch, PlannedBatches, only_item
from dusk.train.checkpoints import load_state, mark_complete, prune, save_state
from dusk.train.distribution import from_main, on_main, rank, summed, whole, world_size
from dusk.train.flops import peak_flops
from dusk.train.heldout import heldout_loss
from dusk.train.metrics import MetricsFile, peak_memory_bytes
from dusk.train.objectives import Objective
from dusk.train.optimizers import make_optimizer
from dusk.train.precision import computing
from dusk.train.schedule import rate_factor
from dusk.train.settings import TrainSettings
from dusk.train.spikes import SpikeGuard
from dusk.train.stopping import StopRequest


class Progress(Protocol):
    """Told how far a run is; `values` are the newest figures."""

    def __call__(self, done: int, total: int, unit: str, /, **values: float) -> None:
        """Called after each optimizer step."""
        ...


class PackedTrainer(Trainer):  # type: ignore[misc]
    """Takes its batches in the planned order and normalises the loss over the whole optimizer step."""

    lr_scheduler: LambdaLR | None

    def __init__(
        self, *, objective: Objective, settings: TrainSettings, rates: Mapping[str, float], **kwargs: Any
    ) -> None:
        super().__init__(data_collator=only_item, **kwargs)
        self.rates = rates
        self.objective = objective
        self.settings = settings
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the whole step's items
        self.metric_sums: dict[str, Tensor] = {}
        self.metric_items = 0
        self.step_loss: Tensor | float = 0.0
        self.guard = SpikeGuard(settings.spike_guard) if settings.spike_guard is not None else None
        self.skipped: dict[str, float] | None = None  # loss and norm of the step, if its update is not made

    def create_accelerator_and_postprocess(self) -> None:
        """As the Trainer's own, but that the model is left as it is: `distribution.spread` has shared it out."""
        super().create_accelerator_and_postprocess()
        if world_size() > 1:
            self.accelerator.prepare_model = _as_it_is

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """The batches of this rank, which are shared out already, in their order."""
        return DataLoader(
            self.train_dataset,
            batch_size=1,
            collate_fn=only_item,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Tensor:
        items = summed(torch.tensor(sum(self.objective.weight(batch) for batch in batch_samples)))
        return items.clamp(min=1).to(
            device
        )  # documents of one token predict nothing, and a step may be all such

    def _get_grad_norm(self, model: PreTrainedModel, grad_norm: Any = None) -> Any:
        """The last thing before an update is made: here the guard may forbid it."""
        if self.settings.update_in_backward:
            return self._adamw16.take_norm()
        norm = whole(super()._get_grad_norm(model, grad_norm))
        loss, self.step_loss = self.step_loss, 0.0
        if self.guard is not None:
            shares = torch.tensor([float(loss)], dtype=torch.float64)
            self._judge(model, float(summed(shares)) / world_size(), float(norm))
        return norm

    def _judge(self, model: PreTrainedModel, loss: float, norm: float) -> None:
        """Without gradients an optimizer changes neither weights nor its averages."""
        assert self.guard is not None
        self.skipped = None
        if self.guard.refuses(self.state.global_step + 1, loss, norm):
            self.skipped = {"loss": loss, "grad_norm": norm}
            model.zero_grad(set_to_none=True)
            self._tr_loss: Tensor = torch.zeros((), device=self.args.device)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """With the objective's metrics, so that trackers have them too."""
        super().log({**logs, **self.taken_metrics()} if "loss" in logs else logs, *args, **kwargs)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: to walk all parameters for each batch takes as long as a small model's layer."""
        return 0

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """The micro batch's share of the step's mean loss."""
        assert num_items_in_batch is not None
        assert not return_outputs
        with computing(self.settings.precision, self.args.device):
            total, sums = model(inputs)  # the objective: see `as_forward`
        self.metric_items += self.objective.weight(inputs)
        for name, value in sums.items():
            self.metric_sums[name] = self.metric_sums.get(name, 0) + value.detach()
        # gradients are averaged over devices, and the items were summed over them
        share: Tensor = total * world_size() / num_items_in_batch
        self.step_loss = self.step_loss + share.detach()
        return share

    def taken_metrics(self) -> dict[str, float]:
        """The objective's metrics as means since the last call, over all ranks."""
        names = sorted(self.metric_sums)
        sums = torch.tensor([*(float(self.metric_sums[name]) for name in names), self.metric_items]).double()
        *totals, items = summed(sums).tolist()
        self.metric_sums, self.metric_items = {}, 0
        return {name: total / max(1, items) for name, total in zip(names, totals, strict=True)}

    def create_optimizer(self, model: PreTrainedModel | None = None) -> torch.optim.Optimizer:
        """The optimizers of `optimizers.py` in place of transformers' own."""
        self.optimizer: torch.optim.Optimizer | None
        if self.optimizer is None:
            self.optimizer = make_optimizer(model or self.model, self.settings, self.rates)
            if self.settings.update_in_backward:
                self._adamw16.update_in_backward()
        return self.optimizer

    @property
    def _adamw16(self) -> AdamW16:
        optimizer = _bare(self.optimizer)
        assert isinstance(optimizer, AdamW16)
        return optimizer

    def release(self) -> None:
        """Leaves the model's backward passes to others."""
        if self.settings.update_in_backward and self.optimizer is not None:
            self._adamw16.release()

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The schedules of `schedule.py` in place of transformers' own."""
        if self.lr_scheduler is None:
            chosen = self.settings
            self.lr_scheduler = LambdaLR(
                optimizer or self.create_optimizer(),
                lambda step: rate_factor(
                    step, num_training_steps, chosen.schedule, warmup=chosen.warmup, decay=chosen.decay
                ),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _save_checkpoint(self, model: PreTrainedModel, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        assert self.lr_scheduler is not None
        save_state(folder, self.model, _bare(self.optimizer), self.lr_scheduler)
        self._save_rng_state(str(folder))
        on_main(lambda: self._complete(folder))

    def _complete(self, folder: Path) -> None:
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        mark_complete(folder)
        prune(folder.parent)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Weights are loaded with the optimizer's states, once there is an optimizer."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            assert self.lr_scheduler is not None
            load_state(Path(checkpoint), self.model, _bare(self.optimizer), self.lr_scheduler)


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    """Without accelerate's wrapping."""
    return getattr(optimizer, "optimizer", optimizer)  # type: ignore[no-any-return]


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Writes metrics, measures the held-out loss, asks for checkpoints by the clock, reports progress."""

    def __init__(
        self,
        metrics: MetricsFile,
        settings: TrainSettings,
        step_tokens: list[int],
        step_flops: list[int],
        heldout: TokenStore | None,
        progress: Progress | None,
        request: StopRequest,
    ) -> None:
        self.request, self.stopped = request, False
        self.metrics, self.settings, self.heldout, self.progress = metrics, settings, heldout, progress
        self.flops, self.peak_flops = step_flops, peak_flops() * world_size()
        self.seen = [0]  # tokens after each step
        for tokens in step_tokens:
            self.seen.append(self.seen[-1] + tokens)
        self.trainer: PackedTrainer | None = None
        self.saved_at = self.step_began = time.monotonic()

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.seen) - 1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The loss before the first step: what growth cost."""
        if state.global_step == 0:
            self.measure(0)
        if self.trainer is not None and self.trainer.guard is not None:
            rows = from_main(self.metrics.rows)
            accepted = [(row["loss"], row["grad_norm"]) for row in rows if row["kind"] == "train"]
            self.trainer.guard.recall(accepted)
        self.saved_at = self.step_began = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A held-out measurement and a checkpoint where they are due."""
        step, every = state.global_step, self.settings.eval_every_tokens
        due = every is not None and self.seen[step] // every > self.seen[step - 1] // every
        if due or step == self.steps:
            self.measure(step)
        late = time.monotonic() - self.saved_at > self.settings.save_every_seconds
        save, stop = summed(
            torch.tensor([late and rank() == 0, self.request.asked], dtype=torch.int)
        ).tolist()
        self.stopped = bool(stop)
        control.should_save = self.stopped or (bool(save) and step < self.steps)
        control.should_training_stop |= self.stopped

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """One row a step."""
        assert self.trainer is not None
        if not logs or "loss" not in logs:
            return
        step, now = state.global_step, time.monotonic()
        seconds, self.step_began = now - self.step_began, now
        if self.trainer.skipped is not None:
            figures = {name: _told(value) for name, value in self.trainer.skipped.items()}
            self.metrics.write("skipped", step=step, tokens=self.seen[step], **figures)
            return
        _require_finite(step, logs["loss"], logs.get("grad_norm", 0.0))
        if self.trainer.guard is not None:
            self.trainer.guard.accepted(logs["loss"], float(logs.get("grad_norm", 0.0)))
        flops_per_second = self.flops[step - 1] / seconds
        row = {
            "step": step,
            "tokens": self.seen[step],
            "loss": logs["loss"],
            "lr": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm", 0.0),
            **{name: value for name, value in logs.items() if "/" in name},
            "tokens_per_second": (self.seen[step] - self.seen[step - 1]) / seconds,
            **({"mfu": flops_per_second / self.peak_flops} if self.peak_flops else {}),
            "seconds": seconds,
            "memory_bytes": peak_memory_bytes(),
        }
        self.metrics.write("train", **row)
        if self.progress and rank() == 0:
            self.progress(self.seen[step], self.seen[-1], "tokens", loss=logs["loss"])

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The time that a checkpoint takes is not counted to a step."""
        self.saved_at = self.step_began = time.monotonic()

    def measure(self, step: int) -> None:
        """The held-out loss after `step`; the time it takes is not counted to a step."""
        if self.heldout is None or self.trainer is None:
            return
        began = time.monotonic()
        loss = heldout_loss(self.trainer.model, self.heldout, precision=self.settings.precision)
        self.metrics.write("eval", step=step, tokens=self.seen[step], **asdict(loss))
        self.step_began += time.monotonic() - began


def _require_finite(step: int, loss: float, gradient: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(gradient)):
        raise WorkError(
            f"the run diverged at step {step}: loss {loss}, norm of the gradient {gradient}",
            remedy="The same command would come to the same step again. Lower the learning rate or lengthen the "
            "warm-up (that starts anew), or add --spike-guard 6: that goes on from the last checkpoint and skips "
            "such updates.",
        )


def _told(value: float) -> float | str:
    """What is no number has no place in JSON."""
    return value if math.isfinite(value) else str(value)


def _as_it_is(model: PreTrainedModel, **_: Any) -> PreTrainedModel:
    return model


def by_step(figures: npt.NDArray[np.int64], batches: PlannedBatches, per_step: int) -> list[int]:
    """Sums of figures of units over each optimizer step of `per_step` batches."""
    sizes = [int(figures[units].sum()) for units in batches.plan]
    return [sum(sizes[begin : begin + per_step]) for begin in range(0, len(sizes), per_step)]
