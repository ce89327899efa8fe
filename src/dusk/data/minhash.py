"""MinHash signatures of many texts at once, and the pairs that they make likely.

Broder 1997: of a text's set of shingles (runs of five words), hashed in many ways, the smallest hash of each way
is kept; two texts agree in a share of these that estimates the Jaccard index of their sets. Candidates are the
texts that agree in all of a band of the signature (Leskovec et al., Mining of Massive Datasets, section 3.4):
with 20 bands of 6 a pair of index 0.8 is a candidate with probability 0.998, one of 0.5 with 0.27.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dusk.data.words import Hashes, runs, words_of

Signatures = npt.NDArray[np.uint32]
"""(texts, BANDS * BAND_ROWS); `NO_WORD` everywhere for a text without one."""

SHINGLE_WORDS = 5
BANDS, BAND_ROWS = 20, 6

NO_WORD = np.uint32(0xFFFFFFFF)

_WAYS = BANDS * BAND_ROWS
_DRAWN = np.random.Generator(np.random.PCG64(20231223)).integers(1, 1 << 63, (2, _WAYS), np.uint64)
_FACTORS, _OFFSETS = (_DRAWN[0] | np.uint64(1)), _DRAWN[1]


def signatures(texts: Sequence[str]) -> Signatures:
    """The signatures of texts. One of fewer words than a shingle has is a single shingle of all of them."""
    words = words_of(texts)
    hashes, places = runs(words, SHINGLE_WORDS)
    owners = np.searchsorted(words.first, places, "right") - 1
    sizes = np.diff(words.first)
    short = np.flatnonzero((sizes > 0) & (sizes < SHINGLE_WORDS))
    if len(short):
        whole = np.array(
            [_together(words.hashes[words.first[t] : words.first[t + 1]]) for t in short], np.uint64
        )
        owners = np.concatenate([owners, short])
        order = np.argsort(owners, kind="stable")
        hashes, owners = np.concatenate([hashes, whole])[order], owners[order]
    found = np.full((len(texts), _WAYS), NO_WORD, np.uint32)
    if len(hashes):
        begins = np.flatnonzero(np.diff(owners, prepend=-1))
        rows = owners[begins]
        for way in range(_WAYS):
            turned = ((hashes * _FACTORS[way] + _OFFSETS[way]) >> np.uint64(32)).astype(np.uint32)
            found[rows, way] = np.minimum.reduceat(turned, begins)
    return found


def band_keys(found: Signatures, band: int) -> Hashes:
    """A 64-bit key of each text's band: equal where all of the band is."""
    keys = np.full(len(found), np.uint64(band + 1))
    for way in range(band * BAND_ROWS, (band + 1) * BAND_ROWS):
        keys = (keys ^ found[:, way]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def likeness(one: Signatures, other: Signatures) -> npt.NDArray[np.float64]:
    """The estimated Jaccard index of each pair of signatures (of equal rows)."""
    alike: npt.NDArray[np.float64] = (one == other).mean(axis=1)
    return alike


def _together(hashes: Hashes) -> Any:
    """One hash of all words of a short text."""
    total = np.uint64(len(hashes))
    with np.errstate(over="ignore"):
        for one in hashes:
            total = (total ^ one) * np.uint64(0xD6E8FEB86659FD93)
    return total


class Groups:
    """Rows that are joined in groups; each group is known by its first row (union-find)."""

    def __init__(self, count: int) -> None:
        self.first = np.arange(count)

    def of(self, row: int) -> int:
        """The first row of a row's group."""
        root = row
        while self.first[root] != root:
            root = int(self.first[root])
        while self.first[row] != root:
            row, self.first[row] = int(self.first[row]), root
        return root

    def of_each(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The first rows of many rows' groups."""
        found = self.first[rows]
        while not np.array_equal(above := self.first[found], found):
            found = above
        return found

    def join(self, row: int, other: int) -> None:
        """Put the groups of two rows together."""
        one, two = self.of(row), self.of(other)
        self.first[max(one, two)] = min(one, two)
