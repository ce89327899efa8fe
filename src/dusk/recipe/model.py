"""The stage that is an existing checkpoint: its files, in the run folder.

Small files are copied, so that a run of a small model is whole in itself; large ones are linked.
"""

import shutil
from pathlib import Path
from typing import Any

_COPIED_BYTES = 64 * 2**20


def model(path: str, out: str | Path) -> dict[str, Any]:
    """Put the checkpoint `path` (folder, hub id or shipped name) into the existing folder `out`.

    Raises CheckpointError where it is no whole checkpoint.
    """
    from dusk.checkpoint import open_checkpoint  # numpy-free, but not needed to read a recipe

    checkpoint = open_checkpoint(path)
    source = Path(checkpoint.path)
    for file in sorted(source.rglob("*")):
        if not file.is_file() or file.name == "stage.json":
            continue
        target = Path(out) / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.stat().st_size > _COPIED_BYTES:
            target.symlink_to(file.resolve())
        else:
            shutil.copyfile(file, target)
    return {"parameters": checkpoint.parameters}
