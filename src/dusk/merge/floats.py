"""Stored floating-point types as numpy arrays and back; bfloat16, which numpy lacks, by its bits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

STORED: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
"""How each type lies in a file; other types are not merged."""


def decode(stored: NDArray[Any], dtype: str) -> Array:
    """Stored values as float32, F64 as float64; exact for every value."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float64 if dtype == "F64" else np.float32, copy=False)


def encode(values: Array, dtype: str) -> NDArray[Any]:
    """Values as they are stored, rounded to nearest, ties to even; what overflows becomes infinite."""
    if dtype == "BF16":
        return _to_bfloat16(values.astype(np.float32, copy=False))
    with np.errstate(over="ignore"):
        return values.astype(STORED[dtype], copy=False)


def _to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of the bits, after adding just under half of the last place kept, or half if odd."""
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    odd += np.uint32(0x7FFF)
    odd += bits
    rounded = (odd >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():  # rounding would carry a NaN's bits into its sign
        rounded[nan] = (bits[nan] >> np.uint32(16)).astype(np.uint16) | np.uint16(0x40)
    return rounded
