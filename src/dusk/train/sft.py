"""Instruction tuning: cross-entropy on the answers alone."""

from pathlib import Path
from typing import Any

from dusk.checkpoint import Source, open_checkpoint
from dusk.data.stores import Chats
from dusk.train.distribution import distributed
from dusk.train.fit import fit
from dusk.train.model import context_length, load_model, result_dtype, saved_dtype
from dusk.train.objectives import NextToken
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
from dusk.train.tokens import token_store
from dusk.train.trainer import Progress
from dusk.train.vocabulary import add_tokens, load_tokenizer, template_for

DEFAULTS: dict[str, Any] = {
    "learning_rate": 2e-5,
    "schedule": "cosine",
    "warmup": 0.1,
    "weight_decay": 0.0,
}
"""Zephyr's (Tunstall et al. 2023, section 4.3), to which SOLAR points for its preprocessing; SOLAR prints none."""


@distributed
def sft(
    model: str | Path,
    out: str | Path,
    *,
    data: Files,
    template: str | None = None,
    eval_data: Files = (),
    progress: Progress | None = None,
    **settings: Any,
) -> TrainReport:
    """Tune `model` to follow instructions, on rows with `messages` or with `prompt` and `completion`.

    Answers are what is trained, with the end-of-text token behind each; `template` writes the turns: solar,
    alpaca, chatml, or tokenizer for the model's own; by default its own if it has one, else SOLAR's. `settings`
    are those of `TrainSettings`. SOLAR, section 3.2.

    Raises:
        InputError: model, data, template or settings that cannot be used, or OUT exists.
        WorkError: the loss is not finite, or the disk refuses.
    """
    chosen = TrainSettings.of(settings, **DEFAULTS)
    files, heldout_files = data_files(data), data_files(eval_data)
    start = open_checkpoint(model)
    turns = template_for(start.path, template)
    inputs = (Source.of(start), *data_sources([*files, *heldout_files]))
    recorded = chosen.to_json() | {"template": turns.name}
    with SharedOutput(out, resume_key("sft", inputs, recorded)) as output:
        if report := finished_before(output):
            return report
        network = load_model(start.path)
        tokenizer = load_tokenizer(start.path, network)
        add_tokens(tokenizer, turns, network, chosen)
        ready = prepared(network, chosen, layer_map_of(start.path))
        chats = Chats(tokenizer, context_length(network, chosen.sequence_length), turns)
        store, counts = token_store(files, chats, chosen.token_cache)
        heldout = None
        if heldout_files:
            heldout, _ = token_store(heldout_files, chats, chosen.token_cache)
        fitted = fit(
            network,
            store,
            NextToken(),
            chosen,
            output.path,
            rates=ready.rates,
            heldout=heldout,
            progress=progress,
        )
        results = fitted.to_json() | {"data": counts.to_json()}
        finish(
            output,
            network,
            result_dtype(saved_dtype(start), chosen.save_dtype),
            command="sft",
            inputs=inputs,
            settings=recorded,
            results=results,
            start=start.path,
            tuned=Tuned(turns, tokenizer),
            lora=ready.adapters,
        )
    return TrainReport.of(output.out, results)
