"""`dusk verify` of a model with digests beside reading its bytes, and sha256sum: from the disk, and from memory.

DUSK_BENCH_LAYERS chooses the size: layers of Mistral's shape, 48 are SOLAR 10.7B's 21.5 GB.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.checkpoints import MISTRAL, random_checkpoint
from bench.measure import DUSK, Run, in_turn, measured
from bench.table import Table, Way, at_least

NAME = "verify"
LAYERS_VARIABLE = "DUSK_BENCH_LAYERS"
_LAYERS = 2  # 1.4 GB


def bench(work: Path, rounds: int) -> Iterator[Table]:
    """Every way reads every byte of the weights; the goal is for those on the disk."""
    layers = int(os.environ.get(LAYERS_VARIABLE, _LAYERS))
    model = random_checkpoint(work, f"verified-{layers}", 0, MISTRAL | {"num_hidden_layers": layers})
    measured([DUSK, "verify", str(model), "--write"], work / "log")
    files = sorted(model.glob("*.safetensors"))
    from_disk = _table(model, files, work, rounds, cached=False)
    told = "at least 0.7 of the speed of reading"
    yield replace(from_disk, goals=(at_least(told, from_disk.speed_up("dusk verify", "read"), 0.7),))
    yield _table(model, files, work, rounds, cached=True)
    shutil.rmtree(model)


def _table(model: Path, files: Sequence[Path], work: Path, rounds: int, *, cached: bool) -> Table:
    names = " ".join(map(str, files))
    commands = {
        "dusk verify": [DUSK, "verify", str(model)],
        "read": ["sh", "-c", f"cat {names} > /dev/null"],
        "sha256sum": ["sh", "-c", f"sha256sum {names}"],
    }
    ways = {name: partial(measured, command, work / "log") for name, command in commands.items()}
    runs = in_turn(ways if cached else {name: _uncached(run, files) for name, run in ways.items()}, rounds)
    told = tuple(Way.timed(name, commands[name], runs[name]) for name in runs)
    size = sum(file.stat().st_size for file in files) / 1e6
    where = "from the page cache, as far as it goes" if cached else "from the disk"
    return Table(f"Verify {size / 1000:.2f} GB, {where}", "seconds", "read", told, size)


def _uncached(run: Callable[[], Run], files: Sequence[Path]) -> Callable[[], Run]:
    """The run with these files out of the page cache, where the system can be asked for that (Linux)."""

    def cold() -> Run:
        for file in files if hasattr(os, "posix_fadvise") else ():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)  # pages that are not on the disk yet stay
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
        return run()

    return cold
