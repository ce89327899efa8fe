"""Pieces of tensors of several models, as numbers: read, decoded and stored in memory that is used again.

A piece is small enough to stay in a processor's cache, the last if not the second, and large enough that
threads seldom wait for each other at the interpreter.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dusk.checkpoint import TensorEntry
from dusk.checkpoint.positioned import BLOCK_BYTES, InputFile, page_memory
from dusk.merge.floats import (
    STORED,
    Array,
    all_finite,
    decode,
    decode_pairs,
    encode,
    encode_near_pairs,
    encode_pairs,
)
from dusk.merge.method import Chosen, Narrow, Piece

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

    def merge(self, piece: Piece, chosen: Chosen, dtype: str, out: Bytes) -> bool:
        """Combines a piece and rounds it into the bytes `out`; whether all is finite.

        A piece of pairs has to be narrow where `chosen` has a way in float32.
        """
        if not piece.paired:
            stored = out.view(STORED[dtype])
            encode(chosen.combine(piece), dtype, stored)
            return all_finite(stored, dtype)
        words = piece.values[0].shape[1]
        if out.size == 4 * words and out.ctypes.data % 4 == 0:
            return self._merge_pairs(piece, chosen, out.view(np.uint32))
        packed = np.empty(words, np.uint32)
        finite = self._merge_pairs(piece, chosen, packed)
        out[:] = packed.view(np.uint8)[: out.size]
        return finite

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

    def _merge_pairs(self, piece: Piece, chosen: Chosen, out: NDArray[np.uint32]) -> bool:
        shape, size = piece.values[0].shape, piece.values[0].nbytes
        if chosen.in_float32 is None:
            return encode_pairs(chosen.combine(piece), self._scratch[:size], out)
        spare, scratch = self._scratch[:size].view(np.float32).reshape(shape), self._scratch[size : 2 * size]
        merged = chosen.in_float32.combine(cast(list[Narrow], piece.values), spare)
        if not chosen.in_float32.doubt:
            return encode_pairs(merged, scratch, out)
        places = encode_near_pairs(merged, chosen.in_float32.doubt, scratch, out)
        if places is None:  # perhaps only on the way
            places = np.arange(piece.count)
        return self._merge_again(piece, chosen, places, out.view(np.uint16))

    def _merge_again(
        self, piece: Piece, chosen: Chosen, places: NDArray[np.intp], out: NDArray[np.uint16]
    ) -> bool:
        """The elements at these places of the piece that was read last, in float64."""
        values: list[Array] = [np.empty(places.size) for _ in piece.values]
        for stored, wide in zip(self._stored, values, strict=True):
            decode(stored.view(np.uint16)[places], "BF16", wide)
        again = np.empty(places.size, np.uint16)
        encode(chosen.combine(replace(piece, values=values, paired=False)), "BF16", again)
        out[places] = again
        return all_finite(again, "BF16")
