"""Merging checkpoints: from models and settings to a folder that says what it is."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dusk.checkpoint import (
    Checkpoint,
    Manifest,
    NewTensor,
    OutputFolder,
    Progress,
    Source,
    ancestry,
    carry_over,
    in_byte_order,
    installed_versions,
    open_checkpoint,
    plan_shards,
    read_manifest,
    refuse_existing,
    require_fit,
    write_card,
    write_json,
    write_manifest,
)
from dusk.checkpoint.shards import SHARD_LIMIT_BYTES
from dusk.errors import CheckpointError, Faults
from dusk.merge.alike import merged_tensors, require_alike
from dusk.merge.methods import DEFAULT_METHOD, Given, Setting, choose_method
from dusk.merge.tokenizers import require_same_tokenizer
from dusk.merge.writing import MergedFiles


@dataclass(frozen=True)
class MergeReport:
    """What was merged. `linear_tensors`: where SLERP fell back to the linear mean; None for other methods."""

    out: Path
    settings: Mapping[str, Any]
    tensors: int
    linear_tensors: int | None
    parameters: int
    tensor_bytes: int
    seconds: float
    warnings: tuple[str, ...]

    @property
    def linear_share(self) -> float | None:
        """The share of tensors that fell back, from 0 to 1; None for a method that does not."""
        return None if self.linear_tensors is None else self.linear_tensors / self.tensors

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**asdict(self), "out": str(self.out), "linear_share": self.linear_share}


def merge(
    models: Sequence[str | Path],
    out: str | Path,
    *,
    method: str = DEFAULT_METHOD,
    weights: Sequence[Setting] | None = None,
    t: Setting | None = None,
    density: Setting | None = None,
    scaling: float | None = None,
    seed: int | None = None,
    base_model: str | Path | None = None,
    progress: Progress | None = None,
) -> MergeReport:
    """Merges models (folders or hub ids) of one architecture, size and tokenizer into the folder `out`.

    `linear`: the mean with `weights` (equal unless told; divided by their sum), of two or more models.
    `slerp`: the point `t` (0.5 unless told) of the arc from the first model to the second, tensor by
    tensor. `task-arithmetic`: `weights` times the models' differences from `base_model`, added to it.
    `ties`: of each difference the share `density` (0.2 unless told) that is largest; of those the mean of the
    elected sign, times `scaling` (1), added to the base. `dare`: of each difference the share `density` (0.1)
    drawn by `seed` (0), enlarged to make up for the rest, times `weights`. `model-stock`: between base and mean,
    by the angles of the differences. `t`, `density` and each weight may be several values, which then stand at
    equal distances over the depth.

    Config, tokenizer and types are those of the first model. Every stored value is the nearest to the sum in
    float64, ties to even; memory does not depend on the models' size.

    Raises `SettingError` for settings or a number of models that the method cannot have,
    `CheckpointError` for models that do not belong together, `OutputError` when the disk gives up.
    """
    begin = time.perf_counter()
    refuse_existing(Path(out))
    chosen = choose_method(
        method, Given(len(models), base_model is not None, weights, t, density, scaling, seed)
    )
    opened = _opened([*models, *([base_model] if base_model else [])])
    warnings = require_same_tokenizer(opened) + require_alike(opened)
    kept = merged_tensors(opened[0])
    tensor_bytes = sum(entry.bytes for entry in kept.values())
    tensors = in_byte_order([NewTensor(n, e.dtype, e.shape, e) for n, e in kept.items()])
    shards = plan_shards(tensors, SHARD_LIMIT_BYTES)
    files = MergedFiles(opened, shards, chosen, progress)
    with OutputFolder(out) as folder:
        folder.require_space(tensor_bytes)
        files.write(folder.path)
        report = MergeReport(
            out=Path(out),
            settings=chosen.settings(),
            tensors=len(kept),
            linear_tensors=len(files.linear) if method == "slerp" else None,
            parameters=sum(entry.elements for entry in kept.values()),
            tensor_bytes=tensor_bytes,
            seconds=time.perf_counter() - begin,
            warnings=(*warnings, *_value_warnings(files.not_finite)),
        )
        _describe(folder.path, opened, report)
        folder.commit()
    return report


def _opened(models: Sequence[str | Path]) -> list[Checkpoint]:
    opened, faults = [], Faults(CheckpointError)
    for model in dict.fromkeys(models):
        with faults:
            checkpoint = open_checkpoint(model)
            require_fit(checkpoint)
            opened.append((model, checkpoint))
    faults.raise_any(f"{len(faults)} of {len(models)} models cannot be merged:")
    found = dict(opened)
    return [found[model] for model in models]


def _value_warnings(not_finite: Sequence[str]) -> list[str]:
    if not not_finite:
        return []
    return [f"{len(not_finite)} tensors have values that are not finite: {list(not_finite[:5])}."]


def _describe(folder: Path, models: Sequence[Checkpoint], report: MergeReport) -> None:
    write_json(folder / "config.json", models[0].config)
    carry_over(models[0].path, folder)
    results = {
        "parameters": report.parameters,
        "tensors": report.tensors,
        **({} if report.linear_share is None else {"linear_share": report.linear_share}),
        "seconds": round(report.seconds, 3),
    }
    manifest = Manifest(
        command="merge",
        inputs=tuple(Source.of(model) for model in models),
        layer_map=_common_layer_map(models),
        settings=report.settings,
        versions=installed_versions("numba", "numpy"),
        results=results,
        lineage=ancestry(*(model.path for model in models)),
    )
    write_manifest(folder, manifest)
    write_card(folder)


def _common_layer_map(models: Sequence[Checkpoint]) -> Mapping[str, Any] | None:
    """The layer map that made all of these models; None where they have none or different ones."""
    manifests = [read_manifest(model.path) for model in models]
    maps = [manifest.layer_map if manifest else None for manifest in manifests]
    return maps[0] if all(layer_map == maps[0] for layer_map in maps) else None
