"""What a training command leaves behind: weights, tokenizer, dusk.json and card, whole or not at all."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from transformers import PreTrainedModel

from dusk.checkpoint import (
    Manifest,
    OutputFolder,
    Source,
    ancestry,
    carry_over,
    data_licenses,
    installed_versions,
    read_manifest,
    write_card,
    write_manifest,
)
from dusk.data.encode import TextTokenizer
from dusk.data.jinja_template import ChatTemplate
from dusk.data.stores import file_digest
from dusk.errors import DataError
from dusk.train.distribution import from_main, on_main, rank
from dusk.train.lora import Adapters
from dusk.train.model import save_model
from dusk.train.vocabulary import TEMPLATE_FILE, chat_template, save_added_tokens, stop_at

_PACKAGES = ("torch", "transformers", "accelerate", "tokenizers")

DATA_LICENSES = "data_licenses"  # in results, of this run and of those before it
_MAY_CHANGE = ("save_every_seconds", "threads", "report_to", "spike_guard", "token_cache")

Files = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class TrainReport:
    """A finished training command: the folder it wrote and what it measured."""

    out: Path
    tokens: int
    seconds: float
    final_loss: float
    results: Mapping[str, Any]

    @classmethod
    def of(cls, out: Path, results: Mapping[str, Any]) -> Self:
        """From the results of dusk.json."""
        return cls(out, results["tokens"], results["seconds"], results["final_loss"], results)


@dataclass(frozen=True)
class Tuned:
    """What a chat model has besides weights: its template, and the tokenizer whose EOS ends an answer."""

    template: ChatTemplate
    tokenizer: TextTokenizer


def data_files(given: Files) -> list[Path]:
    """Data files as paths; one alone may be given without a list.

    Raises:
        DataError: some are no files; all of them are named.
    """
    files = [Path(file) for file in ([given] if isinstance(given, str | Path) else given)]
    missing = [
        f"{file} {'is a folder' if file.is_dir() else 'does not exist'}"
        for file in files
        if not file.is_file()
    ]
    if missing:
        raise DataError("the data cannot be read:", problems=missing, remedy="Give files, jsonl or parquet.")
    return files


def data_sources(files: Sequence[Path]) -> tuple[Source, ...]:
    """Data files as inputs, with the digests of their bytes."""
    return tuple(Source(str(file.absolute()), file.name, file_digest(file)) for file in files)


def resume_key(command: str, inputs: Sequence[Source], settings: Mapping[str, Any]) -> str:
    """What must be the same for a run to be continued; where the inputs lie does not matter.

    How often to save and how many threads to use may change; the result is the same but for rounding. The spike
    guard may be added to a run that diverged: it goes on from before.
    """
    fixed = {name: value for name, value in settings.items() if name not in _MAY_CHANGE}
    parts = [command, [source.digest for source in inputs], fixed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class SharedOutput:
    """The output folder as all ranks see it: rank 0 owns it (`OutputFolder`), and what it refuses, all raise."""

    def __init__(self, out: str | Path, resume_key: str) -> None:
        self._owned = OutputFolder(out, resume_key)
        self.out, self.path = self._owned.out, self._owned.path
        self.resumed = False

    def __enter__(self) -> Self:
        on_main(self._owned.__enter__)
        self.resumed = from_main(lambda: self._owned.resumed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if rank() == 0:
            self._owned.__exit__(kind, error, trace)

    def commit(self) -> None:
        """Give it its final name; rank 0 does."""
        self._owned.commit()


def finish(
    output: SharedOutput,
    model: PreTrainedModel,
    dtype: torch.dtype,
    *,
    command: str,
    inputs: Sequence[Source],
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    start: Path | None = None,
    tuned: Tuned | None = None,
    lora: Adapters | None = None,
) -> None:
    """Write everything into the work folder, drop the training checkpoints, and give it its final name.

    `start` is the model that was trained, if it was one: its companions come along, and its lineage. Adapters
    are merged.
    """
    save_model(model, output.path, dtype, lora)
    on_main(lambda: _finish(output, command, inputs, settings, results, start, tuned))


def _finish(
    output: SharedOutput,
    command: str,
    inputs: Sequence[Source],
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    start: Path | None,
    tuned: Tuned | None,
) -> None:
    """What goes beside the weights, and the name."""
    if start is not None:
        (output.path / "generation_config.json").unlink(missing_ok=True)  # the start's own, or none
        carry_over(start, output.path)
    if tuned is not None:
        jinja = chat_template(tuned.template, output.path, tuned.tokenizer)
        (output.path / TEMPLATE_FILE).write_text(jinja, encoding="utf-8")
        save_added_tokens(output.path, tuned.tokenizer)
        stop_at(output.path, tuned.tokenizer)
    before = read_manifest(start) if start is not None else None
    licenses = data_licenses(inputs).union(before.results.get(DATA_LICENSES, []) if before else [])
    manifest = Manifest(
        command=command,
        inputs=tuple(inputs),
        layer_map=before.layer_map if before else None,
        settings=dict(settings),
        versions=installed_versions(*_PACKAGES),
        results={**results, DATA_LICENSES: sorted(licenses)},
        lineage=ancestry(start) if start is not None else (),
    )
    write_manifest(output.path, manifest)  # last of the contents: see `finished_before`
    _commit(output)


def layer_map_of(start: Path | None) -> Mapping[str, Any] | None:
    """The layer map that a model's dusk.json holds, if it has both."""
    manifest = from_main(lambda: read_manifest(start)) if start is not None else None
    return manifest.layer_map if manifest is not None else None


def finished_before(output: SharedOutput) -> TrainReport | None:
    """The report of a run that was killed when only its name was missing; gives it the name."""
    manifest = from_main(lambda: read_manifest(output.path) if output.resumed else None)
    if manifest is None:
        return None
    on_main(lambda: _commit(output))
    return TrainReport.of(output.out, manifest.results)


def _commit(output: SharedOutput) -> None:
    write_card(output.path)
    for leftover in output.path.glob("checkpoints*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    output.commit()
