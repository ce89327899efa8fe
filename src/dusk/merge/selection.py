"""The k-th largest magnitude of more numbers than fit into memory, exactly: counted in two passes.

The bits of float32 numbers without their sign are ordered as the magnitudes are. The first pass counts the
upper half of the bits, 2^15 classes; the second the lower half within the class that holds the k-th largest.
Counts add up, so neither pieces nor their order change the result.
"""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Magnitudes = NDArray[np.float32]

_UPPER_CLASSES, _LOWER_CLASSES = 1 << 15, 1 << 16


def upper_counts(magnitudes: Magnitudes) -> Counts:
    """How many magnitudes have each upper half, (2^15,)."""
    return np.bincount((_bits(magnitudes) >> np.uint32(16)).astype(np.intp), minlength=_UPPER_CLASSES)


def lower_counts(magnitudes: Magnitudes, upper: int) -> Counts:
    """How many magnitudes with this upper half have each lower half, (2^16,)."""
    bits = _bits(magnitudes)
    inside = bits[bits >> np.uint32(16) == upper] & np.uint32(0xFFFF)
    return np.bincount(inside.astype(np.intp), minlength=_LOWER_CLASSES)


def kth_largest(counts: Counts, k: int) -> tuple[int, int]:
    """The class of the k-th largest (k from 1), and which of the largest it is within the class."""
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, k))
    return len(counts) - 1 - place, k - (int(above[place - 1]) if place else 0)


def magnitude_of(upper: int, lower: int) -> np.float32:
    """The magnitude with these halves of its bits."""
    return np.uint32(upper << 16 | lower).view(np.float32)


def _bits(magnitudes: Magnitudes) -> NDArray[np.uint32]:
    return magnitudes.reshape(-1).view(np.uint32)
