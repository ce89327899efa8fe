"""The process that stages are forked from, once the heavy modules are in it.

Two of them serve a run: one at once, for stages that need no torch, and one that imports torch first,
while the others already work. Against `multiprocessing`'s forkserver this one does not import the caller's
main module, does not block the caller until it is ready, ends with the run, and ends its stages with itself.

The control socket carries one byte and one file descriptor a stage: the stage's end of a pair of sockets.
Over the pair go the task (one JSON line, in) and the stage's events (JSON lines, out); the last line, with
the exit status, is written by this process when the stage has ended.
A control socket that ends means that the run is gone: whatever still works is killed.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from dusk.recipe.stopped import die_with_parent
from dusk.recipe.work import work

_POLL_SECONDS = 0.05


class ForkServer:
    """The run's side of the server: starts it, asks it for stages, stops it."""

    def __init__(self, log: Path, *, heavy: bool, threads: int) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.control, theirs = socket.socketpair()
        call = f"from dusk.recipe.forkserver import serve; serve({theirs.fileno()}, heavy={heavy})"
        with theirs, log.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", call],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, **_environment(threads)},
                start_new_session=True,  # an interrupt at the keyboard is the run's to answer
            )

    def fork(self, task: dict[str, Any]) -> socket.socket:
        """Start a stage; returns the socket that its events come from. Does not wait for the server."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [b"f"], [theirs.fileno()])
        ours.sendall(json.dumps(task).encode() + b"\n")
        return ours

    def stop(self) -> None:
        """End the server, and with it every stage that still works."""
        self.control.close()
        try:
            self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:  # it is importing, and has no stages yet
            self.process.kill()
            self.process.wait()


def _environment(threads: int) -> dict[str, str]:
    """Fixed numbers of threads: sums of floats depend on them, and so would the results."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), "TOKENIZERS_PARALLELISM": "false"}


def serve(descriptor: int, *, heavy: bool) -> None:
    """Fork a stage for every byte that comes, until the control socket ends."""
    control = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    if heavy:
        from dusk.recipe.preload import preload

        preload()
    stages: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([control], [], [], _POLL_SECONDS if stages else None)
        _reap(stages)
        if not ready:
            continue
        byte, descriptors = _receive(control)
        if not byte:
            break
        events = socket.socket(fileno=descriptors[0])
        pid = os.fork()
        if pid == 0:
            _stage(control, events, stages)
        stages[pid] = events
    for pid in stages:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    os._exit(0)


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    try:
        byte, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    except ConnectionError:
        return b"", []
    return byte, descriptors


def _stage(control: socket.socket, events: socket.socket, others: dict[int, socket.socket]) -> None:
    """The forked process: do the work, and never return."""
    os.setsid()  # a group of its own, so that what it starts ends with it
    die_with_parent()
    control.close()
    for other in others.values():
        other.close()
    status = 70
    try:
        status = work(events)
    finally:
        os._exit(status)


def _reap(stages: dict[int, socket.socket]) -> None:
    for pid in list(stages):
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            continue
        with contextlib.suppress(ProcessLookupError):  # what it left running
            os.killpg(pid, signal.SIGKILL)
        told = {"event": "exit", "status": os.waitstatus_to_exitcode(status)}
        with stages.pop(pid) as events, contextlib.suppress(OSError):
            events.sendall(b"\n" + json.dumps(told).encode() + b"\n")
