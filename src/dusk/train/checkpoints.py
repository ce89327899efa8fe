"""Checkpoints of a run in progress: complete or absent.

transformers writes a checkpoint file by file; a kill in between leaves a folder that looks like one. A marker
is written into a checkpoint once everything in it is on the disk, and a folder without it is removed.
"""

import os
import re
import shutil
from pathlib import Path

_MARKER = "complete"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(checkpoint: Path) -> None:
    """Flush a checkpoint's files to the disk, then say that it is whole."""
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    (checkpoint / _MARKER).touch()


def newest_complete(folder: Path) -> Path | None:
    """The checkpoint to resume from; what was left half-written is removed."""
    found: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        name = _NAME.fullmatch(path.name)
        if name and (path / _MARKER).exists():
            found[int(name[1])] = path
        else:
            shutil.rmtree(path)
    return found[max(found)] if found else None


def prune(folder: Path, keep: int = 1) -> None:
    """Remove all but the newest complete checkpoints."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / _MARKER).exists()]
    whole.sort(key=lambda path: int(path.name.removeprefix("checkpoint-")))
    for path in whole[:-keep]:
        (path / _MARKER).unlink()  # first, so that a kill in between leaves nothing that looks whole
        shutil.rmtree(path)
