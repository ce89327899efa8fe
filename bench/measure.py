"""Commands in processes of their own: wall time, processor time and peak memory, in turn, round by round."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PYTHON = sys.executable
DUSK = str(Path(sys.executable).parent / "dusk")
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}


@dataclass(frozen=True)
class Run:
    """One run of one command. The peak is the resident memory of the child and what it started."""

    seconds: float
    processor_seconds: float
    peak_bytes: int


def measured(command: Sequence[str], log: Path) -> Run:
    """Run a command to its end; raises RuntimeError with the end of its output where it fails."""
    with log.open("wb") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **_ENVIRONMENT})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{shlex.join(command)} ended with {process.returncode}:\n{tail}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def in_turn(ways: Mapping[str, Callable[[], Run]], rounds: int, *, warm_up: int = 1) -> dict[str, list[Run]]:
    """Every way once a round, in another order each round; the warm-up rounds are not kept."""
    kept: dict[str, list[Run]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(warm_up + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            run = ways[name]()
            if number >= warm_up:
                kept[name].append(run)
    return kept
