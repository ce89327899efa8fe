"""One stage in its own process: calls the library function, and completes the output folder.

The function works under `state/<fingerprint>/<stage>`, so a half-written output is only ever continued by
the stage that began it. What is whole gets its `stage.json`, and is then renamed to its place: a folder
there with the right fingerprint is a finished stage, at whatever moment the process is killed.
"""

import contextlib
import ctypes
import fcntl
import importlib
import inspect
import json
import os
import resource
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dusk.errors import DuskError, OutputError

STAMP = "stage.json"
_LOCK_SECONDS = 30.0
_EVENT_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1


class Stopped(BaseException):
    """The run has asked this stage to stop (SIGTERM)."""


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def work(events: socket.socket) -> int:
    """Read the task from the socket, do it, tell what came of it; returns the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    with events.makefile("r", encoding="utf-8") as lines:
        task = json.loads(lines.readline())
    tell = _Teller(events, task["unit"])
    tell.send({"event": "started", "pid": os.getpid()})
    _into_log(Path(task["log"]))
    sys.path[:] = task["path"]
    try:
        results = perform(task, tell.progress)
    except Stopped:
        tell.send({"event": "stopped"})
        return 143
    except BaseException as error:
        traceback.print_exc()
        tell.send(_failure(error))
        return error.exit_code if isinstance(error, DuskError) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    tell.send({"event": "done", **results})
    return 0


def perform(task: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Do the task and put its output in its place; returns the facts of `stage.json`."""
    state, place = Path(task["state"]), Path(task["place"])
    state.mkdir(parents=True, exist_ok=True)
    made = state / place.name
    with _locked(state / "lock"):
        begin = time.perf_counter()
        returned = None if made.is_dir() else _call(task, made, progress)
        facts = {
            **task["stamp"],
            "seconds": round(time.perf_counter() - begin, 3),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024),
            "results": _results(made, returned),
        }
        if not (made / STAMP).is_file():
            _write(made / STAMP, facts)
        _replace(made, place, state / "old")
    return facts


def _call(task: dict[str, Any], made: Path, progress: Callable[..., None]) -> Any:
    module, name = task["function"].split(":")
    function = getattr(importlib.import_module(module), name)
    arguments = dict(task["arguments"])
    accepted = inspect.signature(function).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    if "progress" in accepted:
        arguments["progress"] = progress
    if "threads" in accepted or open_ended:
        arguments.setdefault("threads", task["threads"])
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(arguments.get("threads", task["threads"]))
    if task["out"] == "whole":
        return function(out=made, **arguments)
    partial = made.with_name(f"{made.name}.partial")
    if task["out"] == "folder":
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    returned = function(out=partial if task["out"] == "folder" else partial / task["out"], **arguments)
    partial.rename(made)
    return returned


def _results(made: Path, returned: Any) -> dict[str, Any]:
    """The measured results: of the output's own `dusk.json`, else of what the function returned."""
    manifest = made / "dusk.json"
    found: Any = None
    if manifest.is_file():
        found = json.loads(manifest.read_text(encoding="utf-8")).get("results")
    elif isinstance(returned, dict):
        found = returned
    return found if isinstance(found, dict) else {}


def _replace(made: Path, place: Path, old: Path) -> None:
    """Rename into place; what is there moves aside first. Killed in between, `made` is still whole."""
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    made.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that the file is either whole or absent."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, default=str)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for a process of a killed run, which may need a moment to end."""
    deadline = time.monotonic() + _LOCK_SECONDS
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OutputError(f"{path}: another process still writes here.") from None
                time.sleep(0.05)
        yield


class _Teller:
    """Sends events to the run, progress at most ten times a second."""

    def __init__(self, events: socket.socket, unit: str) -> None:
        self.events, self.unit = events, unit
        self.last = 0.0

    def send(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the run is gone, and this process with it in a moment
            self.events.sendall(json.dumps(event, default=str).encode() + b"\n")

    def progress(self, done: float, total: float | None = None, unit: str = "", **values: Any) -> None:
        now = time.monotonic()
        if now - self.last >= _EVENT_SECONDS or done == total:
            self.last = now
            if self.unit and unit:
                values["message"] = unit
            told = {"done": done, "total": total, "unit": self.unit or unit, "values": values}
            self.send({"event": "progress", **told})


def _failure(error: BaseException) -> dict[str, Any]:
    if isinstance(error, DuskError):
        told = {"type": type(error).__name__, "message": error.message, "remedy": error.remedy}
        return {"event": "failed", **told, "problems": error.problems}
    return {"event": "failed", "type": "", "message": f"{type(error).__name__}: {error}"}


def _into_log(path: Path) -> None:
    """Send what the libraries print to the stage's log rather than across the progress display."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name in ("stdout", "stderr"):
        setattr(sys, name, os.fdopen(1 if name == "stdout" else 2, "w", buffering=1, closefd=False))


def _stop(signum: int, frame: object) -> None:
    raise Stopped
