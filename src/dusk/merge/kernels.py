"""Loops over stored numbers as machine code: one pass over a piece, outside the interpreter's lock.

numba compiles them when this module is first imported, which takes some seconds, and keeps them beside this file,
or in the user's cache folder, for all later processes. bfloat16, which numpy lacks, is handled by its bits.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint16]
Wide = NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])

_BLOCK = 1024  # elements in float64 at a time: those of a few models stay in the nearest cache
_HALF = np.uint32(16)
_ONE = np.uint32(1)
_JUST_UNDER_HALF = np.uint32(0x7FFF)  # of the last place that bfloat16 keeps of a float32
_EXPONENT = np.uint16(0x7F80)  # all of it set in what is not finite


def _compiled(signature: str, **options: Any) -> Callable[[F], F]:
    """The function as machine code; kept for later processes where a folder for that can be written."""

    def compiled(function: F) -> F:
        try:
            made: F = numba.njit(signature, nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither this package's folder nor the user's can be written
            made = numba.njit(signature, nogil=True, **options)(function)
        return made

    return compiled


@_compiled("f8(u2)", inline="always")
def _number(bits: np.uint16) -> np.float64:
    return np.float64(np.uint32(np.uint32(bits) << _HALF).view(np.float32))


@_compiled("u2(f8)", inline="always")
def _nearest(value: np.float64) -> np.uint16:
    """The nearest bfloat16, ties to even; what overflows is infinite.

    By way of a float32 that is cut and whose last bit then says whether anything was cut off: what is rounded
    from that is as rounded at once (Boldo and Melquiond 2008, "Emulation of a FMA and correctly rounded sums:
    proved algorithms using rounding to odd").
    """
    near = np.float32(value)
    back = np.float64(near)
    bits = near.view(np.uint32)
    bits = np.uint32(bits - np.uint32(abs(back) > abs(value)))
    bits = np.uint32(bits | np.uint32(back != value))
    bits = np.uint32(bits + _JUST_UNDER_HALF + ((bits >> _HALF) & _ONE))
    return np.uint16(bits >> _HALF)


@_compiled("void(u2[::1], f8[::1])")
def decode(bits: Bits, out: Wide) -> None:
    """bfloat16 as float64; exact."""
    for i in range(bits.size):
        out[i] = _number(bits[i])


@_compiled("b1(f8[::1], u2[::1])")
def encode(values: Wide, out: Bits) -> bool:
    """float64 as bfloat16, rounded once to nearest, ties to even; whether all of it is finite."""
    largest = np.uint16(0)
    for i in range(values.size):
        nearest = _nearest(values[i])
        out[i] = nearest
        largest = max(largest, np.uint16(nearest & _EXPONENT))
    return bool(largest != _EXPONENT)


@_compiled("b1(u2[:, ::1], f8[::1], u2[::1])")
def weighted_sum(bits: Bits, weights: Wide, out: Bits) -> bool:
    """sum_m weights[m] bits[m] of bfloat16 (models, elements), in float64, rounded once; whether all is finite."""
    block, finite = np.empty(_BLOCK), True
    for begin in range(0, out.size, _BLOCK):
        end = min(begin + _BLOCK, out.size)
        for model in range(weights.size):
            weight, row = weights[model], bits[model, begin:end]
            if model == 0:
                for i in range(row.size):
                    block[i] = weight * _number(row[i])
            else:
                for i in range(row.size):
                    block[i] += weight * _number(row[i])
        finite &= encode(block[: end - begin], out[begin:end])
    return finite


@_compiled("f8(f8[::1], f8[::1])", fastmath={"reassoc", "contract"})  # several sums at a time
def _dot(x: Wide, y: Wide) -> np.float64:
    total = np.float64(0)
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@_compiled("void(f8[:, ::1], i8, f8[:, ::1])")
def _add_products(rows: Wide, length: int, found: Wide) -> None:
    for i in range(len(rows)):
        for j in range(i + 1):
            found[i, j] += _dot(rows[i, :length], rows[j, :length])
            found[j, i] = found[i, j]


@_compiled("f8[:, ::1](f8[:, ::1])")
def gram(values: Wide) -> Wide:
    """The dot products of rows (arrays, elements) with each other: (arrays, arrays)."""
    found = np.zeros((len(values), len(values)))
    _add_products(values, values.shape[1], found)
    return found


@_compiled("f8[:, ::1](u2[:, ::1])")
def gram_of_bits(bits: Bits) -> Wide:
    """`gram` of bfloat16."""
    found, block = np.zeros((len(bits), len(bits))), np.empty((len(bits), _BLOCK))
    for begin in range(0, bits.shape[1], _BLOCK):
        end = min(begin + _BLOCK, bits.shape[1])
        for i in range(len(bits)):
            decode(bits[i, begin:end], block[i, : end - begin])
        _add_products(block, end - begin, found)
    return found
