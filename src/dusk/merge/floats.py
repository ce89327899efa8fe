"""Stored floating-point types as float64 and back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dusk.merge import kernels

Values = NDArray[np.float64]

STORED: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
"""How each type lies in a file; other types are not merged."""


def decode(stored: NDArray[Any], dtype: str, out: Values) -> None:
    """Stored values as numbers, (elements,); exact for every value."""
    if dtype == "BF16":
        kernels.decode(stored, out)
    else:
        np.copyto(out, stored)


def encode(values: Values, dtype: str, out: NDArray[Any]) -> bool:
    """Numbers as they are stored, rounded once to nearest, ties to even; whether all stored ones are finite.

    What overflows becomes infinite. Both are (elements,).
    """
    if dtype == "BF16":
        return kernels.encode(values, out)
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(out, values, casting="same_kind")
    return bool(np.isfinite(out).all())
