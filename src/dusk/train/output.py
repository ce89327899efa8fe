"""What a training command leaves behind: weights, tokenizer, dusk.json and card, whole or not at all."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from dusk.checkpoint import (
    Manifest,
    OutputFolder,
    Source,
    ancestry,
    carry_over,
    installed_versions,
    write_card,
    write_manifest,
)
from dusk.data.stores import file_digest
from dusk.train.model import save_model

_PACKAGES = ("torch", "transformers", "accelerate", "tokenizers")


@dataclass(frozen=True)
class TrainReport:
    """A finished training command: the folder it wrote and what it measured."""

    out: Path
    tokens: int
    seconds: float
    final_loss: float
    results: Mapping[str, Any]


def data_sources(files: Sequence[Path]) -> tuple[Source, ...]:
    """Data files as inputs, with the digests of their bytes."""
    return tuple(Source(str(file.absolute()), file.name, file_digest(file)) for file in files)


def resume_key(command: str, inputs: Sequence[Source], settings: Mapping[str, Any]) -> str:
    """What must be the same for a run to be continued; where the inputs lie does not matter.

    How often to save and how many threads to use may change; the result is the same but for rounding.
    """
    fixed = {name: value for name, value in settings.items() if name not in ("save_every_seconds", "threads")}
    parts = [command, [source.digest for source in inputs], fixed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def finish(
    output: OutputFolder,
    model: PreTrainedModel,
    dtype: torch.dtype,
    *,
    command: str,
    inputs: Sequence[Source],
    parents: Sequence[Path],
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    tokenizer_from: Path | None,
    layer_map: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
) -> None:
    """Write everything into the work folder, drop the training checkpoints, and give it its final name."""
    save_model(model, output.path, dtype)
    if tokenizer_from is not None:
        carry_over(tokenizer_from, output.path)
    if chat_template is not None:
        (output.path / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    manifest = Manifest(
        command=command,
        inputs=tuple(inputs),
        layer_map=layer_map,
        settings=dict(settings),
        versions=installed_versions(*_PACKAGES),
        results=dict(results),
        lineage=ancestry(*parents),
    )
    write_manifest(output.path, manifest)
    write_card(output.path)
    for leftover in output.path.glob("checkpoints*"):
        shutil.rmtree(leftover)
    output.commit()
