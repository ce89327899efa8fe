"""Depth up-scaling of a checkpoint: every tensor of the result is a range of bytes of the base."""

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

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
    can_share,
    carry_over,
    deepen_config,
    in_byte_order,
    open_checkpoint,
    plan_shards,
    refuse_existing,
    write_card,
    write_copies,
    write_json,
    write_manifest,
)
from dusk.checkpoint.digests import folder_digests
from dusk.checkpoint.expected import HEAD, has_redundant_head
from dusk.checkpoint.shards import SHARD_LIMIT_BYTES
from dusk.layers import LayerMap
from dusk.scale.architecture import Architecture
from dusk.scale.choice import DEFAULT_RULE, choose_map
from dusk.scale.form import Form
from dusk.scale.identity import constant_bytes, constant_parts, model_type, require_identity

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class ScaleReport:
    """What was made, or with `dry_run` would be made. `warnings` call for attention, `notes` inform.

    `shared_bytes` of the tensors take no room: the file system shares them with the base.
    """

    out: Path
    layer_map: LayerMap
    base_parameters: int
    parameters: int
    tensor_bytes: int
    shared_bytes: int
    files: tuple[str, ...]
    disk_left_bytes: int
    dry_run: bool
    seconds: float
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**vars(self), "out": str(self.out), "layer_map": self.layer_map.to_json()}


def scale(
    base: str | Path,
    out: str | Path,
    *,
    drop: int | None = None,
    to: int | None = None,
    params: int | str | None = None,
    layers: str | LayerMap | None = None,
    fresh: str = "copy",
    rule: str = DEFAULT_RULE,
    architecture: Architecture | None = None,
    skips: str | None = None,
    skip_weights: Sequence[float] | None = None,
    pad_vocabulary: int | None = None,
    with_remote_code: bool = False,
    digest: bool = False,
    allow_pickle: bool = False,
    dry_run: bool = False,
    shard_limit_bytes: int = SHARD_LIMIT_BYTES,
    progress: Progress | None = None,
) -> ScaleReport:
    """Depth up-scales the checkpoint `base` (folder or hub id) into the new folder `out`.

    One of `drop` (the paper's m), `to` (layers), `params` (such as `"11B"`, the nearest map) and `layers`
    (such as `"0-23,8-31"`) chooses the map; without any, a quarter of the layers is dropped on each side
    of the seam (SOLAR 10.7B, arXiv 2312.15166, section 2). `rule` makes another map of that size
    (`dusk.scale.rules`). `fresh="identity"` zeroes the residual outputs of every later occurrence of a layer.

    `architecture` writes a base of the Llama family (Llama, Mistral, Phi-3, Solar Pro) as `llama` or
    `solar-pro`. `skips` gives the result block skip connections: `published` (Solar Pro's, at another depth in
    proportion), `none`, or pairs store-use such as `"3-5,6-9"` of layers of the result; `skip_weights` are the
    stored state's in training and inference. `pad_vocabulary` appends rows of zeros up to that number.
    `with_remote_code` writes Solar Pro's classes into the folder.

    `digest` writes a SHA-256 of every tensor and file into dusk.json, which `verify` compares with: computed
    while copying, or by reading what the file system shares.

    `allow_pickle` also takes a base of .bin files, and runs nothing of what they may hold.

    With `dry_run` nothing is written. `progress` is told the bytes written and the bytes in all.

    Raises `InputError` for a base that is not whole, a map that does not fit it or an `out` that exists,
    `OutputError` when the disk gives up.
    """
    begin = time.perf_counter()
    refuse_existing(Path(out))
    form = Form(architecture, skips, skip_weights, pad_vocabulary, with_remote_code)
    opened = _without_tied_head(open_checkpoint(base, allow_pickle=allow_pickle))
    checkpoint, seen = form.base(opened)
    layer_map, notes = choose_map(
        checkpoint, drop=drop, to=to, params=params, layers=layers, fresh=fresh, rule=rule
    )
    if any(layer_map.fresh):
        require_identity(checkpoint, layer_map)
    config, changed = deepen_config(checkpoint.config, checkpoint.layout, layer_map)
    config, formed = form.config(config, len(layer_map))
    tensors = form.tensors(deeper_tensors(checkpoint, layer_map), checkpoint)
    shards = plan_shards(in_byte_order(tensors), shard_limit_bytes)
    settings = {
        "drop": drop,
        "to": to,
        "params": params,
        "layers": layer_map.spec(),
        "fresh": fresh,
        "rule": rule,
    }
    settings |= form.to_json()
    plan = _Plan(opened, form, layer_map, config, shards, settings, begin)
    shared_bytes = 0 if dry_run else _write(plan, Path(out), progress, digest=digest)
    return plan.report(Path(out), dry_run, shared_bytes, (*seen, *notes, *changed, *formed))


def _without_tied_head(base: Checkpoint) -> Checkpoint:
    """A .bin file names a tied head beside the embedding, as the same bytes: stored once, as safetensors do."""
    if not has_redundant_head(base.config, base.tensors):
        return base
    places = Counter((entry.file, entry.begin) for entry in base.tensors.values())
    head = base.tensors[HEAD]
    if places[head.file, head.begin] == 1:
        return base
    return replace(base, tensors={name: entry for name, entry in base.tensors.items() if name != HEAD})


def deeper_tensors(base: Checkpoint, layer_map: LayerMap) -> list[NewTensor]:
    """The tensors of the deeper model, each with the bytes of the base that fill it."""
    layout, kind = base.layout, model_type(base.layout.scope(base.config))
    tensors = []
    per_layer: dict[int, list[str]] = {layer: [] for layer in range(layout.layers)}
    for name, entry in base.tensors.items():
        split = layout.split(name)
        if split is None:
            tensors.append(NewTensor(layout.outside(name, len(layer_map)), entry.dtype, entry.shape, entry))
        else:
            per_layer[split[0]].append(split[1])
    for target, (layer, fresh) in enumerate(zip(layer_map.source, layer_map.fresh, strict=True)):
        constants = constant_parts(per_layer[layer], kind) or {} if fresh else {}
        for part in filter(partial(layout.has_place, target), per_layer[layer]):
            entry = base.tensors[layout.name(layer, part)]
            name = layout.name(target, part)
            if part in constants:
                element = constant_bytes(entry.dtype, constants[part])
                tensors.append(NewTensor(name, entry.dtype, entry.shape, None, element))
            else:
                tensors.append(NewTensor(name, entry.dtype, entry.shape, entry))
    return tensors


@dataclass(frozen=True)
class _Plan:
    base: Checkpoint
    form: Form
    layer_map: LayerMap
    config: Mapping[str, Any]
    shards: Sequence[Shard]
    settings: Mapping[str, Any]
    begin: float

    @property
    def tensor_bytes(self) -> int:
        return sum(shard.data_bytes for shard in self.shards)

    @property
    def parameters(self) -> int:
        return sum(prod(tensor.shape) for shard in self.shards for tensor in shard.tensors)

    @property
    def copied(self) -> list[TensorEntry]:
        """What of the base stands in the result."""
        return [tensor.source for shard in self.shards for tensor in shard.tensors if tensor.source]

    def manifest(self, shared_bytes: int) -> Manifest:
        """The manifest of the result."""
        return Manifest(
            command="scale",
            inputs=(Source.of(self.base, copied=self.copied),),
            layer_map=self.layer_map.to_json(),
            settings={key: value for key, value in self.settings.items() if value is not None},
            results={
                "layers": len(self.layer_map),
                "parameters": self.parameters,
                "bytes": self.tensor_bytes,
                "shared_bytes": shared_bytes,
                "seconds": round(time.perf_counter() - self.begin, 3),
            },
            lineage=ancestry(self.base.path),
        )

    def report(self, out: Path, dry_run: bool, shared_bytes: int, notes: tuple[str, ...]) -> ScaleReport:
        """What the caller is told."""
        free = shutil.disk_usage(_existing(out.absolute())).free
        short = dry_run and free < self.tensor_bytes
        return ScaleReport(
            out=out,
            layer_map=self.layer_map,
            base_parameters=self.base.parameters,
            parameters=self.parameters,
            tensor_bytes=self.tensor_bytes,
            shared_bytes=shared_bytes,
            files=tuple(shard.file_name for shard in self.shards),
            disk_left_bytes=free,
            dry_run=dry_run,
            seconds=time.perf_counter() - self.begin,
            notes=notes,
            warnings=(*self.layer_map.warnings(), *(["The disk has too little room left."] if short else [])),
        )


def _write(plan: _Plan, out: Path, progress: Progress | None, *, digest: bool) -> int:
    """Writes the folder; how many bytes the file system shares with the base."""
    with OutputFolder(out) as folder:
        if not all(can_share(header.file, folder.path) for header in plan.base.headers):
            folder.require_space(plan.tensor_bytes)
        metadata = plan.base.headers[0].metadata
        digests: dict[str, str] | None = {} if digest else None
        shared_bytes = write_copies(folder.path, plan.shards, metadata, progress, digests)
        write_json(folder.path / CONFIG_FILE, plan.config)
        carry_over(plan.base.path, folder.path)
        plan.form.finish(folder.path)
        manifest = plan.manifest(shared_bytes)
        if digests is not None:
            written = open_checkpoint(folder.path)
            manifest = manifest.sealed(folder_digests(written, known=digests))
        write_manifest(folder.path, manifest)
        write_card(folder.path)
        folder.commit()
    return shared_bytes


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
