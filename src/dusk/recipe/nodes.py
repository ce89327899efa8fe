"""A run on several machines that share a file system: node 0 runs the recipe, the others lend it their GPUs.

`dusk run` is started on every machine. Node 0 says in `state/nodes.json` which training stage begins and where
its ranks meet; the others start their ranks of it, and wait for the next. A number that grows with every beat says
that node 0 lives.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dusk.errors import DuskError, SettingError, WorkError
from dusk.recipe.ranks import Ranks, launch, read_told, write_told

_FILE = "nodes.json"
_VARIABLES = ("DUSK_NODE", "SLURM_NODEID")
_BEAT_SECONDS = 1.0
_SILENCE_SECONDS = 300.0


def this_node(nodes: int) -> int:
    """Which of the machines this is, as DUSK_NODE or SLURM says; raises `SettingError` where neither does."""
    said = next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), None)
    if nodes == 1:
        return 0
    if said is None or not said.isdigit() or int(said) >= nodes:
        raise SettingError(
            f"the recipe asks for {nodes} nodes, and {said or 'nothing'} says which of them this machine is.",
            remedy=f"Start the same command on each, with DUSK_NODE=0 to {nodes - 1}; SLURM says it by itself.",
        )
    return int(said)


class Leader:
    """Node 0's side: beats, and announces stages."""

    def __init__(self, state: Path) -> None:
        self.file = state / _FILE
        self.told: dict[str, Any] = {"number": 0, "beat": 0, "ended": False}
        self.ended = threading.Event()
        self.turn = threading.Lock()
        self.thread = threading.Thread(target=self._beats, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def announce(self, task: Mapping[str, Any]) -> None:
        """Have the other nodes start their ranks of this task."""
        self._tell(number=self.told["number"] + 1, task=dict(task))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join()
        self._tell(ended=True)

    def _beats(self) -> None:
        while not self.ended.wait(_BEAT_SECONDS):
            self._tell()

    def _tell(self, **more: Any) -> None:
        with self.turn:
            self.told = {**self.told, **more, "beat": time.time_ns()}
            write_told(self.file, self.told)


def follow(state: Path, node: int) -> int:
    """Do this node's part of every stage that node 0 announces, until it has ended; returns their number.

    Raises:
        WorkError: node 0 does not show, or is gone.
    """
    with _unmoved():
        return _follow(state, node)


def _follow(state: Path, node: int) -> int:
    seen, done, heard = read_told(state / _FILE).get("beat"), 0, time.monotonic()
    alive = False
    while True:
        time.sleep(_BEAT_SECONDS / 2)
        told = read_told(state / _FILE)
        if told.get("beat") not in (None, seen):
            seen, heard, alive = told["beat"], time.monotonic(), True
        if time.monotonic() - heard > _SILENCE_SECONDS:
            raise WorkError(
                f"node 0 {'is gone' if alive else 'does not show'}: {state / _FILE} has not changed for "
                f"{_SILENCE_SECONDS:.0f} seconds.",
                remedy="Start the same command on every node, with --out on a disk that all of them see.",
            )
        if alive and told.get("ended"):
            return done
        if alive and told.get("number", 0) > done:
            done = told["number"]
            _lend(told["task"], node)
            heard = time.monotonic()


@contextmanager
def _unmoved() -> Iterator[None]:
    """A scheduler tells all nodes to stop: node 0 sees to it, and the ranks here save with its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.signal(sign, lambda *_: None) for sign in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _lend(task: Mapping[str, Any], node: int) -> None:
    """This node's ranks of one stage; what goes wrong in them is node 0's to tell, and perhaps to begin again."""
    ranks = Ranks(**{**task["ranks"], "node": node})
    ranks.require_devices()
    try:
        launch(task, Path(task["state"]) / Path(task["place"]).name, _silent, ranks)
    except DuskError as error:
        log = Path(task["state"]) / f"ranks-{node}" / "log"
        log.write_text(json.dumps(str(error)), encoding="utf-8")


def _silent(*_: Any, **__: Any) -> None:
    """Node 0 shows the progress."""
