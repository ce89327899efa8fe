"""The models that come with dusk, by name: `dusk:constant` and `dusk:decayed`."""

from pathlib import Path

from dusk.errors import CheckpointError

_PREFIX = "dusk:"
_SHIPPED = Path(__file__).resolve().parent.parent / "base"


def names_shipped(path: str) -> bool:
    """Whether a text is the name of a shipped model, and so neither a path nor a hub id."""
    return path.startswith(_PREFIX)


def locate(path: str) -> str:
    """The folder of a shipped model; any other text as it is.

    Raises CheckpointError where no model of that name is shipped.
    """
    if not names_shipped(path):
        return path
    folder = _SHIPPED / path.removeprefix(_PREFIX)
    if folder.parent != _SHIPPED or not (folder / "config.json").is_file():
        shipped = sorted(entry.parent.name for entry in _SHIPPED.glob("*/config.json"))
        known = ", ".join(f"{_PREFIX}{name}" for name in shipped) or "none in this installation"
        raise CheckpointError(f"{path}: dusk ships no such model.", remedy=f"The shipped models: {known}.")
    return str(folder)
