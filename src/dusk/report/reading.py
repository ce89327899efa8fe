"""Reading the JSON files of a run: damage becomes a DataError that names the file."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dusk.errors import DataError

Json = dict[str, Any]

_AGAIN = "Give `dusk run` the same command again; it rewrites what is damaged."


def finite(value: object) -> float | None:
    """The value as a float where it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def mapping(value: object) -> Json:
    """The value where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def read_object(path: Path) -> Json:
    """The JSON object in a file; raises DataError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.", remedy=_AGAIN) from None
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a JSON object.", remedy=_AGAIN)
    return content


def read_rows(path: Path) -> Iterator[Json]:
    """The JSON objects of a file of lines; a last line that a kill cut short is left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                return
            raise DataError(f"{path}:{number}: this line is not JSON.", remedy=_AGAIN) from None
        if isinstance(row, dict):
            yield row
