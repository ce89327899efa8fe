"""Checkpoints of a run in progress: complete or absent, and the same for any number of ranks.

Each rank writes its shards of weights and optimizer states (torch.distributed.checkpoint, one file a rank). They
are read back by name and place, so a run goes on with more ranks, or with fewer. A marker with the sizes of all
files is written once everything is on the disk. What has no marker, or files of other sizes, is no checkpoint.
"""

import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dusk.errors import WorkError
from dusk.train.distribution import world_size

_MARKER = "complete"
_NAME = re.compile(r"checkpoint-(\d+)")
_TRAINED_ALONE = StateDictOptions(ignore_frozen_params=True, strict=False)
"""What is frozen is as the run began; so a checkpoint of adapters holds the adapters."""


def save_state(folder: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Write what training has changed; all ranks take part."""
    state = _state(model, optimizer, scheduler)
    with warnings.catch_warnings(action="ignore"):  # that it is one process
        save(state, storage_writer=FileSystemWriter(folder), no_dist=world_size() == 1)


def load_state(folder: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Take over what was saved, with however many ranks; raises `WorkError` if it is of another model."""
    state = _state(model, optimizer, scheduler)
    try:
        with warnings.catch_warnings(action="ignore"):  # that it is one process
            load(state, storage_reader=FileSystemReader(folder), no_dist=world_size() == 1)
    except Exception as error:  # what torch raises differs with the fault and the number of ranks
        raise WorkError(
            f"{folder}: the checkpoint to continue from is of another model, or damaged: {_first_line(error)}",
            remedy="Remove it to continue from the one before, or the .partial folder to start anew.",
        ) from error
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=_TRAINED_ALONE,
    )
    scheduler.load_state_dict(state["scheduler"])


def _state(model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> dict[str, Any]:
    weights, states = get_state_dict(model, optimizer, options=_TRAINED_ALONE)
    return {"model": weights, "optimizer": states, "scheduler": scheduler.state_dict()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def mark_complete(checkpoint: Path) -> None:
    """Flush a checkpoint's files to the disk, then say that it is whole."""
    sizes: dict[str, int] = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            sizes[str(path.relative_to(checkpoint))] = path.stat().st_size
    writing = checkpoint / f"{_MARKER}.writing"
    writing.write_text(json.dumps(sizes), encoding="utf-8")
    writing.replace(checkpoint / _MARKER)


def is_complete(checkpoint: Path) -> bool:
    """Whether the marker is there, and every file as long as it says."""
    try:
        sizes = json.loads((checkpoint / _MARKER).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def newest_complete(folder: Path) -> Path | None:
    """The checkpoint to resume from; what was left half-written is removed."""
    found: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        name = _NAME.fullmatch(path.name)
        if name and is_complete(path):
            found[int(name[1])] = path
        else:
            shutil.rmtree(path)
    return found[max(found)] if found else None


def prune(folder: Path, keep: int = 1) -> None:
    """Remove all but the newest complete checkpoints."""
    whole = [path for path in folder.glob("checkpoint-*") if is_complete(path)]
    whole.sort(key=lambda path: int(path.name.removeprefix("checkpoint-")))
    for path in whole[:-keep]:
        (path / _MARKER).unlink()  # first, so that a kill in between leaves nothing that looks whole
        shutil.rmtree(path)
