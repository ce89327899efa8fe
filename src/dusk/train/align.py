"""Stepwise DPO (Kim et al. 2024, "sDPO: Don't Use Your Data All at Once").

The preference data come in steps. Step t starts from the model of step t - 1 and takes that same model as its
reference, so each step is held to a better-aligned reference than the one before. One step alone is DPO.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from dusk.checkpoint import Source, open_checkpoint
from dusk.data.encode import TextTokenizer
from dusk.data.stores import pair_store
from dusk.data.templates import Template
from dusk.data.templates import template as template_called
from dusk.errors import SettingError
from dusk.train.distribution import distributed
from dusk.train.fit import using_threads
from dusk.train.model import context_length, load_model, result_dtype, saved_dtype
from dusk.train.output import (
    Files,
    SharedOutput,
    TrainReport,
    Tuned,
    data_files,
    data_sources,
    finish,
    finished_before,
    layer_map_of,
    resume_key,
)
from dusk.train.prepared import prepared
from dusk.train.settings import TrainSettings
from dusk.train.steps import Outcome, Step, accuracies, cached_logs, run_steps
from dusk.train.trainer import Progress
from dusk.train.vocabulary import load_tokenizer, own_template

Order = Literal["given", "easy-to-hard"]

DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-7,
    "schedule": "linear",
    "warmup": 0.1,
    "weight_decay": 0.0,
    "epochs": 1,
}
"""Zephyr's (Tunstall et al. 2023, section 4.4), which sDPO follows; Zephyr trains for one to three epochs."""


@distributed
def align(
    model: str | Path,
    out: str | Path,
    *,
    steps: Files,
    beta: float = 0.1,
    order: Order = "given",
    template: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> TrainReport:
    """Align `model` on preference files, one step of sDPO each.

    `order` "easy-to-hard" sorts the steps by the accuracy of the starting model, highest first. The paper sorts
    by reward accuracy and does not say how a model without a reference has a reward; here it is the share of
    pairs with log p(chosen) > log p(rejected). `template` is the one that the model was tuned with, or else
    SOLAR's. `settings` are those of `TrainSettings`, and hold for each step: `tokens` is per step.

    Raises:
        InputError: model, data, template or settings that cannot be used, or OUT exists.
        WorkError: the loss is not finite, or the disk refuses.
    """
    chosen = _checked(steps, beta, order, settings)
    files, start = data_files(steps), open_checkpoint(model)
    turns = template_called(template or own_template(start.path))
    inputs = (Source.of(start), *data_sources(files))
    recorded = chosen.to_json() | {"beta": beta, "order": order, "template": turns.name}
    with SharedOutput(out, resume_key("align", inputs, recorded)) as output, using_threads(chosen.threads):
        if report := finished_before(output):
            return report
        network = load_model(start.path)
        ready = prepared(network, chosen, layer_map_of(start.path))
        tokenizer = load_tokenizer(start.path, network)
        made = _steps(files, network, tokenizer, turns, chosen, output.path)
        if order == "easy-to-hard":
            made.sort(key=lambda step: step.accuracy, reverse=True)
        results = _results(made, run_steps(network, made, chosen, beta, output.path, progress, ready.rates))
        finish(
            output,
            network,
            result_dtype(saved_dtype(start), chosen.save_dtype),
            command="align",
            inputs=inputs,
            settings=recorded,
            results=results,
            start=start.path,
            tuned=Tuned(turns.jinja, tokenizer.eos),
            lora=ready.adapters,
        )
    return TrainReport.of(output.out, results)


def _checked(steps: Files, beta: float, order: str, settings: dict[str, Any]) -> TrainSettings:
    problems = []
    if not steps:
        problems.append("no --step: give one preference file for each step of sDPO")
    if not 0 < beta < float("inf"):
        problems.append(f"beta is {beta}, and must be above 0")
    if order not in ("given", "easy-to-hard"):
        problems.append(f"order is {order}, and must be given or easy-to-hard")
    if problems:
        raise SettingError("the alignment cannot start:", problems=problems)
    return TrainSettings.of(settings, **DEFAULTS)


def _steps(
    files: Sequence[Path],
    model: PreTrainedModel,
    tokenizer: TextTokenizer,
    turns: Template,
    settings: TrainSettings,
    work: Path,
) -> list[Step]:
    """The steps in the order of the files, with the accuracy of the model before all steps."""
    length = context_length(model, settings.sequence_length)
    stores = [pair_store([file], tokenizer, turns, sequence_length=length) for file in files]
    found = []
    for number, (file, (store, counts)) in enumerate(zip(files, stores, strict=True), start=1):
        logs = cached_logs(work / f"checkpoints-start-{number}.npy", model, store, settings)
        found.append(Step(file, store, counts.to_json(), logs, *accuracies(logs, store)))
    return found


def _results(steps: Sequence[Step], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Figures of the whole, and of each step."""
    fits = [outcome.fit for outcome in outcomes]
    tokens, seconds = sum(fit.tokens for fit in fits), sum(fit.seconds for fit in fits)
    return fits[-1].to_json() | {
        "steps": sum(fit.steps for fit in fits),
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        "flops": sum(fit.flops for fit in fits),
        "peak_memory_bytes": max(fit.peak_memory_bytes for fit in fits),
        "sdpo": [asdict(outcome.report(step)) for step, outcome in zip(steps, outcomes, strict=True)],
    }
