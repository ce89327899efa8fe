"""Safetensors files to write: which tensor goes into which file, headers, the index over them."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from dusk.checkpoint.folder import INDEX_FILE, WEIGHTS_FILE
from dusk.checkpoint.header import DTYPE_BITS, LENGTH_BYTES, TensorEntry
from dusk.checkpoint.manifest import write_json

SHARD_LIMIT_BYTES = 5_000_000_000
_ALIGNMENT_BYTES = 8


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor of the output; `source` holds its bytes, None where they are constant or computed.

    `element` is then what each element of a constant tensor holds, in the bytes of its type. A source may be
    shorter than the tensor: the rest is constant.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: TensorEntry | None
    element: bytes = b"\0"

    @property
    def bytes(self) -> int:
        """The tensor's size in bytes."""
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True)
class Shard:
    """A file of the output: its tensors in the order of their bytes."""

    file_name: str
    tensors: tuple[NewTensor, ...]

    def header(self, metadata: Mapping[str, str]) -> bytes:
        """The length and the JSON text, padded with spaces so that the data begin aligned."""
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
        text += b" " * (-len(text) % _ALIGNMENT_BYTES)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text


def plan_shards(tensors: Sequence[NewTensor], limit_bytes: int = SHARD_LIMIT_BYTES) -> list[Shard]:
    """The tensors in their order, cut into files of at most `limit_bytes` or one tensor each."""
    groups = list(_groups(tensors, limit_bytes))
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


def in_byte_order(tensors: Iterable[NewTensor]) -> list[NewTensor]:
    """The order that copies the longest runs of bytes and keeps every tensor aligned to its type.

    All first uses of the source's tensors in the source's order, then all second uses, and so on: a
    depthwise map uses every layer, so that its first pass is the source files from end to end.
    """
    uses: Counter[TensorEntry | None] = Counter()
    keyed = []
    for tensor in tensors:
        source = tensor.source
        place = (False, source.file.name, source.begin) if source else (True, "", 0)
        keyed.append(((-DTYPE_BITS[tensor.dtype], uses[source] if source else 0, *place), tensor))
        uses[source] += 1
    return [tensor for _, tensor in sorted(keyed, key=lambda pair: pair[0])]


def _groups(tensors: Sequence[NewTensor], limit_bytes: int) -> Iterator[list[NewTensor]]:
    group: list[NewTensor] = []
    size = 0
    for tensor in tensors:
        if group and size + tensor.bytes > limit_bytes:
            yield group
            group, size = [], 0
        group.append(tensor)
        size += tensor.bytes
    yield group
