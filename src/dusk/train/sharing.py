"""Which rank computes what: the micro batches of each optimizer step, shared out.

The plan of a run knows nothing of ranks: a step takes the same documents on one device as on many. Only how they
are gathered into micro batches differs, and with it the rounding of sums.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Plan = Sequence[Sequence[int]]
"""The micro batches of a run on one device, each as the units of a store."""


def passes_per_step(per_step: int, ranks: int) -> int:
    """Forward passes of one rank in an optimizer step of `per_step` planned micro batches."""
    return math.ceil(per_step / ranks)


def share(
    plan: Plan, per_step: int, lengths: npt.NDArray[np.int64], *, rank: int, ranks: int
) -> list[Sequence[int]]:
    """The micro batches of one rank: as many in each step on every rank, some of them perhaps empty.

    Where the ranks divide a step's micro batches evenly they take turns; otherwise its documents are dealt out
    anew, the longest first, each to the micro batch that has the fewest tokens.
    """
    mine: list[Sequence[int]] = []
    for begin in range(0, len(plan), per_step):
        step = plan[begin : begin + per_step]
        passes = passes_per_step(len(step), ranks)  # the last step may be a short one
        if len(step) % ranks:
            step = _dealt(step, passes * ranks, lengths)
        mine += step[rank::ranks]
    return mine


def _dealt(step: Plan, bins: int, lengths: npt.NDArray[np.int64]) -> list[list[int]]:
    units = sorted((unit for batch in step for unit in batch), key=lambda unit: -lengths[unit])
    dealt: list[list[int]] = [[] for _ in range(bins)]
    tokens = [0] * bins
    for unit in units:
        emptiest = tokens.index(min(tokens))
        dealt[emptiest].append(unit)
        tokens[emptiest] += int(lengths[unit])
    return dealt
