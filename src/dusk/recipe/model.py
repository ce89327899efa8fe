"""The stage that is an existing checkpoint: its files, in the run folder.

Small files are copied, so that a run of a small model is whole in itself; large ones are linked.
"""

import shutil
from pathlib import Path
from typing import Any

from dusk.errors import CheckpointError

_COPIED_BYTES = 64 * 2**20
_SHIPPED = Path(__file__).resolve().parent.parent / "base"


def locate(path: str) -> str:
    """The folder of a shipped model (`dusk:constant`, `dusk:decayed`); any other text as it is.

    Raises CheckpointError where no model of that name is shipped.
    """
    if not path.startswith("dusk:"):
        return path
    folder = _SHIPPED / path.removeprefix("dusk:")
    if folder.parent != _SHIPPED or not (folder / "config.json").is_file():
        shipped = sorted(entry.parent.name for entry in _SHIPPED.glob("*/config.json"))
        known = ", ".join(f"dusk:{name}" for name in shipped) or "none in this installation"
        raise CheckpointError(f"{path}: dusk ships no such model.", remedy=f"The shipped models: {known}.")
    return str(folder)


def model(path: str, out: str | Path) -> dict[str, Any]:
    """Put the checkpoint `path` (folder, hub id or shipped name) into the existing folder `out`.

    Raises CheckpointError where it is no whole checkpoint.
    """
    from dusk.checkpoint import open_checkpoint  # numpy-free, but not needed to read a recipe

    checkpoint = open_checkpoint(locate(path))
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
