"""Pages on the disk, whole or not at all."""

import contextlib
import os
from pathlib import Path

from dusk.errors import OutputError


def write_whole(target: Path, text: str) -> Path:
    """Write a file so that it is either the old one or the new; raises OutputError where it cannot be."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(f"{target} cannot be written: {error.strerror}.") from None
    return target
