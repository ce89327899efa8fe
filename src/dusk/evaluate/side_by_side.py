"""Several models at a time on a CPU, each in a forked process.

One thread a model is far more efficient for small models than several threads on one. A fork has the imports
and the prepared tasks already; what it measures goes into the model's items file, and back to the caller.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from dusk.errors import WorkError

T = TypeVar("T")
Tell = Callable[[str, float], None]
Work = Callable[[str, Tell], T]

_POLL_SECONDS = 0.2
_inherited: dict[str, Any] = {}  # what forks find in their memory: tasks of the harness cannot be pickled


def can_fork() -> bool:
    """Whether this system makes processes by forking."""
    return "fork" in multiprocessing.get_all_start_methods()


def side_by_side(names: list[str], work: Work[T], *, jobs: int, tell: Tell) -> Iterator[T]:
    """`work(name, tell)` for every name, in `jobs` forks; results in the order of the names.

    Raises:
        WorkError: a process was killed.
    """
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    _inherited.update(work=work, told=told)
    try:
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            futures: list[Future[T]] = [pool.submit(_in_fork, name) for name in names]
            try:
                _listen(futures, told, tell)
                yield from (future.result() for future in futures)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except BrokenProcessPool as error:
        raise WorkError(
            "a process that evaluated a model was killed",
            remedy="It may have run out of memory: try with --jobs 1. What was measured is kept.",
        ) from error
    finally:
        _inherited.clear()


def _in_fork(name: str) -> Any:
    return _inherited["work"](name, lambda label, done: _inherited["told"].put((label, done)))


def _listen(futures: list[Future[T]], told: Any, tell: Tell) -> None:
    """Pass on what the forks tell, until all are done or one has failed."""
    waiting: set[Future[T]] = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        while not told.empty():
            tell(*told.get())
        for future in done:
            if future.exception() is not None:
                return
