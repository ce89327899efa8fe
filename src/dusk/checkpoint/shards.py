"""Safetensors files to write: which tensor goes into which file, headers, the index over them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from dusk.checkpoint.folder import INDEX_FILE, WEIGHTS_FILE
from dusk.checkpoint.header import DTYPE_BITS, LENGTH_BYTES
from dusk.checkpoint.manifest import write_json
from dusk.checkpoint.pickles import PICKLE_SUFFIX
from dusk.checkpoint.runs import NewTensor, Run, parts_of, runs

SHARD_LIMIT_BYTES = 5_000_000_000
OWN_FILE_BYTES = 16 << 20  # a run of this length begins a file; what shorter ones cost is not felt
BLOCK_BYTES = 64 << 10  # a file system shares whole blocks; those of XFS and btrfs are at most so large
_ALIGNMENT_BYTES = 8


@dataclass(frozen=True)
class Shard:
    """A file of the output: its tensors in the order of their bytes."""

    file_name: str
    tensors: tuple[NewTensor, ...]

    @property
    def data_bytes(self) -> int:
        """The size of its tensors in bytes."""
        return sum(tensor.bytes for tensor in self.tensors)

    def header(self, metadata: Mapping[str, str]) -> bytes:
        """The length and the JSON text, padded with spaces so that the data begin aligned.

        Where the file begins with a long run, its bytes get the place within a block that they have in
        the source: a file system shares blocks only so.
        """
        fields: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        position = 0
        for tensor in self.tensors:
            fields[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": [position, position + tensor.bytes],
            }
            position += tensor.bytes
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
        place, period = _data_place(self.tensors)
        text += b" " * ((place - LENGTH_BYTES - len(text)) % period)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text


def plan_shards(tensors: Sequence[NewTensor], limit_bytes: int = SHARD_LIMIT_BYTES) -> list[Shard]:
    """The tensors in their order, cut into files of at most `limit_bytes` or one tensor each.

    A long run begins a file of its own, so that the header can align it; short ones follow what is there.
    The files are the same on every file system.
    """
    groups = [_aligned(group) for group in _groups(tensors, limit_bytes)]
    if len(groups) == 1:
        return [Shard(WEIGHTS_FILE, tuple(groups[0]))]
    return [
        Shard(f"model-{number:05}-of-{len(groups):05}.safetensors", tuple(group))
        for number, group in enumerate(groups, start=1)
    ]


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """Writes model.safetensors.index.json over several shards; one alone needs none."""
    if len(shards) == 1:
        return
    every = [(tensor, shard.file_name) for shard in shards for tensor in shard.tensors]
    totals = {
        "total_parameters": sum(prod(tensor.shape) for tensor, _ in every),
        "total_size": sum(tensor.bytes for tensor, _ in every),
    }
    weight_map = {tensor.name: file_name for tensor, file_name in sorted(every, key=lambda e: e[0].name)}
    write_json(folder / INDEX_FILE, {"metadata": totals, "weight_map": weight_map})


def _data_place(tensors: Sequence[NewTensor]) -> tuple[int, int]:
    """Where the data of a file begin, modulo what."""
    first = next(iter(runs(tensors)), None)
    if first is None or not _may_share(first) or first.length < OWN_FILE_BYTES:
        return 0, _ALIGNMENT_BYTES
    return first.begin % BLOCK_BYTES, BLOCK_BYTES


def _may_share(run: Run) -> bool:
    """Not constants, nor tensors of a .bin file, which lie apart: each would begin a file of its own."""
    return run.file is not None and run.file.suffix != PICKLE_SUFFIX


def _run_lengths(tensors: Sequence[NewTensor]) -> Iterator[int]:
    """For each tensor the length of the run that it begins, 0 where it continues one."""
    begun = 0
    lengths = [0] * len(tensors)
    last: Run | None = None
    for number, tensor in enumerate(tensors):
        parts = parts_of(tensor)
        if last is None or not parts or not last.joins(parts[0]):
            begun = number
        lengths[begun] += parts[0].length if parts and _may_share(parts[0]) else 0
        last = parts[-1] if parts else None
    yield from lengths


def _groups(tensors: Sequence[NewTensor], limit_bytes: int) -> Iterator[list[NewTensor]]:
    group: list[NewTensor] = []
    size = 0
    for tensor, run_length in zip(tensors, _run_lengths(tensors), strict=True):
        if group and (size + tensor.bytes > limit_bytes or run_length >= OWN_FILE_BYTES):
            yield group
            group, size = [], 0
        group.append(tensor)
        size += tensor.bytes
    yield group


def _aligned(tensors: list[NewTensor]) -> list[NewTensor]:
    """The same tensors; wider types first where a tensor would not be aligned to its type otherwise."""
    position = _data_place(tensors)[0]
    for tensor in tensors:
        if position * 8 % max(DTYPE_BITS[tensor.dtype], 8):
            return sorted(tensors, key=lambda one: -DTYPE_BITS[one.dtype])
        position += tensor.bytes
    return tensors
