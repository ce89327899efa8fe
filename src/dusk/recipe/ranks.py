"""A training stage in several processes: torchrun started, watched and stopped by the stage's own process.

The stage's process starts torchrun, torchrun starts one rank a GPU, and each rank runs `dusk.recipe.rank` with the
stage's task. What they have to tell lies as files in the stage's folder: how far rank 0 is, the error of the rank
that failed first, their process ids. Whoever loses its parent is killed by the kernel (Linux).
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dusk import errors
from dusk.errors import DuskError, SettingError, WorkError
from dusk.recipe.machine import gpus
from dusk.recipe.stopped import Stopped, die_with_parent

ON_PROCESSORS = "DUSK_RANKS_ON_CPU"
"""Set to 1, a recipe for GPUs runs its ranks on the processors: a rehearsal."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Ranks:
    """How many processes train, and where they meet.

    Attributes:
        gpus: processes on this machine, one a GPU.
        nodes: machines, with as many each.
        node: which of them this is, from 0.
        meeting: host and port of the first one.
    """

    gpus: int
    nodes: int = 1
    node: int = 0
    meeting: str = ""

    def require_devices(self) -> None:
        """Raises `SettingError` where this machine has fewer GPUs."""
        if os.environ.get(ON_PROCESSORS) != "1" and gpus() < self.gpus:
            raise SettingError(
                f"the recipe asks for {self.gpus} GPUs, and this machine has {gpus()}.",
                remedy=f"Lower `gpus:`. {ON_PROCESSORS}=1 rehearses the recipe on the processors.",
            )


def free_meeting() -> str:
    """This machine's name and a port that is free."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return f"{socket.gethostname()}:{listener.getsockname()[1]}"


def launch(task: Mapping[str, Any], out: Path, progress: Callable[..., None], ranks: Ranks) -> None:
    """Do a task's training in `ranks.gpus` processes here, and wait for them.

    Raises:
        DuskError: that of the rank that failed first; `StoppedError` once a stop that was asked for is done.
        WorkError: a rank ended without a word.
    """
    ranks.require_devices()
    folder = Path(task["state"]) / f"ranks-{ranks.node}"
    folder.mkdir(parents=True, exist_ok=True)
    for told in folder.iterdir():
        told.unlink()
    own = {key: task[key] for key in ("function", "arguments", "threads", "path")}
    (folder / "task.json").write_text(json.dumps({**own, "out": str(out)}), encoding="utf-8")
    process = subprocess.Popen(
        [*_torchrun(ranks), "-m", "dusk.recipe.rank", str(folder)],
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(task["threads"]),
            "PYTHONPATH": os.pathsep.join(task["path"]),
        },
        start_new_session=True,  # what stops the stage asks the ranks first
        preexec_fn=die_with_parent,  # noqa: PLW1509  (one thread, and nothing but a system call)
    )
    try:
        asked = _watch(process, folder, progress)
    except BaseException:
        process.kill()  # the ranks follow
        process.wait()
        raise
    if process.returncode:
        failure = read_told(folder / "failure.json")
        if asked and not failure:
            raise Stopped  # before there was anything to save
        raise _error(failure, process.returncode)


def _torchrun(ranks: Ranks) -> list[str]:
    host, port = (ranks.meeting or free_meeting()).rsplit(":", 1)
    place = [f"--node-rank={ranks.node}", f"--master-addr={host if ranks.nodes > 1 else '127.0.0.1'}"]
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={ranks.nodes}", f"--nproc-per-node={ranks.gpus}", *place, f"--master-port={port}"),
    ]


def _watch(process: subprocess.Popen[bytes], folder: Path, progress: Callable[..., None]) -> bool:
    """Hand on the progress until the ranks have ended; a stop is handed on to them, and they save.

    Returns whether there was one.
    """
    last, asked = None, False
    while process.poll() is None:
        try:
            time.sleep(_POLL_SECONDS)
            told = read_told(folder / "progress.json")
            if told and told != last:
                last = told
                progress(told["done"], told["total"], told["unit"], **told["values"])
        except Stopped:
            asked = _ask_to_stop(folder)
            if not asked:
                raise
    return asked


def _ask_to_stop(folder: Path) -> bool:
    """Tell one rank, which tells the others; whether there was one at work."""
    asked = False
    for file in folder.glob("*.pid"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(file.read_text()), signal.SIGUSR1)
            asked = True
    return asked


def _error(told: Mapping[str, Any], status: int) -> DuskError:
    known = getattr(errors, str(told.get("type")), None)
    if known is not None:
        error: DuskError = known(told["message"], problems=told["problems"], remedy=told["remedy"])
        return error
    return WorkError(
        f"{told.get('message') or f'a rank ended without a word (torchrun: status {status})'}.",
        remedy="The stage's log has the whole story. The same command continues from the last checkpoint.",
    )


def read_told(file: Path) -> dict[str, Any]:
    """What another process left in a file; empty where there is nothing."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def write_told(file: Path, content: Mapping[str, Any]) -> None:
    """Leave word for another process, whole or not at all."""
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, default=str), encoding="utf-8")
    partial.replace(file)
