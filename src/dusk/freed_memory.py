"""What becomes of memory that is freed: glibc's malloc told so; under another C library nothing changes."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


def give_back() -> None:
    """What is free goes back to the system now, and blocks of 1 MiB or more as soon as they are freed.

    Left alone glibc raises that threshold to 32 MiB as such blocks are freed, and keeps the memory of smaller
    ones: many layers' worth of a model with weights below that size.
    """
    _call("mallopt", _MMAP_THRESHOLD, _MIB)
    _call("mallopt", _TRIM_THRESHOLD, 128 * _KIB)
    _call("malloc_trim", 0)


def keep() -> None:
    """Up to a GiB is kept for what is allocated next.

    A training step allocates and frees the same tensors over and over. Given back in between, their pages are
    fetched and zeroed anew each time: 5 % of a step of a small model.
    """
    if not _call("mallopt", _MMAP_THRESHOLD, _GIB):
        _call("mallopt", _MMAP_THRESHOLD, 32 * _MIB)  # the most before glibc 2.35
    _call("mallopt", _TRIM_THRESHOLD, _GIB)


def _call(function: str, *values: int) -> bool:
    """Whether the C library has the function and it took the values."""
    with suppress(OSError, AttributeError, TypeError):
        return bool(getattr(ctypes.CDLL(None), function)(*values))
    return False
