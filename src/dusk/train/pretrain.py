"""Continued pretraining, and pretraining from scratch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from dusk.checkpoint import OutputFolder, Source, open_checkpoint, read_manifest, resolve
from dusk.data.encode import TextTokenizer
from dusk.data.readers import read_rows
from dusk.data.stores import file_digest, text_store
from dusk.data.tokenizer import save_tokenizer, train_tokenizer
from dusk.errors import SettingError
from dusk.train.fit import fit
from dusk.train.model import context_length, load_model, load_tokenizer, new_model, saved_dtype
from dusk.train.objectives import NextToken, output_head
from dusk.train.output import TrainReport, data_sources, finish, resume_key
from dusk.train.settings import TrainSettings
from dusk.train.trainer import Progress


def pretrain(
    model: str | Path | None,
    out: str | Path,
    *,
    data: Sequence[str | Path],
    from_scratch: str | Path | None = None,
    eval_data: Sequence[str | Path] = (),
    progress: Progress | None = None,
    **settings: Any,
) -> TrainReport:
    """Continue the pretraining of `model` on plain text, or train `from_scratch` (a config.json).

    `settings` are those of `TrainSettings`. SOLAR, section 3.1: a depthwise scaled model recovers by
    continued pretraining; how much and at what rate the paper does not say.

    From scratch, a tokenizer.json beside the config is taken, or else a byte-level BPE of the config's
    vocabulary is trained on the data.

    Raises:
        InputError: model, data or settings that cannot be used, or OUT exists.
        WorkError: the loss is not finite, or the disk refuses.
    """
    if (model is None) == (from_scratch is None):
        raise SettingError("give either a model to continue or a config to start --from-scratch, not both")
    chosen = TrainSettings.of(settings)
    files, heldout_files = [Path(file) for file in data], [Path(file) for file in eval_data]
    start = (
        _Start.continued(model) if model is not None else _Start.scratch(Path(str(from_scratch)), chosen.seed)
    )
    inputs = (start.source, *data_sources([*files, *heldout_files]))
    with OutputFolder(out, resume_key("pretrain", inputs, chosen.to_json())) as output:
        network = start.network()
        output_head(network)
        tokenizer = start.tokenizer(network, files, output.path)
        length = context_length(network, chosen.sequence_length)
        store, counts = text_store(files, tokenizer, sequence_length=length)
        heldout = text_store(heldout_files, tokenizer, sequence_length=length)[0] if heldout_files else None
        report = fit(network, store, NextToken(), chosen, output.path, heldout=heldout, progress=progress)
        results = report.to_json() | {"data": counts.to_json()}
        finish(
            output,
            network,
            start.dtype,
            command="pretrain",
            inputs=inputs,
            parents=start.parents,
            settings=chosen.to_json(),
            results=results,
            tokenizer_from=start.folder,
            layer_map=start.layer_map,
        )
    return TrainReport(output.out, report.tokens, report.seconds, report.final_loss, results)


class _Start:
    """Where a run starts: an existing model, or a config with random weights."""

    def __init__(
        self, source: Source, dtype: torch.dtype, folder: Path | None, config: Path | None, seed: int
    ):
        self.source, self.dtype, self.folder, self.config, self.seed = source, dtype, folder, config, seed
        manifest = read_manifest(folder) if folder else None
        self.layer_map = manifest.layer_map if manifest else None
        self.parents = [folder] if folder else []

    @classmethod
    def continued(cls, model: str | Path) -> "_Start":
        checkpoint = open_checkpoint(model)
        return cls(Source.of(checkpoint), saved_dtype(checkpoint.config), resolve(model), None, 0)

    @classmethod
    def scratch(cls, config: Path, seed: int) -> "_Start":
        if not config.is_file():
            raise SettingError(
                f"--from-scratch: {config} is no file", remedy="Give a config.json of a model."
            )
        named = json.loads(config.read_text())
        source = Source(str(config.absolute()), config.name, file_digest(config))
        folder = config.parent if (config.parent / "tokenizer.json").exists() else None
        return cls(source, saved_dtype(named), folder, config, seed)

    def network(self) -> PreTrainedModel:
        if self.config is not None:
            return new_model(self.config, self.seed)
        assert self.folder is not None
        return load_model(self.folder)

    def tokenizer(self, network: PreTrainedModel, files: Sequence[Path], work: Path) -> TextTokenizer:
        if self.folder is not None:
            return load_tokenizer(self.folder, network)
        if not (work / "tokenizer.json").exists():
            texts = (str(row.fields.get("text", "")) for file in files for row in read_rows(file))
            trained = train_tokenizer(texts, network.config.vocab_size)
            save_tokenizer(trained, work, context=context_length(network, None))
        return load_tokenizer(work, network)
