"""Stepwise DPO (Kim et al. 2024, "sDPO: Don't Use Your Data All at Once").

The preference data come in steps. Step t starts from the model of step t - 1 and takes that same model as its
reference, so each step is held to a better-aligned reference than the one before. One step alone is DPO.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from dusk.checkpoint import Source, open_checkpoint
from dusk.data.encode import TextTokenizer
from dusk.data.jinja_template import ChatTemplate
from dusk.data.stores import Pairs
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
from dusk.train.reference import accuracies, reference_logs
from dusk.train.settings import TrainSettings
from dusk.train.steps import Objective, Outcome, Step, run_steps
from dusk.train.tokens import token_store
from dusk.train.trainer import Progress
from dusk.train.vocabulary import add_tokens, load_tokenizer, template_for

Order = Literal["given", "easy-to-hard"]

Preset = Literal["zephyr-paper", "zephyr-recipe"]

DEFAULTS: dict[str, Any] = {
    "beta": 0.1,
    "learning_rate": 5e-7,
    "schedule": "linear",
    "warmup": 0.1,
    "weight_decay": 0.0,
    "epochs": 1,
}
"""Zephyr's (Tunstall et al. 2023, section 4.4), which sDPO follows; Zephyr trains for one to three epochs."""

PRESETS: dict[str, dict[str, Any]] = {
    "zephyr-paper": {**DEFAULTS, "epochs": 3, "batch_pairs": 32},
    "zephyr-recipe": {
        **DEFAULTS,
        "beta": 0.01,
        "schedule": "cosine",
        "batch_pairs": 128,
        "sequence_length": 1024,
        "precision": "bf16",
    },
}
"""Zephyr's two descriptions of one model, which differ. The paper (section 4.4): beta 0.1, linear, batches of 32,
three epochs for the final model. The published recipe (alignment-handbook, zephyr-7b-beta/dpo/config_full.yaml):
beta 0.01, cosine, one epoch, 8 pairs a GPU in 2 passes, here for the 8 GPUs of its command, 1024 tokens, bf16. It
cuts prompts at 512 tokens; here longer pairs are left out whole."""


@distributed
def align(
    model: str | Path,
    out: str | Path,
    *,
    steps: Files,
    beta: float | None = None,
    preset: Preset | None = None,
    batch_pairs: int | None = None,
    reference_cache: str | Path | None = None,
    order: Order = "given",
    template: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> TrainReport:
    """Align `model` on preference files, one step of sDPO each.

    `order` "easy-to-hard" sorts the steps by the accuracy of the starting model, highest first. The paper sorts
    by reward accuracy and does not say how a model without a reference has a reward; here it is the share of
    pairs with log p(chosen) > log p(rejected). `template` is by default the model's own if it has one, or else
    SOLAR's. `preset` gives all settings that are not given (`PRESETS`). `batch_pairs`, in place of `batch_tokens`:
    about so many pairs of mean length make an update. References are kept in `reference_cache` for other runs.
    `settings` are those of `TrainSettings`, and hold for each step: `tokens` is per step.

    Raises:
        InputError: model, data, template or settings that cannot be used, or OUT exists.
        WorkError: the loss is not finite, or the disk refuses.
    """
    objective, chosen = _checked(steps, beta, preset, batch_pairs, order, settings)
    files, start = data_files(steps), open_checkpoint(model)
    turns = template_for(start.path, template)
    inputs = (Source.of(start), *data_sources(files))
    recorded = chosen.to_json() | {**objective, "order": order, "template": turns.name}
    with SharedOutput(out, resume_key("align", inputs, recorded)) as output, using_threads(chosen.threads):
        if report := finished_before(output):
            return report
        network = load_model(start.path)
        tokenizer = load_tokenizer(start.path, network)
        add_tokens(tokenizer, turns, network, chosen)
        ready = prepared(network, chosen, layer_map_of(start.path))
        common = Objective(
            objective["beta"],
            objective["batch_pairs"],
            Path(reference_cache or output.path / "checkpoints-references"),
        )
        read = _Reading(network, inputs[0].digest, tokenizer, turns, chosen)
        made = [read.step(file, common.cache) for file in files]
        if order == "easy-to-hard":
            made.sort(key=lambda step: step.accuracy, reverse=True)
        results = _results(made, run_steps(network, made, chosen, common, output.path, progress, ready.rates))
        finish(
            output,
            network,
            result_dtype(saved_dtype(start), chosen.save_dtype),
            command="align",
            inputs=inputs,
            settings=recorded,
            results=results,
            start=start.path,
            tuned=Tuned(turns, tokenizer),
            lora=ready.adapters,
        )
    return TrainReport.of(output.out, results)


def _checked(
    steps: Files,
    beta: float | None,
    preset: str | None,
    batch_pairs: int | None,
    order: str,
    settings: dict[str, Any],
) -> tuple[dict[str, Any], TrainSettings]:
    """beta and batch_pairs, and the settings of training; raises SettingError with all faults."""
    defaults = {**DEFAULTS, **PRESETS.get(preset or "", {})}
    usual_beta, usual_pairs = defaults.pop("beta"), defaults.pop("batch_pairs", None)
    by_tokens = settings.get("batch_tokens") is not None
    objective: dict[str, Any] = {
        "beta": usual_beta if beta is None else beta,
        "batch_pairs": batch_pairs or (None if by_tokens else usual_pairs),
    }
    problems = []
    if not steps:
        problems.append("no --step: give one preference file for each step of sDPO")
    if preset is not None and preset not in PRESETS:
        problems.append(f"preset is {preset}, and must be {' or '.join(PRESETS)}")
    if not 0 < objective["beta"] < float("inf"):
        problems.append(f"beta is {beta}, and must be above 0")
    if batch_pairs is not None and batch_pairs < 1:
        problems.append(f"batch_pairs is {batch_pairs}, and must be 1 or more")
    if batch_pairs is not None and by_tokens:
        problems.append("batch_pairs and batch_tokens each say the size of an update; give one")
    if order not in ("given", "easy-to-hard"):
        problems.append(f"order is {order}, and must be given or easy-to-hard")
    if problems:
        raise SettingError("the alignment cannot start:", problems=problems)
    return objective, TrainSettings.of(settings, **defaults)


@dataclass(frozen=True)
class _Reading:
    """What turns a preference file into a step: the model before all steps judges each."""

    model: PreTrainedModel
    digest: str
    tokenizer: TextTokenizer
    template: ChatTemplate
    settings: TrainSettings

    def step(self, file: Path, cache: Path) -> Step:
        length = context_length(self.model, self.settings.sequence_length)
        pairs = Pairs(self.tokenizer, length, self.template)
        store, counts = token_store([file], pairs, self.settings.token_cache)
        logs = reference_logs(cache, self.digest, self.model, store, self.settings)
        return Step(file, store, counts.to_json(), logs, *accuracies(logs, store))


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
