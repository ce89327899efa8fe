"""A few threads for work that the system does: reads, writes and digests let the interpreter go on."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = min(4, _CORES) if hasattr(os, "preadv") else 1  # without it an open file has one position


def in_threads(work: Callable[[Iterator[T]], None], items: Sequence[T], threads: int = THREADS) -> None:
    """Shares the items out among threads, in their order; `work` takes its share one by one.

    The first error of any thread, or Ctrl-C, ends them all and is raised.
    """
    line, lock = iter(items), threading.Lock()
    errors: list[BaseException] = []

    def share() -> Iterator[T]:
        while not errors:
            with lock:
                try:
                    item = next(line)
                except StopIteration:
                    return
            yield item

    def run() -> None:
        try:
            work(share())
        except BaseException as error:  # raised again below, in the thread that waits
            errors.append(error)

    helpers = [threading.Thread(target=run, daemon=True) for _ in range(min(threads, len(items)) - 1)]
    for helper in helpers:
        helper.start()
    run()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
