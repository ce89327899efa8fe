"""Being asked to stop: a scheduler's SIGTERM or SIGUSR1 ends a run at the next step, with a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class StopRequest:
    """Whether this process was asked to stop."""

    asked: bool = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """As a signal's handler: take note."""
        self.asked = True


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Inside, the signals of schedulers are taken note of instead of ending the process.

    Python lets the main thread alone handle signals; in another one nothing is listened to.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {name: signal.signal(name, request) for name in SIGNALS}
    try:
        yield request
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
