"""Dot products of pieces, in float64."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dusk.merge.floats import Array

_ROW = 8192  # BLAS takes products up to 10,000 long without threads of its own, which ours would fight


def gram(values: Sequence[Array]) -> NDArray[np.float64]:
    """The dot product of every two of these arrays, each taken as one vector: (arrays, arrays)."""
    size = values[0].size
    whole = size // _ROW * _ROW
    wide = [value.reshape(-1).astype(np.float64) for value in values]
    found = np.empty((len(wide), len(wide)))
    for i, x in enumerate(wide):
        for j, y in enumerate(wide[: i + 1]):
            rows = np.vecdot(x[:whole].reshape(-1, _ROW), y[:whole].reshape(-1, _ROW)).sum()
            found[i, j] = found[j, i] = rows + np.vecdot(x[whole:], y[whole:])
    return found
