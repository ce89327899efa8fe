"""Stepwise DPO (Kim et al. 2024, "sDPO: Don't Use Your Data All at Once").

The preference data come in steps. Step t starts from the model of step t - 1 and takes that same model as its
reference, so each step is held to a better-aligned reference than the one before. One step alone is DPO.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from dusk.checkpoint import OutputFolder, Source, open_checkpoint, read_manifest
from dusk.data.packing import TokenStore
from dusk.data.stores import pair_store
from dusk.data.templates import template as template_called
from dusk.errors import SettingError
from dusk.train.fit import FitReport, fit
from dusk.train.heldout import document_nats
from dusk.train.metrics import MetricsFile
from dusk.train.model import context_length, load_model, load_tokenizer, saved_dtype
from dusk.train.objectives import output_head
from dusk.train.output import TrainReport, data_sources, finish, resume_key
from dusk.train.preference import Preference
from dusk.train.settings import TrainSettings
from dusk.train.trainer import Progress

Order = Literal["given", "easy-to-hard"]

DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-7,
    "schedule": "linear",
    "warmup": 0.1,
    "weight_decay": 0.0,
    "epochs": 1,
}
"""Zephyr's (Tunstall et al. 2023, section 4.4), which sDPO follows; Zephyr trains for one to three epochs."""


@dataclass(frozen=True)
class StepReport:
    """One step of sDPO.

    `reference_margin` is the mean of log pi_ref(chosen) - log pi_ref(rejected) in nats (sDPO, section 3.2, the
    lower bound that a better reference raises). `start_accuracy` is the share of the step's pairs whose chosen
    answer is the likelier one under the model before all steps, and `start_accuracy_per_token` the same for
    log-probabilities divided by length.
    """

    file: str
    pairs: int
    tokens: int
    seconds: float
    reference_margin: float
    start_accuracy: float
    start_accuracy_per_token: float
    reward_accuracy: float
    reward_margin: float


@dataclass(frozen=True)
class _Step:
    file: Path
    store: TokenStore
    counts: dict[str, Any]
    accuracy: float
    accuracy_per_token: float


def align(
    model: str | Path,
    out: str | Path,
    *,
    steps: Sequence[str | Path],
    beta: float = 0.1,
    order: Order = "given",
    template: str = "solar",
    progress: Progress | None = None,
    **settings: Any,
) -> TrainReport:
    """Align `model` on preference files, one step of sDPO each.

    `order` "easy-to-hard" sorts the steps by the accuracy of the starting model, highest first. The paper sorts
    by reward accuracy and does not say how a model without a reference has a reward; here it is the share of
    pairs with log p(chosen) > log p(rejected).

    Raises:
        InputError: model, data, template or settings that cannot be used, or OUT exists.
        WorkError: the loss is not finite, or the disk refuses.
    """
    chosen, turns = _checked(steps, beta, order, settings), template_called(template)
    files = [Path(file) for file in steps]
    start = open_checkpoint(model)
    inputs = (Source.of(start), *data_sources(files))
    recorded = chosen.to_json() | {"beta": beta, "order": order, "template": template}
    with OutputFolder(out, resume_key("align", inputs, recorded)) as output:
        network = load_model(start.path)
        output_head(network)
        tokenizer = load_tokenizer(start.path, network)
        length = context_length(network, chosen.sequence_length)
        sorted_steps = []
        for file in files:
            store, counts = pair_store([file], tokenizer, turns, sequence_length=length)
            sorted_steps.append(_Step(file, store, counts.to_json(), *_accuracies(network, store)))
        if order == "easy-to-hard":
            sorted_steps.sort(key=lambda step: step.accuracy, reverse=True)
        reports = _run_steps(network, sorted_steps, chosen, beta, output.path, progress)
        results = _results(reports, sorted_steps)
        manifest = read_manifest(start.path)
        finish(
            output,
            network,
            saved_dtype(start.config),
            command="align",
            inputs=inputs,
            parents=[start.path],
            settings=recorded,
            results=results,
            tokenizer_from=start.path,
            layer_map=manifest.layer_map if manifest else None,
            chat_template=turns.jinja,
        )
    return TrainReport(output.out, results["tokens"], results["seconds"], results["final_loss"], results)


def _checked(steps: Sequence[str | Path], beta: float, order: str, settings: dict[str, Any]) -> TrainSettings:
    problems = []
    if not steps:
        problems.append("no --step: give one preference file for each step of sDPO")
    if not beta > 0:
        problems.append(f"beta is {beta}, and must be above 0")
    if order not in ("given", "easy-to-hard"):
        problems.append(f"order is {order}, and must be given or easy-to-hard")
    if problems:
        raise SettingError("the alignment cannot start:", problems=problems)
    return TrainSettings.of(settings, **DEFAULTS)


def _accuracies(model: PreTrainedModel, store: TokenStore) -> tuple[float, float]:
    """Shares of pairs whose chosen answer is the likelier, in total and per token."""
    logs = -document_nats(model, store)
    tokens = np.add.reduceat(store.trained.astype(np.int64), store.offsets[:-1])
    mean = logs / np.maximum(tokens, 1)
    return float((logs[0::2] > logs[1::2]).mean()), float((mean[0::2] > mean[1::2]).mean())


def _run_steps(
    model: PreTrainedModel,
    steps: Sequence[_Step],
    settings: TrainSettings,
    beta: float,
    folder: Path,
    progress: Progress | None,
) -> list[tuple[FitReport, float]]:
    """Each step from the model of the one before; a finished step's weights are kept until the end."""
    reports = []
    total = sum(step.store.tokens.size * settings.epochs for step in steps)
    done = 0
    for number, step in enumerate(steps, start=1):
        work = folder / f"checkpoints-step-{number}"
        work.mkdir(exist_ok=True)
        reference = _reference(model, step.store, work / "reference.npy")
        margin = float((reference[0::2] - reference[1::2]).mean())
        report = _run_step(model, step, reference, settings, beta, work, _shifted(progress, done, total))
        reports.append((report, margin))
        done += report.tokens
    _join_metrics(folder, len(steps))
    return reports


def _run_step(
    model: PreTrainedModel,
    step: _Step,
    reference: npt.NDArray[np.float64],
    settings: TrainSettings,
    beta: float,
    work: Path,
    progress: Progress | None,
) -> FitReport:
    """Train one step, or take over the weights and the report of one that was finished before."""
    weights, report_file = work / "model.safetensors", work / "report.json"
    if report_file.exists():
        model.load_state_dict(load_file(weights), strict=False)
        return FitReport(**json.loads(report_file.read_text()))
    report = fit(model, step.store, Preference(reference, beta), settings, work, progress=progress)
    save_file(dict(model.named_parameters()), weights)
    writing = work / "report.writing"
    writing.write_text(json.dumps(asdict(report)))
    writing.replace(report_file)  # last: it says that the weights are whole
    return report


def _reference(model: PreTrainedModel, store: TokenStore, cache: Path) -> npt.NDArray[np.float64]:
    """Log-probabilities under the model as it is now, computed once a step."""
    if cache.exists():
        return np.load(cache)  # type: ignore[no-any-return]
    reference = -document_nats(model, store)
    writing = cache.with_suffix(".writing.npy")
    np.save(writing, reference)
    writing.replace(cache)
    return reference


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of one step as progress of all."""
    if progress is None:
        return None

    def report(done: int, _: int, unit: str, /, **values: float) -> None:
        progress(before + done, total, unit, **values)

    return report


def _join_metrics(folder: Path, steps: int) -> None:
    """One metrics file of all steps, its step and token counts running on."""
    joined = MetricsFile(folder / "metrics.jsonl")
    joined.path.unlink(missing_ok=True)
    step = tokens = 0
    for number in range(1, steps + 1):
        rows = MetricsFile(folder / f"checkpoints-step-{number}" / "metrics.jsonl").rows()
        for row in rows:
            kind = row.pop("kind")
            row |= {"sdpo_step": number, "step": step + row["step"], "tokens": tokens + row["tokens"]}
            joined.write(kind, **row)
        step, tokens = step + rows[-1]["step"], tokens + rows[-1]["tokens"]


def _results(reports: Sequence[tuple[FitReport, float]], steps: Sequence[_Step]) -> dict[str, Any]:
    """Figures of the whole, and of each step."""
    each = [
        StepReport(
            file=step.file.name,
            pairs=step.store.units,
            tokens=report.tokens,
            seconds=report.seconds,
            reference_margin=margin,
            start_accuracy=step.accuracy,
            start_accuracy_per_token=step.accuracy_per_token,
            reward_accuracy=report.final_metrics.get("rewards/accuracies", 0.0),
            reward_margin=report.final_metrics.get("rewards/margins", 0.0),
        )
        for (report, margin), step in zip(reports, steps, strict=True)
    ]
    seconds, tokens = (
        sum(report.seconds for report, _ in reports),
        sum(report.tokens for report, _ in reports),
    )
    last = reports[-1][0]
    return last.to_json() | {
        "steps": sum(report.steps for report, _ in reports),
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        "sdpo": [asdict(report) for report in each],
        "data": {step.file.name: step.counts for step in steps},
    }
