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
_LOWER = np.uint32(0xFFFF)
_MIDWAY = np.uint32(0x8000)  # the lower half of a float32 that lies between two bfloat16
_ONE = np.uint32(1)
_JUST_UNDER_HALF = np.uint32(0x7FFF)
_EXPONENT = np.uint16(0x7F80)


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
            narrow, scratch = np.empty((2, *values.shape), np.float32)
            _narrow(values, narrow, scratch.view(np.uint32))
            bits = narrow.view(np.uint32)
            _round(bits, scratch.view(np.uint32))
            np.copyto(out, np.right_shift(bits, _HALF, out=bits), casting="unsafe")
        else:
            np.copyto(out, values, casting="same_kind")


def all_finite(stored: NDArray[Any], dtype: str) -> bool:
    """Whether no stored value is infinite or NaN."""
    if dtype == "BF16":
        return bool((np.bitwise_and(stored, _EXPONENT) != _EXPONENT).all())
    return bool(np.isfinite(stored).all())


def _narrow(values: Array, out: NDArray[np.float32], scratch: NDArray[np.uint32]) -> None:
    """float64 as float32 that is rounded to the same bfloat16.

    Rounding twice goes wrong where the first time ends midway between two bfloat16 and the value was not
    there: such float32s are moved by one place to the side that the value is on.
    """
    np.copyto(out, values, casting="same_kind")
    np.bitwise_and(out.view(np.uint32), _LOWER, out=scratch)
    midway = np.flatnonzero(scratch == _MIDWAY)
    if midway.size:
        places = np.unravel_index(midway, out.shape)
        aside = np.sign(np.abs(values[places]) - np.abs(out[places].astype(np.float64)))
        out.view(np.uint32)[places] += aside.astype(np.int32).view(np.uint32)


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
    parts = scratch.view(np.uint32).reshape(-1, *values.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        if values.dtype == np.float64:
            narrow = parts[1].view(np.float32)
            _narrow(values, narrow, parts[0])
        else:
            narrow = values
        _round(narrow.view(np.uint32), parts[0])
        finite = _are_finite(narrow)
    _pack(narrow.view(np.uint32), out)
    return finite


def encode_near_pairs(
    values: NDArray[np.float32], doubt: int, scratch: NDArray[np.uint8], out: NDArray[np.uint32]
) -> NDArray[np.intp] | None:
    """As `encode_pairs`, of values that are off by less than `doubt` units in the last place.

    Which elements may be rounded to the wrong side; None where not all are finite.
    """
    bits, lower = values.view(np.uint32), scratch.view(np.uint32).reshape(values.shape)
    np.add(bits, _MIDWAY - np.uint32(doubt), out=bits)  # both ends of the doubt carry or neither,
    np.bitwise_and(bits, _LOWER, out=lower)
    open_places = np.flatnonzero(lower >= (1 << 16) - 2 * doubt)  # but for these
    if not _are_finite(values):
        return None
    _pack(bits, out)
    odd, words = np.divmod(open_places, values.shape[1])
    return 2 * words + odd


def _are_finite(values: NDArray[np.float32]) -> bool:
    with np.errstate(invalid="ignore"):
        ends = np.maximum.reduce(values, axis=None), np.minimum.reduce(values, axis=None)  # NaN where one is
    return bool(np.isfinite(ends).all())


def _pack(bits: NDArray[np.uint32], out: NDArray[np.uint32]) -> None:
    lower, upper = bits
    np.right_shift(lower, _HALF, out=lower)
    np.bitwise_and(upper, _UPPER, out=upper)
    np.bitwise_or(lower, upper, out=out)
