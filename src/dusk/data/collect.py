"""What a pass has kept, as one file; what it has left out, counted by reason and, if asked for, written too."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from dusk.data.files import Stored, parsed_line
from dusk.data.passes import Codes, Part

Decide = Callable[[Part], tuple[Codes, Sequence[str]]]
"""The final codes of a part's rows and their reasons, once all parts are known."""


@dataclass
class Tally:
    """Rows that came in, rows that were kept, and how many were left out for each reason: it adds up."""

    rows: int = 0
    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """The counts by name, the reasons from frequent to rare."""
        return {"rows": self.rows, "kept": self.kept, "left_out": dict(self.left_out.most_common())}


def own_codes(part: Part) -> tuple[Codes, Sequence[str]]:
    """What the pass itself has found."""
    return part.codes, part.reasons


def collect(
    parts: Sequence[Part], out: Path, *, decide: Decide = own_codes, rejects: IO[bytes] | None = None
) -> Tally:
    """Write the lines that are kept to `out`, in the order of the data.

    Rows left out go to `rejects` as {"file", "line", "reason", "row", ...} with what the judge noted.
    """
    tally = Tally()
    with out.open("wb") as lines:
        for part in parts:
            codes, reasons = decide(part)
            _count(tally, codes, reasons)
            _copy(part, codes, lines)
            if rejects is not None and codes.any():
                for rejected in _rejected(part, codes, reasons):
                    rejects.write(json.dumps(rejected, ensure_ascii=False, default=str).encode() + b"\n")
    return tally


def add_codes(codes: Codes, reasons: Sequence[str], rows: Any, reason: str) -> tuple[Codes, list[str]]:
    """The codes with these rows (a mask or numbers) left out for another reason."""
    changed = codes.copy()
    changed[rows] = len(reasons) + 1
    return changed, [*reasons, reason]


def _count(tally: Tally, codes: Codes, reasons: Sequence[str]) -> None:
    counts = np.bincount(codes, minlength=len(reasons) + 1)
    tally.rows += len(codes)
    tally.kept += int(counts[0])
    for reason, count in zip(reasons, counts[1:], strict=True):
        if count:
            tally.left_out[reason] += int(count)


def _copy(part: Part, codes: Codes, out: IO[bytes]) -> None:
    """Write the kept lines of a part: those the judge wrote, or the unit's own."""
    if not part.lines.exists():
        for (_, stored), code in zip(part.unit.rows(), codes.tolist(), strict=True):
            if not code:
                out.write(_as_line(stored))
        return
    with part.lines.open("rb") as lines:
        if np.array_equal(codes, part.codes):
            shutil.copyfileobj(lines, out, 1 << 20)
            return
        for line, code in zip(lines, codes[part.codes == 0].tolist(), strict=True):
            if not code:
                out.write(line)


def _rejected(part: Part, codes: Codes, reasons: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What was left out, as it stands in the input."""
    notes = part.notes()
    note = next(notes, None)
    for row, ((line, stored), code) in enumerate(zip(part.unit.rows(), codes.tolist(), strict=True)):
        more: dict[str, Any] = {}
        while note is not None and note["row"] <= row:
            more = note if note["row"] == row else {}
            note = next(notes, None)
        if code:
            more.pop("row", None)
            place = {"file": part.unit.file.name, "line": line, "reason": reasons[code - 1]}
            yield {**place, **more, "row": _shown(line, stored)}


def _shown(line: int, stored: Stored) -> Any:
    """The fields of a row, or its text where it is no object."""
    fields = stored if isinstance(stored, dict) else parsed_line(line, stored)
    if isinstance(fields, dict):
        return fields
    return stored.decode(errors="backslashreplace").rstrip("\n") if isinstance(stored, bytes) else None


def _as_line(stored: Stored) -> bytes:
    if isinstance(stored, dict):
        return json.dumps(stored, ensure_ascii=False, default=str).encode() + b"\n"
    return stored if stored.endswith(b"\n") else stored + b"\n"
