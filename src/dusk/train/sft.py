"""Instruction tuning: cross-entropy on the answers alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dusk.checkpoint import OutputFolder, Source, open_checkpoint, read_manifest
from dusk.data.stores import chat_store
from dusk.data.templates import template as template_called
from dusk.train.fit import fit
from dusk.train.model import context_length, load_model, load_tokenizer, saved_dtype
from dusk.train.objectives import NextToken, output_head
from dusk.train.output import TrainReport, data_sources, finish, resume_key
from dusk.train.settings import TrainSettings
from dusk.train.trainer import Progress

DEFAULTS: dict[str, Any] = {
    "learning_rate": 2e-5,
    "schedule": "cosine",
    "warmup": 0.1,
    "weight_decay": 0.0,
}
"""Zephyr's (Tunstall et al. 2023, section 4.3), to which SOLAR points for its preprocessing; SOLAR prints none."""


def sft(
    model: str | Path,
    out: str | Path,
    *,
    data: Sequence[str | Path],
    template: str = "solar",
    eval_data: Sequence[str | Path] = (),
    progress: Progress | None = None,
    **settings: Any,
) -> TrainReport:
    """Tune `model` to follow instructions, on rows with `messages` or with `prompt` and `completion`.

    Answers are what is trained, with the end-of-text token behind each; `template` writes the turns.
    `settings` are those of `TrainSettings`. SOLAR, section 3.2.

    Raises:
        InputError: model, data, template or settings that cannot be used, or OUT exists.
        WorkError: the loss is not finite, or the disk refuses.
    """
    chosen, turns = TrainSettings.of(settings, **DEFAULTS), template_called(template)
    files, heldout_files = [Path(file) for file in data], [Path(file) for file in eval_data]
    start = open_checkpoint(model)
    inputs = (Source.of(start), *data_sources([*files, *heldout_files]))
    recorded = chosen.to_json() | {"template": template}
    with OutputFolder(out, resume_key("sft", inputs, recorded)) as output:
        network = load_model(start.path)
        output_head(network)
        tokenizer = load_tokenizer(start.path, network)
        length = context_length(network, chosen.sequence_length)
        store, counts = chat_store(files, tokenizer, turns, sequence_length=length)
        heldout = None
        if heldout_files:
            heldout, _ = chat_store(heldout_files, tokenizer, turns, sequence_length=length)
        report = fit(network, store, NextToken(), chosen, output.path, heldout=heldout, progress=progress)
        results = report.to_json() | {"data": counts.to_json()}
        manifest = read_manifest(start.path)
        finish(
            output,
            network,
            saved_dtype(start.config),
            command="sft",
            inputs=inputs,
            parents=[start.path],
            settings=recorded,
            results=results,
            tokenizer_from=start.path,
            layer_map=manifest.layer_map if manifest else None,
            chat_template=turns.jinja,
        )
    return TrainReport(output.out, report.tokens, report.seconds, report.final_loss, results)
