"""Stored floating-point types as numpy arrays and back; bfloat16, which numpy lacks, by its bits.

All functions write into arrays that they are given: nothing is allocated in the loops that call them.
"""

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
_WIDE_EXPONENT = np.uint64(0x7FF << 52)
_HIGHER = np.uint64(45 << 52 | 1 << 51)
_LEAST_ADDED = 1.5 * 2.0 ** (45 - 126)


def decode(stored: NDArray[Any], dtype: str, out: Array) -> None:
    """Stored values as numbers; exact for every value."""
    if dtype == "BF16":
        bits = stored.astype(np.uint32)
        np.left_shift(bits, _HALF, out=bits)
        np.copyto(out, bits.view(np.float32))
    else:
        np.copyto(out, stored)


def encode(values: Array, dtype: str, out: NDArray[Any]) -> None:
    """float64 as it is stored, rounded once to nearest, ties to even; what overflows becomes infinite.

    Overwrites `values`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "BF16":
            round_to_bfloat16(values, np.empty_like(values))
            bits = values.astype(np.float32).view(np.uint32)
            np.copyto(out, np.right_shift(bits, _HALF, out=bits), casting="unsafe")
        else:
            np.copyto(out, values, casting="same_kind")


def all_finite(stored: NDArray[Any], dtype: str) -> bool:
    """Whether no stored value is infinite or NaN."""
    if dtype == "BF16":
        return bool((np.bitwise_and(stored, _EXPONENT) != _EXPONENT).all())
    return bool(np.isfinite(stored).all())


def round_to_bfloat16(values: Array, scratch: Array) -> None:
    """Rounds float64 to eight significant bits, ties to even, in place: to bfloat16s, or beyond the largest.

    Adding 1.5 * 2^(e + 45) to a value of exponent e leaves the sum no bit below 2^(e - 7), bfloat16's last
    place; taking it away again is exact. Below 2^-126 the last place stays 2^-133. What is infinite, NaN
    or over 2^978 stays as it is: there e + 45 overflows into NaN or the sign, and the least one is added.
    -0 becomes 0.
    """
    added = scratch.view(np.uint64)
    np.bitwise_and(values.view(np.uint64), _WIDE_EXPONENT, out=added)
    np.add(added, _HIGHER, out=added)
    np.fmax(scratch, _LEAST_ADDED, out=scratch)
    np.add(values, scratch, out=values)
    np.subtract(values, scratch, out=values)


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


def encode_pairs(values: Array, scratch: NDArray[np.uint8], out: NDArray[np.uint32]) -> bool:
    """The inverse of `decode_pairs`, rounded as `encode`; overwrites `values` (2, words).

    `scratch` has as many bytes as `values`. Whether all stored values are finite. NaNs in float32 survive as
    long as their lower 16 bits are zero, as in all that is computed from bfloat16.
    """
    narrow = scratch.view(np.float32)[: values.size].reshape(values.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        if values.dtype == np.float64:
            round_to_bfloat16(values, scratch.view(np.float64).reshape(values.shape))
            np.copyto(narrow, values, casting="same_kind")
        else:
            _round(values.view(np.uint32), narrow.view(np.uint32))
            narrow = values
        ends = np.maximum.reduce(narrow, axis=None), np.minimum.reduce(narrow, axis=None)  # NaN where one is
    finite = bool(np.isfinite(ends).all())
    lower, upper = narrow.view(np.uint32)
    np.right_shift(lower, _HALF, out=lower)
    np.bitwise_and(upper, _UPPER, out=upper)
    np.bitwise_or(lower, upper, out=out)
    return finite
