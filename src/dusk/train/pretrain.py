"""Continued pretraining, and pretraining from scratch."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from dusk.checkpoint import Source, open_checkpoint
from dusk.data.encode import TextTokenizer
from dusk.data.kinds import Kind
from dusk.data.mixture import Mixture, require_shares, split_shares
from dusk.data.readers import read_rows
from dusk.data.stores import Counts, Texts, file_digest
from dusk.data.tokenizer import save_tokenizer, train_tokenizer
from dusk.errors import DataError, SettingError
from dusk.train.distribution import distributed, from_main, on_main
from dusk.train.fit import fit
from dusk.train.model import (
    configured_dtype,
    context_length,
    load_model,
    new_model,
    result_dtype,
    saved_dtype,
)
from dusk.train.objectives import NextToken
from dusk.train.output import (
    Files,
    SharedOutput,
    TrainReport,
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
from dusk.train.vocabulary import load_tokenizer

_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")  # in the order of their writing


@distributed
def pretrain(
    model: str | Path | None,
    out: str | Path,
    *,
    data: Files,
    shares: Sequence[float] | None = None,
    from_scratch: str | Path | None = None,
    eval_data: Files = (),
    progress: Progress | None = None,
    **settings: Any,
) -> TrainReport:
    """Continue the pretraining of `model` on plain text, or train `from_scratch` (a config.json).

    `shares`: of the tokens, one for each file of data, such as 0.9 and 0.1 for a replay of what the base was
    trained on (or `FILE=0.9` as data); without them each file counts by its size. `settings` are those of
    `TrainSettings`. SOLAR, section 3.1: a depthwise scaled model recovers by continued pretraining; how much and
    at what rate the paper does not say.

    From scratch, a tokenizer.json beside the config is taken, or else a byte-level BPE of the config's
    vocabulary is trained on the data.

    Raises:
        InputError: model, data or settings that cannot be used, or OUT exists.
        WorkError: the loss is not finite, or the disk refuses.
    """
    if (model is None) == (from_scratch is None):
        raise SettingError("give either a model to continue or a config to start --from-scratch, not both")
    chosen = TrainSettings.of(settings)
    named, mixed = split_shares([data] if isinstance(data, str | Path) else data)
    shares = mixed if shares is None else shares
    files, heldout_files = data_files(named), data_files(eval_data)
    if shares is not None:
        require_shares(shares, len(files))
    recorded = chosen.to_json() | ({"shares": list(shares)} if shares is not None else {})
    start = _continued(model) if model is not None else _scratch(Path(str(from_scratch)))
    inputs = (start.source, *data_sources([*files, *heldout_files]))
    with SharedOutput(out, resume_key("pretrain", inputs, recorded)) as output:
        if report := finished_before(output):
            return report
        network = start.network(chosen.seed)
        ready = prepared(network, chosen, layer_map_of(start.folder))
        tokenizer = start.tokenizer(network, files, output.path)
        texts = Texts(tokenizer, context_length(network, chosen.sequence_length))
        store, counts = token_store(files, texts, chosen.token_cache)
        mixture = _mixture(files, counts, shares) if shares is not None else None
        heldout = token_store(heldout_files, texts, chosen.token_cache)[0] if heldout_files else None
        fitted = fit(
            network,
            store,
            NextToken(),
            chosen,
            output.path,
            rates=ready.rates,
            mixture=mixture,
            heldout=heldout,
            progress=progress,
        )
        results = fitted.to_json() | {"data": counts.to_json()}
        finish(
            output,
            network,
            result_dtype(start.dtype, chosen.save_dtype),
            command="pretrain",
            inputs=inputs,
            settings=recorded,
            results=results,
            start=start.folder,
            lora=ready.adapters,
        )
    return TrainReport.of(output.out, results)


def _mixture(files: Sequence[Path], counts: Counts, shares: Sequence[float]) -> Mixture:
    """How the files are mixed; raises DataError where one has nothing to give."""
    empty = [str(file) for file, documents in zip(files, counts.by_file, strict=True) if not documents]
    if empty:
        raise DataError(
            "no row is left to train on in files that have a share:",
            problems=empty,
            remedy="Give files with text, or leave these out.",
        )
    return Mixture(tuple(counts.by_file), tuple(shares))


@dataclass(frozen=True)
class _Start:
    """Where a run starts: the folder of a model, or a config.json for random weights."""

    source: Source
    dtype: torch.dtype
    folder: Path | None = None
    config: Path | None = None

    def network(self, seed: int) -> PreTrainedModel:
        if self.folder is not None:
            return load_model(self.folder)
        assert self.config is not None
        return new_model(self.config, seed)

    def tokenizer(self, network: PreTrainedModel, files: Sequence[Path], work: Path) -> TextTokenizer:
        """The model's own, or the one beside the config, or one trained on the data and kept in `work`."""
        if self.folder is not None:
            return load_tokenizer(self.folder, network)
        assert self.config is not None
        beside = self.config.parent
        if not from_main((work / _TOKENIZER_FILES[-1]).exists):
            on_main(lambda: _make_tokenizer(beside, network, files, work))
        tokenizer = load_tokenizer(work, network)
        network.config.bos_token_id, network.config.eos_token_id = tokenizer.bos, tokenizer.eos
        network.generation_config = GenerationConfig.from_model_config(network.config)
        return tokenizer


def _continued(model: str | Path) -> _Start:
    checkpoint = open_checkpoint(model)
    return _Start(Source.of(checkpoint), saved_dtype(checkpoint), folder=checkpoint.path)


def _scratch(config: Path) -> _Start:
    if not config.is_file():
        raise SettingError(f"--from-scratch: {config} is no file", remedy="Give a config.json of a model.")
    source = Source(str(config.absolute()), config.name, _config_digest(config))
    return _Start(source, configured_dtype(config), config=config)


def _config_digest(config: Path) -> str:
    """Of the config, and of the tokenizer beside it if there is one."""
    beside = config.parent / "tokenizer.json"
    return file_digest(config) + (f"+{file_digest(beside)}" if beside.exists() else "")


def _make_tokenizer(beside: Path, network: PreTrainedModel, files: Sequence[Path], work: Path) -> None:
    """The tokenizer's files into `work`, the one that says that they are there last."""
    with tempfile.TemporaryDirectory(dir=work, prefix="checkpoints-tokenizer-") as passing:
        folder = Path(passing)
        if (beside / "tokenizer.json").exists():
            for name in _TOKENIZER_FILES:
                if (beside / name).exists():
                    shutil.copyfile(beside / name, folder / name)
        else:
            rows = (row for file in files for row in read_rows(file, kinds=[Kind.TEXT]))
            trained = train_tokenizer((row.fields["text"] for row in rows), network.config.vocab_size)
            save_tokenizer(trained, folder, context=context_length(network, None))
        for name in _TOKENIZER_FILES:
            if (folder / name).exists():
                (folder / name).replace(work / name)
