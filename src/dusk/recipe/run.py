"""Running a recipe: which stage is next, in which process, and what is kept when something ends early."""

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from dusk import errors
from dusk.errors import DuskError, StoppedError, WorkError
from dusk.recipe.fingerprint import fingerprints
from dusk.recipe.folder import RunFolder
from dusk.recipe.forkserver import ForkServer
from dusk.recipe.kinds import KINDS
from dusk.recipe.load import load_recipe
from dusk.recipe.machine import cores, gpus
from dusk.recipe.nodes import Leader, follow, this_node
from dusk.recipe.outcome import Progress, RunReport, StageEvent, StageReport
from dusk.recipe.ranks import Ranks, free_meeting
from dusk.recipe.recipe import Recipe

_STOP_SECONDS = 5.0
_SAVE_SECONDS = 900.0  # for the checkpoint of training that a scheduler stops; it has a limit of its own


def run(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    jobs: int | None = None,
    reuse: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> RunReport:
    """Run a recipe into the folder `out`, or continue the run that is there.

    A stage whose output was made from the same settings and the same inputs is kept; every other one is
    done, in a process of its own, as soon as the stages that it uses are there. When a stage fails, those
    that work already are finished and no other one begins.

    Args:
        recipe: the recipe, or the path of its file.
        out: the run folder.
        jobs: stages side by side [2, or 1 on a machine with a GPU].
        reuse: other run folders; a stage that one of them has finished, made from the same settings and the
            same inputs, is copied from there.
        progress: called with every StageEvent.

    Raises:
        RecipeError: the recipe is wrong; nothing was begun.
        OutputError: another run works in the folder.
        StoppedError: SIGTERM or SIGUSR1 came; what was done is saved.
        DuskError: a stage failed; the error is the stage's own.

    With `nodes:` in the recipe it is called on every machine, with the same folder on a disk that all see; all but
    the first lend their GPUs to the stages that train (see `nodes.py`).
    """
    whole = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if jobs is not None and jobs < 1:
        raise errors.SettingError(f"jobs is {jobs}; it is a number of stages, from 1.")
    folder = RunFolder(Path(out).absolute())
    node = this_node(whole.nodes or 1)
    if node:
        folder.state.mkdir(parents=True, exist_ok=True)
        follow(folder.state, node)
        return RunReport(folder.path, whole.name, whole.seed, 0, 0, 0.0, [], node)
    folder.open(whole)
    with folder.locked(), _terminating(), _leading(whole, folder) as leader:
        work = _Run(whole, folder, jobs or (1 if whole.ranks > 1 else default_jobs()), progress or _silent)
        work.leader = leader
        work.others = [RunFolder(Path(other).absolute()) for other in reuse]
        return work.run()


def default_jobs() -> int:
    """Two stages side by side where there are two cores; one where a GPU is to be shared."""
    return 1 if gpus() else min(2, cores())


def _leading(recipe: Recipe, folder: RunFolder) -> contextlib.AbstractContextManager[Leader | None]:
    return Leader(folder.state) if (recipe.nodes or 1) > 1 else contextlib.nullcontext()


@dataclass
class _Working:
    """A stage at work: where its events come from, and what they have told."""

    report: StageReport
    events: socket.socket
    begin: float = field(default_factory=time.monotonic)
    pid: int | None = None
    unread: bytes = b""
    told: dict[str, Any] = field(default_factory=dict)
    exited: dict[str, Any] = field(default_factory=dict)


class _Run:
    """One `run`: the stages that wait, those that work, and the report of all."""

    def __init__(self, recipe: Recipe, folder: RunFolder, jobs: int, progress: Progress) -> None:
        self.recipe, self.folder, self.progress = recipe, folder, progress
        prints = fingerprints(recipe)
        threads = recipe.threads or folder.summary().get("threads") or max(1, cores() // jobs)
        stages = [
            StageReport(name, settings.kind, "waiting", recipe.uses(name), settings.shown(), prints[name])
            for name, settings in recipe.stages.items()
        ]
        tables = {name: table.shown() for name, table in recipe.tables.items()}
        self.report = RunReport(
            folder.path, recipe.name, recipe.seed, jobs, threads, 0.0, stages, tables=tables
        )
        self.servers: dict[bool, ForkServer] = {}
        self.working = selectors.DefaultSelector()
        self.failure: DuskError | None = None
        self.others: Sequence[RunFolder] = ()
        self.leader: Leader | None = None
        self.begin = time.monotonic()

    def run(self) -> RunReport:
        """Do every stage that is not done; returns the report, or raises the first failure."""
        self.folder.write("recipe.yaml", self.recipe.to_yaml())
        try:
            self._keep_finished()
            self._start_servers()
            while self._start_ready() or self.working.get_map():
                self._listen()
        finally:
            self._stop()
        if self.failure is not None:
            raise self.failure
        self.folder.clear_state()
        return self.report

    def _keep_finished(self) -> None:
        for stage in self.report.stages:
            facts = self.folder.finished(stage.name, stage.fingerprint)
            for other in self.others if facts is None else ():
                facts = facts or self.folder.take(other, stage.name, stage.fingerprint)
            if facts is not None and all(self.report.stage(name).status == "done" for name in stage.uses):
                stage.kept = True
                self._finish(stage, facts)

    def _start_servers(self) -> None:
        """The process that imports torch starts at once, while stages that need none already work."""
        waiting = [KINDS[stage.kind].torch for stage in self.report.stages if stage.status == "waiting"]
        for heavy in sorted(set(waiting)):
            log = self.folder.state / "log" / "_forks.log"
            self.servers[heavy] = ForkServer(log, heavy=heavy, threads=self.report.threads)

    def _start_ready(self) -> bool:
        """Start what can be started; returns whether a stage was."""
        started = False
        for stage in self.report.stages:
            ready = all(self.report.stage(name).status == "done" for name in stage.uses)
            if stage.status != "waiting" or not ready:
                continue
            if self.failure is None and len(self.working.get_map()) < self.report.jobs:
                started = self._start(stage) or started
        self._save()
        return started

    def _start(self, stage: StageReport) -> bool:
        kind = KINDS[stage.kind]
        stages = dict.fromkeys(self.recipe.stages)
        try:
            arguments = self.folder.arguments(self.recipe.stages[stage.name], stages)
        except DuskError as error:
            self._fail(stage, error)
            return False
        task = {
            "function": kind.function,
            "arguments": arguments,
            "out": kind.out,
            "unit": kind.unit,
            "threads": self.report.threads,
            "state": str(self.folder.state / stage.fingerprint[:16]),
            "place": str(self.folder.stage(stage.name)),
            "log": str(self.folder.state / "log" / f"{stage.name}.log"),
            "path": sys.path,
            "stamp": {"stage": stage.name, "kind": stage.kind, "fingerprint": stage.fingerprint},
        }
        if kind.ranks and self.recipe.ranks > 1:
            task["ranks"] = asdict(self._ranks())
        if self.leader is not None and "ranks" in task:
            self.leader.announce(task)
        stage.status = "running"
        work = _Working(stage, self.servers[kind.torch].fork(task))
        self.working.register(work.events, selectors.EVENT_READ, work)
        self._tell(stage)
        return True

    def _ranks(self) -> Ranks:
        return Ranks(self.recipe.gpus or 1, self.recipe.nodes or 1, meeting=free_meeting())

    def _listen(self, seconds: float | None = None) -> None:
        for key, _ in self.working.select(seconds):
            work: _Working = key.data
            try:
                received = work.events.recv(65536)
            except ConnectionError:
                received = b""
            *lines, work.unread = (work.unread + received).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # cut short by a kill
                    self._event(work, json.loads(line))
            if not received:
                self.working.unregister(work.events)
                work.events.close()
                self._ended(work)

    def _event(self, work: _Working, event: dict[str, Any]) -> None:
        match event.pop("event"):
            case "started":
                work.pid = event["pid"]
            case "progress":
                self._tell(work.report, seconds=time.monotonic() - work.begin, **event)
            case "exit":
                work.exited = event
            case told:
                work.told = {"event": told, **event}

    def _ended(self, work: _Working) -> None:
        stage = work.report
        facts = self.folder.finished(stage.name, stage.fingerprint)
        if facts is not None:
            self._finish(stage, facts)
        elif work.told.get("event") == "stopped":
            stage.status = "stopped"
            self._tell(stage)
        else:
            stage.seconds = round(time.monotonic() - work.begin, 3)
            self._fail(stage, self._error(work))

    def _finish(self, stage: StageReport, facts: dict[str, Any]) -> None:
        stage.status = "done"
        stage.seconds, stage.peak_memory_bytes = facts.get("seconds"), facts.get("peak_memory_bytes")
        stage.results = facts.get("results") or {}
        stage.taken_from = facts.get("taken_from")
        self._tell(stage, seconds=stage.seconds or 0.0)

    def _fail(self, stage: StageReport, error: DuskError) -> None:
        error.message = f"stage '{stage.name}': {error.message}"
        stage.status, stage.error = "failed", str(error)
        self._tell(stage, message=str(error))
        self.failure = self.failure or error

    def _error(self, work: _Working) -> DuskError:
        """The stage's own error; where it is none of ours, one that says where to read more."""
        told, log = work.told, self.folder.state / "log" / f"{work.report.name}.log"
        known = getattr(errors, told.get("type") or "", None)
        if known is not None:
            error: DuskError = known(told["message"], problems=told["problems"], remedy=told["remedy"])
            return error
        status = work.exited.get("status")
        ended = f"its process ended ({_status(status)})"
        return WorkError(
            f"{told.get('message', ended)}.",
            remedy=f"The whole story is in {log}. The same command continues from what is done.",
        )

    def _tell(self, stage: StageReport, **more: Any) -> None:
        self.progress(StageEvent(stage.name, stage.kind, stage.status, stage.kept, **more))

    def _save(self) -> None:
        self.report.seconds = round(time.monotonic() - self.begin, 3)
        self.folder.write_summary(self.report)

    def _stop(self) -> None:
        """End what still works, kindly at first, and write down how far the run came.

        Training that a scheduler has stopped is given the time to write its checkpoint.
        """
        saving = isinstance(sys.exc_info()[1], StoppedError)
        training = any(KINDS[key.data.report.kind].ranks for key in self.working.get_map().values())
        for key in list(self.working.get_map().values()):
            if key.data.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(key.data.pid, signal.SIGTERM)
        deadline = time.monotonic() + (_SAVE_SECONDS if saving and training else _STOP_SECONDS)
        while self.working.get_map() and any(key.data.pid for key in self.working.get_map().values()):
            if time.monotonic() > deadline:
                break
            self._listen(0.1)
        for server in self.servers.values():
            server.stop()
        for stage in self.report.stages:
            stage.status = "stopped" if stage.status == "running" else stage.status
        self._save()


def _status(status: int | None) -> str:
    if status is None:
        return "with the process that it was forked from"
    if status < 0:
        name = signal.Signals(-status).name
        return f"killed by {name}" + ("; was there enough memory?" if name == "SIGKILL" else "")
    return f"status {status}"


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Have SIGTERM and SIGUSR1 end the run as an interrupt does, so that its stages end with it."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise StoppedError(
            f"stopped as asked ({signal.Signals(signum).name}).",
            remedy="What was done is saved; the same command continues.",
        )

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.signal(sign, stop) for sign in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _silent(event: StageEvent) -> None:
    """Show nothing."""
