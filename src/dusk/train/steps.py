"""The steps of sDPO one after the other, each from and against the model of the one before; restartable."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from dusk.data.packing import TokenStore
from dusk.data.stores import file_digest
from dusk.train.distribution import from_main, load_weights, on_main, whole_weights
from dusk.train.fit import FitReport, fit
from dusk.train.metrics import MetricsFile
from dusk.train.preference import Preference
from dusk.train.reference import Logs, reference_logs
from dusk.train.settings import TrainSettings
from dusk.train.trainer import Progress


@dataclass(frozen=True)
class Step:
    """The preference pairs of one step, and what the model before all steps makes of them.

    `accuracy` is the share of pairs whose chosen answer is the likelier one, `accuracy_per_token` the same
    for log-probabilities divided by length; `start_logs` those log-probabilities.
    """

    file: Path
    store: TokenStore
    counts: dict[str, Any]
    start_logs: Logs
    accuracy: float
    accuracy_per_token: float


@dataclass(frozen=True)
class StepReport:
    """One finished step, as in dusk.json.

    `reference_margin` is the mean of log pi_ref(chosen) - log pi_ref(rejected) in nats (sDPO, section 3.2, the
    lower bound that a better reference raises); `data` counts rows, and those left out by reason.
    """

    file: str
    pairs: int
    steps: int
    tokens: int
    seconds: float
    final_loss: float
    reference_margin: float
    start_accuracy: float
    start_accuracy_per_token: float
    reward_accuracy: float
    reward_margin: float
    data: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What the training of one step came to."""

    fit: FitReport
    reference_margin: float

    def report(self, step: Step) -> StepReport:
        """Together with what is known of the step itself."""
        return StepReport(
            file=step.file.name,
            pairs=step.store.units,
            steps=self.fit.steps,
            tokens=self.fit.tokens,
            seconds=round(self.fit.seconds, 2),
            final_loss=self.fit.final_loss,
            reference_margin=self.reference_margin,
            start_accuracy=step.accuracy,
            start_accuracy_per_token=step.accuracy_per_token,
            reward_accuracy=self.fit.final_metrics["rewards/accuracies"],
            reward_margin=self.fit.final_metrics["rewards/margins"],
            data=step.counts,
        )


@dataclass(frozen=True)
class Objective:
    """What all steps have in common: beta, about how many pairs make an update, where references are kept."""

    beta: float
    batch_pairs: int | None
    cache: Path


def run_steps(
    model: PreTrainedModel,
    steps: Sequence[Step],
    settings: TrainSettings,
    objective: Objective,
    folder: Path,
    progress: Progress | None,
    rates: Mapping[str, float],
) -> list[Outcome]:
    """Train `model` in place through all steps; their metrics become one file in `folder`."""
    works = [_Work(folder / f"checkpoints-step-{number}") for number in range(1, len(steps) + 1)]
    finished = from_main(lambda: sum(work.finished for work in works))
    if finished:
        works[finished - 1].load(model)
    outcomes = [work.outcome() for work in works[:finished]]
    total = sum(settings.tokens or step.store.tokens.size * settings.epochs for step in steps)
    for number in range(finished, len(steps)):
        step, work = steps[number], works[number]
        done = sum(outcome.fit.tokens for outcome in outcomes)
        reference = step.start_logs
        if number:
            digest = from_main(lambda: file_digest(works[number - 1].weights))  # noqa: B023
            reference = reference_logs(objective.cache, digest, model, step.store, settings)
        margin = float((reference[:, 0] - reference[:, 1]).mean())
        report = fit(
            model,
            step.store,
            Preference(reference, objective.beta),
            _sized(settings, step.store, objective.batch_pairs),
            work.folder,
            rates=rates,
            progress=_shifted(progress, done, total),
        )
        outcomes.append(Outcome(report, margin))
        work.finish(model, outcomes[-1])
        if number:
            works[number - 1].forget()
    on_main(lambda: _join_metrics(folder, [work.folder for work in works]))
    return outcomes


def _sized(settings: TrainSettings, store: TokenStore, batch_pairs: int | None) -> TrainSettings:
    """With the tokens that so many pairs of this store have in the mean."""
    if batch_pairs is None:
        return settings
    return replace(settings, batch_tokens=max(1, round(batch_pairs * store.tokens.size / store.units)))


class _Work:
    """The folder of one step: its checkpoints, and once it is done its weights and its outcome."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights = folder / "model.safetensors"
        self.outcome_file = folder / "outcome.json"
        on_main(lambda: folder.mkdir(exist_ok=True))

    @property
    def finished(self) -> bool:
        return self.outcome_file.exists()

    def outcome(self) -> Outcome:
        found = from_main(lambda: json.loads(self.outcome_file.read_text(encoding="utf-8")))
        return Outcome(FitReport(**found["fit"]), found["reference_margin"])

    def load(self, model: PreTrainedModel) -> None:
        load_weights(model, on_main(lambda: load_file(self.weights)) or {})

    def finish(self, model: PreTrainedModel, outcome: Outcome) -> None:
        weights = whole_weights(model)
        names = [name for name, _ in model.named_parameters()]  # a tied head once
        on_main(lambda: self._write({name: weights[name] for name in names}, outcome))

    def forget(self) -> None:
        """The weights of a later step are there to go on from."""
        on_main(lambda: self.weights.unlink(missing_ok=True))

    def _write(self, weights: dict[str, Tensor], outcome: Outcome) -> None:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, self.weights)
        writing = self.outcome_file.with_suffix(".writing")
        writing.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        writing.replace(self.outcome_file)  # last: it says that the weights are whole


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of one step as progress of all."""
    if progress is None:
        return None

    def report(done: int, _: int, unit: str, /, **values: float) -> None:
        progress(before + done, total, unit, **values)

    return report


def _join_metrics(folder: Path, steps: Sequence[Path]) -> None:
    """One metrics file of all steps, its step and token counts running on."""
    joined = MetricsFile(folder / "metrics.jsonl")
    joined.path.unlink(missing_ok=True)
    step = tokens = 0
    for number, work in enumerate(steps, start=1):
        rows = MetricsFile(work / "metrics.jsonl").rows()
        for row in rows:
            kind = row.pop("kind")
            row |= {"sdpo_step": number, "step": step + row["step"], "tokens": tokens + row["tokens"]}
            joined.write(kind, **row)
        step, tokens = step + rows[-1]["step"], tokens + rows[-1]["tokens"]
