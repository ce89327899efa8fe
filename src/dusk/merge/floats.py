"""Stored floating-point types as numpy arrays and back; bfloat16, which numpy lacks, by its bits.

All functions write into arrays that they are given: nothing is allocated in the loops that call them.
"""

from collections.abc import Iterable
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

_HALF = np.uint32(16)
_UPPER = np.uint32(0xFFFF0000)
_ONE = np.uint32(1)
_JUST_UNDER_HALF = np.uint32(0x7FFF)
_EXPONENT = np.uint16(0x7F80)
_QUIET = np.uint16(0x40)


def precision(dtypes: Iterable[str]) -> np.dtype[Any]:
    """The type to compute in: float32 where all are of 16 bits, else float64, so that one rounding is left."""
    return np.dtype(np.float32 if set(dtypes) <= {"BF16", "F16"} else np.float64)


def decode(stored: NDArray[Any], dtype: str, out: Array) -> None:
    """Stored values as numbers; exact for every value."""
    if dtype == "BF16":
        bits = stored.astype(np.uint32)
        np.left_shift(bits, _HALF, out=bits)
        np.copyto(out, bits.view(np.float32))
    else:
        np.copyto(out, stored)


def encode(values: Array, dtype: str, out: NDArray[Any]) -> None:
    """Values as they are stored, rounded to nearest, ties to even; what overflows becomes infinite."""
    with np.errstate(over="ignore"):
        if dtype == "BF16":
            _encode_bfloat16(values, out)
        else:
            np.copyto(out, values, casting="same_kind")


def all_finite(stored: NDArray[Any], dtype: str) -> bool:
    """Whether no stored value is infinite or NaN."""
    if dtype == "BF16":
        return bool((np.bitwise_and(stored, _EXPONENT) != _EXPONENT).all())
    return bool(np.isfinite(stored).all())


def _encode_bfloat16(values: Array, out: NDArray[np.uint16]) -> None:
    narrow = values if values.dtype == np.float32 else _to_odd(values)
    bits = narrow.view(np.uint32).copy()
    _round(bits, np.empty_like(bits))
    np.right_shift(bits, _HALF, out=bits)
    np.copyto(out, bits, casting="unsafe")
    nan = np.isnan(values)
    if nan.any():  # rounding would carry a NaN's bits into its sign
        upper = (narrow.view(np.uint32)[nan] >> _HALF).astype(np.uint16)
        out[nan] = upper | _QUIET


def _to_odd(values: Array) -> NDArray[np.float32]:
    """float64 as float32 with the last bit set where it is inexact, so that no second rounding is felt.

    Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums", section 2: rounding to odd.
    """
    near = values.astype(np.float32)
    bits = near.view(np.int32)
    past = np.abs(near.astype(np.float64)) > np.abs(values)
    inexact = (near != values) & ~np.isnan(values)
    np.subtract(bits, 1, out=bits, where=past & inexact)  # towards zero, then the odd neighbour
    np.bitwise_or(bits, 1, out=bits, where=inexact)
    return near


def _round(bits: NDArray[np.uint32], scratch: NDArray[np.uint32]) -> None:
    """Adds just under half of the last place that bfloat16 keeps, or half where that place is odd."""
    np.right_shift(bits, _HALF, out=scratch)
    np.bitwise_and(scratch, _ONE, out=scratch)
    np.add(scratch, _JUST_UNDER_HALF, out=scratch)
    np.add(bits, scratch, out=bits)


def decode_pairs(pairs: NDArray[np.uint32], out: NDArray[np.float32]) -> None:
    """Two bfloat16 a word into the rows of `out` (2, words): those of the lower halves, then the upper.

    Two operations on whole words a pair, where values one by one cost a widening and a shift each: three
    times as fast. The order does not matter to what treats every element alike.
    """
    lower, upper = out.view(np.uint32)
    np.left_shift(pairs, _HALF, out=lower)
    np.bitwise_and(pairs, _UPPER, out=upper)


def encode_pairs(values: NDArray[np.float32], scratch: NDArray[np.float32], out: NDArray[np.uint32]) -> bool:
    """The inverse of `decode_pairs`, rounded as `encode`; overwrites `values` (2, words).

    Whether all stored values are finite. NaNs survive as long as their lower 16 bits are zero, as in
    all that is computed from bfloat16.
    """
    bits = values.view(np.uint32)
    _round(bits, scratch.view(np.uint32))
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(values, axis=None)  # infinite or NaN where a single value is
    finite = bool(np.isfinite(total)) or bool(np.isfinite(values).all())
    lower, upper = bits
    np.right_shift(lower, _HALF, out=lower)
    np.bitwise_and(upper, _UPPER, out=upper)
    np.bitwise_or(lower, upper, out=out)
    return finite
