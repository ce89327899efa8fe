"""The record of a run: one JSON line a logged step and a held-out measurement.

Resuming cuts the file back to the checkpoint's step, so that a run killed and continued writes the file that
an uninterrupted one writes, apart from times.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch


def peak_memory_bytes() -> int:
    """The most memory so far: of the GPU where there is one, else the largest resident size of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class MetricsFile:
    """`metrics.jsonl`, appended to and flushed line by line; one that is not `writing` is only read."""

    def __init__(self, path: Path, *, writing: bool = True) -> None:
        self.path = path
        self.writing = writing

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows; a line cut off by a kill is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def cut_back(self, step: int) -> None:
        """Drop what was written after `step`."""
        if not self.writing:
            return
        kept = [row for row in self.rows() if row["step"] <= step]
        partial = self.path.with_suffix(".tmp")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        partial.replace(self.path)

    def write(self, kind: str, **values: Any) -> None:
        """Append one row."""
        if not self.writing:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")
