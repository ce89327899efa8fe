"""One tensor of several models, in pieces: its statistics, and its merge written as it is computed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import BinaryIO

import numpy as np

from dusk.checkpoint import TensorEntry
from dusk.errors import CheckpointError
from dusk.merge.floats import STORED, Array, decode, encode
from dusk.merge.linear import weighted_sum

PIECE_ELEMENTS = 1 << 18  # 1 MiB of float32: a few models' pieces stay in the processor's cache

Open = Callable[[TensorEntry], BinaryIO]
"""Gives the open file of an entry."""


@dataclass(frozen=True, slots=True)
class Angle:
    """What SLERP needs to know of two tensors, computed in float64."""

    dot: float
    first_length: float
    second_length: float


def angle(entries: Sequence[TensorEntry], open_file: Open) -> Angle:
    """The dot product and the lengths of two tensors, each taken as one vector."""
    dot = first = second = 0.0
    for pieces in _pieces(entries, open_file):
        x, y = (piece.astype(np.float64).ravel() for piece in pieces)
        dot += _dot(x, y)
        first += _dot(x, x)
        second += _dot(y, y)
    return Angle(dot, sqrt(first), sqrt(second))


def _dot(x: Array, y: Array) -> float:
    """Not `x @ y`: BLAS threads that wait for a busy core make it a hundred times slower."""
    return float(np.einsum("i,i->", x, y))


def write_weighted(
    entries: Sequence[TensorEntry], weights: Sequence[float], open_file: Open, target: BinaryIO
) -> int:
    """Writes the weighted sum in the first tensor's type; how many values are not finite.

    Sums are taken in float32, in float64 where a tensor is F64.
    """
    not_finite = 0
    precision = np.float64 if any(entry.dtype == "F64" for entry in entries) else np.float32
    for pieces in _pieces(entries, open_file):
        merged = weighted_sum([piece.astype(precision, copy=False) for piece in pieces], weights)
        stored = encode(merged, entries[0].dtype)
        not_finite += stored.size - int(np.isfinite(decode(stored, entries[0].dtype)).sum())
        target.write(stored.data)
    return not_finite


def same_bytes(entries: Sequence[TensorEntry], open_file: Open) -> bool:
    """Whether tensors of a type that has no mean (indices, masks) are equal."""
    contents = [_read(entry, 0, entry.bytes, open_file) for entry in entries]
    return all(content == contents[0] for content in contents)


def _pieces(entries: Sequence[TensorEntry], open_file: Open) -> Iterator[list[Array]]:
    elements = entries[0].elements
    for begin in range(0, elements, PIECE_ELEMENTS):
        count = min(PIECE_ELEMENTS, elements - begin)
        yield [_piece(entry, begin, count, open_file) for entry in entries]


def _piece(entry: TensorEntry, begin: int, count: int, open_file: Open) -> Array:
    stored = STORED[entry.dtype]
    data = _read(entry, begin * stored.itemsize, count * stored.itemsize, open_file)
    return decode(np.frombuffer(data, stored), entry.dtype)


def _read(entry: TensorEntry, offset: int, length: int, open_file: Open) -> bytes:
    stream = open_file(entry)
    stream.seek(entry.begin + offset)
    data = stream.read(length)
    if len(data) != length:
        raise CheckpointError(f"{entry.file} became shorter while it was read.")
    return data
