"""`dusk scale` of a Mistral-7B-shaped checkpoint where blocks can be shared: XFS and btrfs in mounted images."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.checkpoints import MISTRAL, cleared, random_checkpoint
from bench.measure import DUSK, in_turn
from bench.table import Table, Way, at_most

NAME = "scale-shared"
_IMAGE_BYTES = 24 << 30  # sparse: only what is written takes room


def bench(work: Path, rounds: int) -> list[Table]:
    """One table a file system; one that says so where no image can be mounted."""
    return [_table(kind, work, rounds) for kind in ("xfs", "btrfs")]


def _table(kind: str, work: Path, rounds: int) -> Table:
    title = f"Scale 14.5 GB to 21.5 GB on {kind}"
    command = [DUSK, "scale", "BASE", "OUT", "--drop", "8"]
    try:
        with _mounted(kind, work) as place:
            base, out = random_checkpoint(place, "base", 0, MISTRAL), place / "out"
            command = [DUSK, "scale", str(base), str(out), "--drop", "8"]
            before = _used(place)
            runs = in_turn({"dusk scale": cleared(out, command, work / "log")}, rounds)["dusk scale"]
            more = (_used(place) - before) / before
    except (OSError, subprocess.CalledProcessError):
        missing = Way("dusk scale", " ".join(command), missing="no image can be mounted here")
        return Table(title, "seconds", "dusk scale", (missing,))
    table = Table(title, "seconds", "dusk scale", (Way.timed("dusk scale", command, runs),))
    goals = (
        at_most("under 1 s in all", table.middle("dusk scale"), 1.0),
        at_most("under 1 % more disk in use", more * 100, 1.0),
        at_most("at most 64 MiB resident at the peak", table.peak_mib("dusk scale"), 64),
    )
    return replace(table, goals=goals)


@contextmanager
def _mounted(kind: str, work: Path) -> Iterator[Path]:
    image, place = work / f"{kind}.image", work / kind
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    place.mkdir()
    try:
        _run(f"mkfs.{kind}", "-q", str(image))
        _run("mount", "-o", "loop", str(image), str(place))
        try:
            yield place
        finally:
            _run("umount", str(place))
    finally:
        image.unlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _used(folder: Path) -> int:
    _run("sync", "-f", str(folder))
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize
