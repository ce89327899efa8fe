"""Pieces of tensors of several models, as numbers: read, decoded and stored in memory that is used again.

A piece is small enough that what is done to it finds it in the processor's cache.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dusk.checkpoint import TensorEntry
from dusk.checkpoint.positioned import BLOCK_BYTES, InputFile, page_memory
from dusk.merge.floats import STORED, Array, all_finite, decode, decode_pairs, encode, encode_pairs
from dusk.merge.method import Piece

PIECE_ELEMENTS = 1 << 17
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
        self._stored = np.empty((models, self.raw_bytes), np.uint8)  # what stays untouched takes no memory
        self._values = np.empty((models, self.raw_bytes), np.uint8)
        self._scratch = np.empty(self.raw_bytes, np.uint8)

    def pieces(
        self, entries: Sequence[TensorEntry], begin: int, end: int, *, narrow: bool = False
    ) -> Iterator[Piece]:
        """These elements of a tensor, one entry for each model, piece by piece; pairs in float32 if `narrow`."""
        paired = all(entry.dtype == "BF16" for entry in entries)
        for start in range(begin, end, PIECE_ELEMENTS):
            count = min(PIECE_ELEMENTS, end - start)
            values = [
                self._read_pairs(index, entry, start, count, narrow=narrow)
                if paired
                else self._read_plain(index, entry, start, count)
                for index, entry in enumerate(entries)
            ]
            yield Piece(start, count, values, paired)

    def store(self, piece: Piece, merged: Array, dtype: str, out: Bytes) -> bool:
        """Rounds the merged values of a piece into the bytes `out`; whether all are finite.

        Overwrites `merged`.
        """
        if piece.paired:
            return self._store_pairs(merged, out)
        stored = out.view(STORED[dtype])
        encode(merged, dtype, stored)
        return all_finite(stored, dtype)

    def raw(self, index: int, entry: TensorEntry, offset: int, length: int) -> Bytes:
        """Bytes of a tensor of one model as they are stored."""
        stored: Bytes = self._stored[index, :length]
        self.files[entry.file].read_into(stored.data, entry.begin + offset)
        return stored

    def _read_plain(self, index: int, entry: TensorEntry, begin: int, count: int) -> Array:
        kind = STORED[entry.dtype]
        stored = self.raw(index, entry, begin * kind.itemsize, count * kind.itemsize)
        values: Array = self._values[index].view(np.float64)[:count]
        decode(stored.view(kind), entry.dtype, values)
        return values

    def _read_pairs(self, index: int, entry: TensorEntry, begin: int, count: int, *, narrow: bool) -> Array:
        words = (count + 1) // 2
        if count % 2:
            self._stored[index, 2 * count : 4 * words] = 0
        self.raw(index, entry, 2 * begin, 2 * count)
        memory = self._values[index] if narrow else self._scratch
        values: NDArray[np.float32] = memory.view(np.float32)[: 2 * words].reshape(2, words)
        decode_pairs(self._stored[index].view(np.uint32)[:words], values)
        if narrow:
            return values
        wide: NDArray[np.float64] = self._values[index].view(np.float64)[: 2 * words].reshape(2, words)
        np.copyto(wide, values)
        return wide

    def _store_pairs(self, merged: Array, out: Bytes) -> bool:
        words = merged.shape[1]
        scratch = self._scratch[: merged.nbytes]
        if out.size == 4 * words and out.ctypes.data % 4 == 0:
            return encode_pairs(merged, scratch, out.view(np.uint32))
        packed = np.empty(words, np.uint32)
        finite = encode_pairs(merged, scratch, packed)
        out[:] = packed.view(np.uint8)[: out.size]
        return finite
