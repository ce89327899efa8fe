"""Dot products of pieces, in float64."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dusk.merge.floats import Array

_WIDE = (
    1 << 16
)  # elements in float64 at once: they stay in the cache, where a whole piece is new pages each time
_ROW = 8192  # BLAS takes products up to 10,000 long without threads of its own, which ours would fight


def gram(values: Sequence[Array]) -> NDArray[np.float64]:
    """The dot product of every two of these arrays, each taken as one vector: (arrays, arrays)."""
    flat = [value.reshape(-1) for value in values]
    found = np.zeros((len(flat), len(flat)))
    memory = np.empty((len(flat), _WIDE))
    for begin in range(0, flat[0].size, _WIDE):
        count = min(_WIDE, flat[0].size - begin)
        wide = memory[:, :count]
        for value, out in zip(flat, wide, strict=True):
            np.copyto(out, value[begin : begin + count])
        for i, x in enumerate(wide):
            for j, y in enumerate(wide[: i + 1]):
                found[i, j] += _dot(x, y)
    return found + np.tril(found, -1).T


def _dot(x: NDArray[np.float64], y: NDArray[np.float64]) -> np.float64:
    whole = x.size // _ROW * _ROW
    rows: np.float64 = np.vecdot(x[:whole].reshape(-1, _ROW), y[:whole].reshape(-1, _ROW)).sum()
    return rows + np.vecdot(x[whole:], y[whole:]) if whole < x.size else rows
