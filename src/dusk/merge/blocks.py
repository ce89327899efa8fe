"""The files of the output cut into blocks, and which elements of which tensors fill each."""

from collections.abc import Iterator
from dataclasses import dataclass

from dusk.checkpoint import NewTensor, Shard
from dusk.checkpoint.positioned import BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes `begin` to `end` of a tensor, which go to `offset` of their block."""

    tensor: NewTensor
    begin: int
    end: int
    offset: int


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a file: from `position` of the file, `length` bytes; `head` is the header's share."""

    position: int
    length: int
    head: bytes
    parts: tuple[Part, ...]


def cut(header: bytes, shard: Shard) -> Iterator[Block]:
    """The blocks of a shard in their order. No element is split: its type's size divides its place."""
    size = len(header) + sum(tensor.bytes for tensor in shard.tensors)
    spans = _spans(len(header), shard)
    span = next(spans, None)
    for position in range(0, size, BLOCK_BYTES):
        end = min(position + BLOCK_BYTES, size)
        parts = []
        while span and span[1] < end:
            tensor, start, stop = span
            first, last = max(start, position), min(stop, end)
            if first < last:
                parts.append(Part(tensor, first - start, last - start, first - position))
            if stop > end:
                break
            span = next(spans, None)
        yield Block(position, end - position, header[position:end], tuple(parts))


def _spans(begin: int, shard: Shard) -> Iterator[tuple[NewTensor, int, int]]:
    for tensor in shard.tensors:
        yield tensor, begin, begin + tensor.bytes
        begin += tensor.bytes
