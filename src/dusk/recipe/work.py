"""One stage in its own process: calls the library function, and completes the output folder.

The function works under `state/<fingerprint>/<stage>`, so a half-written output is only ever continued by
the stage that began it. What is whole gets its `stage.json`, and is then renamed to its place: a folder
there with the right fingerprint is a finished stage, at whatever moment the process is killed.
"""

import contextlib
import fcntl
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

from dusk.checkpoint import OutputFolder
from dusk.checkpoint.output import MARKER
from dusk.errors import DuskError, OutputError, StoppedError
from dusk.recipe.calling import call
from dusk.recipe.extras import missing_extra
from dusk.recipe.ranks import Ranks, launch
from dusk.recipe.stopped import Stopped

STAMP = "stage.json"
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
_LOCK_SECONDS = 30.0
_EVENT_SECONDS = 0.1


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
    except (Stopped, StoppedError):
        tell.send({"event": "stopped"})
        return StoppedError.exit_code
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
        facts = _facts_of(made) or _make(task, made, progress)
        _replace(made, place, state / "old")
    return facts


def _make(task: dict[str, Any], made: Path, progress: Callable[..., None]) -> dict[str, Any]:
    """Have the output made at `made`, with its stamp in it."""
    begin = time.perf_counter()
    if task["out"] == "whole":
        returned = None if made.is_dir() else _call(task, made, progress)
        return _stamp(task, made, returned, begin)
    resume_key = None if task["out"] == "folder" else task["stamp"]["fingerprint"]
    with OutputFolder(made, resume_key) as output:
        out = output.path if task["out"] == "folder" else output.path / task["out"]
        facts = _stamp(task, output.path, _call(task, out, progress), begin)
        output.commit()
    return facts


def _call(task: dict[str, Any], out: Path, progress: Callable[..., None]) -> Any:
    if task.get("ranks"):
        return launch(task, out, progress, Ranks(**task["ranks"]))
    threads = task["arguments"].get("threads", task["threads"])
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    return call(task["function"], task["arguments"], out=out, progress=progress, threads=threads)


def _stamp(task: dict[str, Any], folder: Path, returned: Any, begin: float) -> dict[str, Any]:
    """Write the facts of a whole output into it, and so make it a finished stage's."""
    results = _results(folder, returned)
    elapsed = round(time.perf_counter() - begin, 3)
    facts = {
        **task["stamp"],
        "seconds": max(elapsed, results.get("seconds") or 0.0),  # longer, where it was continued
        "peak_memory_bytes": _peak_memory_bytes(),
        "results": results,
    }
    _write(folder / STAMP, facts)
    return facts


def _peak_memory_bytes() -> int:
    """The most memory that this process, or one that it started, had at once."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in whose) * _RSS_UNIT_BYTES


def _facts_of(made: Path) -> dict[str, Any] | None:
    """The facts of an output that is whole and has only not been moved to its place."""
    stamp = made / STAMP
    facts: dict[str, Any] | None = json.loads(stamp.read_text("utf-8")) if stamp.is_file() else None
    return facts


def _results(folder: Path, returned: Any) -> dict[str, Any]:
    """The measured results: what the function returned, else those of the output's own `dusk.json`."""
    if isinstance(returned, dict):
        return returned
    manifest = folder / "dusk.json"
    found = json.loads(manifest.read_text("utf-8")).get("results") if manifest.is_file() else None
    return found if isinstance(found, dict) else {}


def _replace(made: Path, place: Path, old: Path) -> None:
    """Rename into place; what is there moves aside first. Killed in between, `made` is still whole."""
    (made / MARKER).unlink(missing_ok=True)  # of a process killed at the end of its commit
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
    error = missing_extra(error) or error
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
