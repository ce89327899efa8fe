"""Threads that each work in a lane of their own; numpy and the system let them run at once."""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from dusk.merge.pieces import Lane

T = TypeVar("T")

_MOST_LANES = 8  # more wait for the disk, and each has 10 MiB
_AHEAD = 3  # tasks waiting for each lane: what is read ahead of the computation


class Crew:
    """Tasks in their order, a bounded number at a time.

    A task's failure is raised by the next call of `submit`, `take` or `drain`. Leaving the context drops the
    tasks that have not begun and waits for those that have.
    """

    def __init__(self, make_lane: Callable[[], Lane]) -> None:
        self._lanes = threading.local()
        self._make_lane = make_lane
        count = lane_count()
        self._pool = ThreadPoolExecutor(count, "merge")
        self._most = (1 + _AHEAD) * count
        self._waiting: deque[tuple[Future[Any], Callable[[Any], None] | None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, work: Callable[[Lane], T], when_done: Callable[[T], None] | None = None) -> None:
        """Queues a task; `when_done` gets its result, in this thread, in the order of the tasks."""
        while len(self._waiting) >= self._most:
            self.take()
        future = self._pool.submit(lambda: work(self._lane()))
        self._waiting.append((future, when_done))

    def drain(self) -> None:
        """Waits for every task."""
        while self._waiting:
            self.take()

    def take(self) -> None:
        """Waits for the task that was queued first, and passes its result on."""
        future, when_done = self._waiting.popleft()
        result = future.result()
        if when_done:
            when_done(result)

    def _lane(self) -> Lane:
        if not hasattr(self._lanes, "lane"):
            self._lanes.lane = self._make_lane()
        lane: Lane = self._lanes.lane
        return lane


def lane_count() -> int:
    """Two more than the cores that this process may use, so that two may wait for the disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores + 2, _MOST_LANES)
