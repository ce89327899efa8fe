"""How a process of a run ends when it is asked to, or when the one above it is gone."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


class Stopped(BaseException):
    """The run has asked this stage to stop (SIGTERM)."""


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
