"""Pieces of tensors of several models, read, combined and stored in memory that is used again.

A piece is small enough to stay in a processor's cache, the last if not the second, and large enough that
threads seldom wait for each other at the interpreter.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dusk.checkpoint import TensorEntry
from dusk.checkpoint.positioned import BLOCK_BYTES, InputFile, page_memory
from dusk.merge import kernels
from dusk.merge.floats import STORED, encode
from dusk.merge.method import Chosen, Piece

PIECE_ELEMENTS = 1 << 19
_WIDEST_BYTES = 8

Files = Mapping[Path, InputFile]
Bytes = NDArray[np.uint8]


class Lane:
    """What one thread works with: memory for a piece of each model, and for a block of the output."""

    def __init__(self, models: int, files: Files) -> None:
        self.files = files
        self.block = page_memory(BLOCK_BYTES)
        self.block_bytes: Bytes = np.frombuffer(self.block, np.uint8)
        self.raw_bytes = PIECE_ELEMENTS * _WIDEST_BYTES
        self._stored = np.empty(models * self.raw_bytes, np.uint8)  # what stays untouched takes no memory
        self._wide = np.empty(models * PIECE_ELEMENTS)

    def pieces(self, entries: Sequence[TensorEntry], begin: int, end: int) -> Iterator[Piece]:
        """These elements of a tensor, one entry for each model, piece by piece."""
        dtypes = tuple(entry.dtype for entry in entries)
        for start in range(begin, end, PIECE_ELEMENTS):
            count = min(PIECE_ELEMENTS, end - start)
            stored, place = [], 0
            for entry in entries:
                kind = STORED[entry.dtype]
                raw = self.read(place, entry, start * kind.itemsize, count * kind.itemsize)
                stored.append(raw.view(kind))
                place += raw.size
            shape = len(entries), count
            bits = self._stored[:place].view(np.uint16).reshape(shape) if set(dtypes) == {"BF16"} else None
            wide = self._wide[: len(entries) * count].reshape(shape)
            yield Piece(start, count, stored, dtypes, bits, wide)

    def read(self, place: int, entry: TensorEntry, offset: int, length: int) -> Bytes:
        """Bytes of a tensor as they are stored, at this place of the lane's memory."""
        stored: Bytes = self._stored[place : place + length]
        self.files[entry.file].read_into(stored.data, entry.begin + offset)
        return stored


def merge_piece(piece: Piece, chosen: Chosen, dtype: str, out: Bytes) -> bool:
    """Combines a piece and rounds it into the bytes `out`; whether all is finite."""
    stored = out.view(STORED[dtype])
    if chosen.weights is not None and piece.bits is not None and dtype == "BF16":
        return kernels.weighted_sum(piece.bits, chosen.weights, stored)
    return encode(chosen.combine(piece), dtype, stored)
