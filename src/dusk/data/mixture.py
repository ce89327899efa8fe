"""Mixtures: several files in given shares of the tokens, such as new text with a replay of the base's own kind.

A small file with a large share comes round more often than a large one with a small share. What comes next is
always of the file that is furthest behind its share, so any stretch of a run has about the mixture of the whole.
"""

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dusk.data.packing import TokenStore, best_fit
from dusk.errors import SettingError

_WITH_SHARE = re.compile(r"(.+)=(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Mixture:
    """For each file the number of its units, which lie one file behind the other in a store, and its share."""

    units: tuple[int, ...]
    shares: tuple[float, ...]

    def plan(self, store: TokenStore, *, capacity: int, seed: int, tokens: int) -> list[list[int]]:
        """The batches of a run of about `tokens` tokens, as lists of units; the same arguments, the same plan."""
        lengths = store.unit_lengths()
        order = np.fromiter(self._stream(lengths.tolist(), seed, tokens), np.int64)
        return best_fit(lengths, capacity, order)

    def _stream(self, lengths: list[int], seed: int, tokens: int) -> Iterator[int]:
        total, begins = sum(self.shares), np.cumsum([0, *self.units]).tolist()
        sources = [self._rounds(begins[file], units, [seed, file]) for file, units in enumerate(self.units)]
        # a file's clock tells how many tokens of the whole mixture what it gave so far belongs to
        clocks = [(0.0, file) for file, share in enumerate(self.shares) if share > 0]
        taken = 0
        while taken < tokens:
            clock, file = clocks[0]
            unit = next(sources[file])
            yield unit
            taken += lengths[unit]
            heapq.heapreplace(clocks, (clock + lengths[unit] * total / self.shares[file], file))

    @staticmethod
    def _rounds(begin: int, units: int, seed: list[int]) -> Iterator[int]:
        """The units of one file, over and over, each time in another order."""
        number = 0
        while True:
            yield from (np.random.default_rng([*seed, number]).permutation(units) + begin).tolist()
            number += 1


def split_shares(files: Sequence[str | Path]) -> tuple[list[str | Path], list[float] | None]:
    """Files given as `FILE=0.9` as names and shares; None where none of them has one.

    Raises:
        SettingError: some have a share and others none.
    """
    found = [None if Path(file).exists() else _WITH_SHARE.fullmatch(str(file)) for file in files]
    if not any(found):
        return list(files), None
    without = [str(file) for file, match in zip(files, found, strict=True) if match is None]
    if without:
        raise SettingError(f"some files have a share and others none: {', '.join(without)}")
    named = [match for match in found if match is not None]
    return [match[1] for match in named], [float(match[2]) for match in named]


def require_shares(shares: Sequence[float], files: int) -> None:
    """Raises `SettingError` with all that is wrong with the shares of so many files."""
    problems = []
    if len(shares) != files:
        problems.append(f"there are {len(shares)} shares for {files} files of data")
    if any(not 0 <= share < float("inf") for share in shares):
        problems.append("a share is below 0, or no number")
    if not sum(shares) > 0:
        problems.append("no share is above 0")
    if problems:
        raise SettingError("this mixture cannot be made:", problems=problems)
