"""Merging checkpoints: the methods are maths, this owns files, types and memory."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dusk.checkpoint import (
    Checkpoint,
    Manifest,
    NewTensor,
    OutputFolder,
    Progress,
    Shard,
    Source,
    TensorEntry,
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
    write_index,
    write_json,
    write_manifest,
)
from dusk.errors import CheckpointError, SettingError
from dusk.merge.alike import require_alike
from dusk.merge.floats import STORED
from dusk.merge.linear import normalised
from dusk.merge.slerp import slerp_weights
from dusk.merge.tensors import Open, angle, same_bytes, write_weighted
from dusk.merge.tokenizers import require_same_tokenizer

DEFAULT_T = 0.5

Weigh = Callable[[Sequence[TensorEntry], Open], tuple[Sequence[float], bool]]
"""The factors of one tensor in each model, and whether the method fell back to the linear mean."""


@dataclass(frozen=True)
class MergeReport:
    """What was merged. `linear_share` is the share of tensors where SLERP fell back to the linear mean."""

    out: Path
    method: str
    weights: tuple[float, ...] | None
    t: float | None
    tensors: int
    linear_tensors: int
    parameters: int
    tensor_bytes: int
    seconds: float
    warnings: tuple[str, ...]

    @property
    def linear_share(self) -> float | None:
        """From 0 to 1; None for the linear method, which has nothing to fall back from."""
        return None if self.t is None else self.linear_tensors / self.tensors

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**asdict(self), "out": str(self.out), "linear_share": self.linear_share}


def merge(
    models: Sequence[str | Path],
    out: str | Path,
    *,
    method: str = "linear",
    weights: Sequence[float] | None = None,
    t: float = DEFAULT_T,
    progress: Progress | None = None,
) -> MergeReport:
    """Merges models (folders or hub ids) of one architecture, size and tokenizer into the folder `out`.

    `linear`: the mean with `weights` (equal unless told; divided by their sum), of two or more models.
    `slerp`: the point `t` (0.5 unless told) of the arc from the first model to the second, tensor by
    tensor. Config, tokenizer and types are those of the first model. Sums are taken in float32 and
    rounded to nearest even; memory does not depend on the models' size.

    Raises `SettingError` for weights, `t` or a number of models that the method cannot have,
    `CheckpointError` for models that do not belong together, `OutputError` when the disk gives up.
    """
    begin = time.perf_counter()
    refuse_existing(Path(out))
    factors, place = _settings(len(models), method, weights, t)
    opened = [open_checkpoint(model) for model in models]
    for checkpoint in opened:
        require_fit(checkpoint)
    warnings = require_alike(opened) + require_same_tokenizer(opened)
    first = opened[0]
    shards = plan_shards(in_byte_order([NewTensor(n, e.dtype, e.shape, e) for n, e in first.tensors.items()]))
    job = _Job(opened, shards, _weigh(factors, place), progress)
    settings = {"method": method} | ({"weights": list(factors)} if factors else {"t": place})
    with OutputFolder(out) as folder:
        folder.require_space(first.total_bytes)
        job.write(folder.path)
        report = MergeReport(
            out=Path(out),
            method=method,
            weights=factors,
            t=place,
            tensors=len(first.tensors),
            linear_tensors=job.linear_tensors,
            parameters=first.parameters,
            tensor_bytes=first.total_bytes,
            seconds=time.perf_counter() - begin,
            warnings=(*warnings, *job.warnings()),
        )
        _describe(folder.path, opened, settings, report)
        folder.commit()
    return report


def _settings(
    count: int, method: str, weights: Sequence[float] | None, t: float
) -> tuple[tuple[float, ...] | None, float | None]:
    """The normalised weights of a linear merge, or the `t` of SLERP."""
    if count < 2:
        raise SettingError(f"A merge needs at least two models; {count} given.")
    if method == "linear":
        if t != DEFAULT_T:
            raise SettingError("`t` belongs to slerp; a linear merge has `weights`.")
        given = [1.0] * count if weights is None else list(weights)
        if len(given) != count:
            raise SettingError(f"{len(given)} weights for {count} models.", remedy="Give one for each.")
        return tuple(normalised(given)), None
    if method != "slerp":
        raise SettingError(
            f"There is no merge method {method!r}.", remedy="The methods are linear and slerp."
        )
    if weights is not None:
        raise SettingError("`weights` belong to a linear merge; slerp has `t`.")
    if count != 2:
        raise SettingError(f"SLERP is between two models; {count} given.", remedy="Merge two at a time.")
    if not 0 <= t <= 1:
        raise SettingError(f"`t` is {t}; it goes from 0 (the first model) to 1 (the second).")
    return None, t


def _weigh(factors: tuple[float, ...] | None, t: float | None) -> Weigh:
    if factors is not None:
        return lambda entries, open_file: (factors, True)

    def on_the_arc(entries: Sequence[TensorEntry], open_file: Open) -> tuple[Sequence[float], bool]:
        between = angle(entries, open_file)
        chosen = slerp_weights(t or 0.0, between.dot, between.first_length, between.second_length)
        return (chosen.first, chosen.second), chosen.is_linear

    return on_the_arc


class _Job:
    """The writing of the merged files; counts what the report tells."""

    def __init__(
        self, models: Sequence[Checkpoint], shards: Sequence[Shard], weigh: Weigh, progress: Progress | None
    ) -> None:
        self.models, self.shards, self.weigh, self.progress = models, shards, weigh, progress
        self.linear_tensors = 0
        self.not_finite: list[str] = []
        self._files: dict[Path, BinaryIO] = {}
        self._stack = ExitStack()

    def write(self, folder: Path) -> None:
        """Writes every shard and the index."""
        total, done = self.models[0].total_bytes, 0
        with self._stack:
            for shard in self.shards:
                with (folder / shard.file_name).open("wb") as target:
                    target.write(shard.header(self.models[0].headers[0].metadata))
                    for tensor in shard.tensors:
                        self._write_tensor(tensor, target)
                        done += tensor.bytes
                        if self.progress:
                            self.progress(done, total)
        write_index(folder, self.shards)

    def warnings(self) -> list[str]:
        """What the merged values show."""
        if not self.not_finite:
            return []
        return [f"{len(self.not_finite)} tensors have values that are not finite: {self.not_finite[:5]}."]

    def _write_tensor(self, tensor: NewTensor, target: BinaryIO) -> None:
        entries = [model.tensors[tensor.name] for model in self.models]
        if tensor.dtype not in STORED:
            self._write_equal(tensor, entries, target)
            return
        weights, is_linear = self.weigh(entries, self._open)
        self.linear_tensors += is_linear
        if write_weighted(entries, weights, self._open, target):
            self.not_finite.append(tensor.name)

    def _write_equal(self, tensor: NewTensor, entries: Sequence[TensorEntry], target: BinaryIO) -> None:
        if not same_bytes(entries, self._open):
            raise CheckpointError(f"{tensor.name} is {tensor.dtype}, which has no mean, and differs.")
        stream = self._open(entries[0])
        stream.seek(entries[0].begin)
        target.write(stream.read(entries[0].bytes))
        self.linear_tensors += 1

    def _open(self, entry: TensorEntry) -> BinaryIO:
        if entry.file not in self._files:
            self._files[entry.file] = self._stack.enter_context(entry.file.open("rb", buffering=0))
        return self._files[entry.file]


def _describe(
    folder: Path, models: Sequence[Checkpoint], settings: dict[str, Any], report: MergeReport
) -> None:
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
        settings=settings,
        versions=installed_versions("numpy"),
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
