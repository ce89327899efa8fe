"""Train a model in a work folder, from its last checkpoint if there is one, and leave a whole output folder."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments

from dusk.data.mixture import Mixture
from dusk.data.packing import TokenStore, plan_batches
from dusk.errors import SettingError, StoppedError, WorkError
from dusk.train.attention import packed
from dusk.train.batch import PlannedBatches
from dusk.train.checkpoints import newest_complete
from dusk.train.distribution import from_main, on_main, rank, world_size
from dusk.train.flops import unit_flops
from dusk.train.metrics import MetricsFile, peak_memory_bytes
from dusk.train.objectives import Objective, as_forward
from dusk.train.precision import device_of_training
from dusk.train.settings import TrainSettings
from dusk.train.sharing import passes_per_step, share
from dusk.train.stopping import StopRequest, listening
from dusk.train.trainer import PackedTrainer, Progress, Recorder, by_step

_CHECKPOINTS = "checkpoints"
_HELDOUT = ("loss", "bits_per_byte", "domains")


@dataclass(frozen=True)
class FitReport:
    """What one fit did: tokens and seconds of the whole run, also of what ran before a resume."""

    steps: int
    tokens: int
    seconds: float
    final_loss: float
    peak_memory_bytes: int
    flops: int
    heldout: dict[str, Any] = field(default_factory=dict)
    final_metrics: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As `results` of dusk.json."""
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 2),
            "tokens_per_second": round(self.tokens / max(self.seconds, 1e-9), 1),
            "peak_memory_bytes": self.peak_memory_bytes,
            "flops": self.flops,
            "final_loss": self.final_loss,
            **({"heldout": self.heldout} if self.heldout else {}),
            **({"metrics": self.final_metrics} if self.final_metrics else {}),
        }


def fit(
    model: PreTrainedModel,
    store: TokenStore,
    objective: Objective,
    settings: TrainSettings,
    folder: Path,
    *,
    rates: Mapping[str, float],
    mixture: Mixture | None = None,
    heldout: TokenStore | None = None,
    progress: Progress | None = None,
) -> FitReport:
    """Train `model` in place; checkpoints and metrics.jsonl lie in `folder`, and are continued from there.

    `rates`: the factor of the learning rate of each parameter that is trained, by name; `mixture`: of the store's
    files, where they do not count by their sizes.

    Raises:
        StoppedError: SIGTERM or SIGUSR1 came; the newest checkpoint is that of the last step.
        WorkError: the loss is not finite, or the disk refuses.
    """
    with listening() as request:
        return _fit(model, store, objective, settings, folder, rates, mixture, heldout, progress, request)


def _fit(
    model: PreTrainedModel,
    store: TokenStore,
    objective: Objective,
    settings: TrainSettings,
    folder: Path,
    rates: Mapping[str, float],
    mixture: Mixture | None,
    heldout: TokenStore | None,
    progress: Progress | None,
    request: StopRequest,
) -> FitReport:
    capacity, per_step = _micro_batches(store, settings)
    if settings.update_in_backward:
        _require_one_pass(capacity, per_step)
    plan = _plan(store, settings, capacity, mixture)
    batches = PlannedBatches(store, plan)
    costs = unit_flops(model, store)
    mine = share(plan, per_step, store.unit_lengths(), rank=rank(), ranks=world_size())
    recorder = Recorder(
        MetricsFile(folder / "metrics.jsonl", writing=rank() == 0),
        settings,
        by_step(store.unit_lengths(), batches, per_step),
        by_step(costs, batches, per_step),
        heldout.thinned(settings.eval_tokens) if heldout else None,
        progress,
        request,
    )
    arguments = training_arguments(folder / _CHECKPOINTS, settings, passes_per_step(per_step, world_size()))
    arguments.use_cache = getattr(model.config, "use_cache", True)  # the Trainer writes it into the config
    if settings.gradient_checkpointing:
        _checkpoint_activations(model)
    checkpoint = from_main(lambda: newest_complete(folder / _CHECKPOINTS))
    with packed(model), as_forward(model, objective), using_threads(settings.threads):
        trainer = PackedTrainer(
            objective=objective,
            settings=settings,
            rates=rates,
            model=model,
            args=arguments,
            train_dataset=PlannedBatches(store, mine),
            callbacks=[recorder],
        )
        trainer.remove_callback(PrinterCallback)
        recorder.trainer = trainer
        on_main(
            lambda: recorder.metrics.cut_back(int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else -1)
        )
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            trainer.release()
    if recorder.stopped:
        raise StoppedError(
            f"stopped as asked, after step {trainer.state.global_step:,} of {recorder.steps:,}.",
            remedy="What was done is saved; the same command continues.",
        )
    return _report(recorder, sum(recorder.flops))


def _plan(
    store: TokenStore, settings: TrainSettings, capacity: int, mixture: Mixture | None
) -> list[list[int]]:
    """The micro batches of the whole run."""
    seed, tokens, epochs = settings.seed, settings.tokens, settings.epochs
    if mixture is None:
        return plan_batches(store, capacity=capacity, seed=seed, tokens=tokens, epochs=epochs)
    return mixture.plan(store, capacity=capacity, seed=seed, tokens=tokens or store.tokens.size * epochs)


def training_arguments(folder: Path, settings: TrainSettings, accumulation: int) -> TrainingArguments:
    """Our settings in transformers' words."""
    on_gpu = device_of_training().type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        max_grad_norm=settings.grad_clip,
        optim="adamw_torch_fused",
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # the recorder asks for checkpoints, by the clock
        report_to=_trackers(settings) if rank() == 0 else "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs in one process would split the packed row
    return arguments


def _trackers(settings: TrainSettings) -> list[str] | str:
    """In transformers' words; raises SettingError where a tracker is not installed."""
    names = settings.report_to.split(",") if settings.report_to else []
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise SettingError(
            f"report_to needs {' and '.join(missing)}", remedy=f"pip install {' '.join(missing)}"
        )
    return names or "none"


def _checkpoint_activations(model: PreTrainedModel) -> None:
    """Under the name that this version of transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def _micro_batches(store: TokenStore, settings: TrainSettings) -> tuple[int, int]:
    """Tokens of one forward pass, and how many passes make an optimizer step; on one device."""
    largest = 16384 if device_of_training().type == "cuda" else 4096
    wanted = settings.micro_batch_tokens or min(settings.batch_tokens, largest)
    capacity = max(wanted, int(store.unit_lengths().max()))
    return capacity, max(1, round(settings.batch_tokens / capacity))


def _require_one_pass(capacity: int, per_step: int) -> None:
    problems = [
        *([f"{world_size()} devices share each gradient"] if world_size() > 1 else []),
        *([f"an update has {per_step} passes, of {capacity:,} tokens"] if per_step > 1 else []),
    ]
    if problems:
        raise SettingError(
            "update_in_backward makes one update of one pass, on one device:",
            problems=problems,
            remedy="Give --micro-batch-tokens as many as --batch-tokens, or leave --update-in-backward out.",
        )


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Processor threads for what runs inside; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _report(recorder: Recorder, flops: int) -> FitReport:
    found = from_main(recorder.metrics.rows)
    rows = [row for row in found if row["kind"] == "train"]
    measured: dict[str, Any] = next((row for row in reversed(found) if row["kind"] == "eval"), {})
    if not rows:
        raise WorkError("every update was skipped", remedy="Raise --spike-guard, or look at the data.")
    tail = rows[-max(1, len(rows) // 20) :]
    names = [name for name in tail[-1] if "/" in name]
    return FitReport(
        steps=recorder.steps,
        tokens=recorder.seen[-1],
        seconds=sum(row["seconds"] for row in rows),
        final_loss=math.fsum(row["loss"] for row in tail) / len(tail),
        peak_memory_bytes=peak_memory_bytes(),
        flops=flops,
        heldout={name: measured[name] for name in _HELDOUT if name in measured},
        final_metrics={name: math.fsum(row[name] for row in tail) / len(tail) for name in names},
    )
