"""The report of a run: one HTML file that needs nothing else, written from what the run folder holds."""

import contextlib
import os
from pathlib import Path

from dusk.errors import OutputError
from dusk.report.page import render
from dusk.report.run_folder import read_run

__all__ = ["report"]


def report(run_dir: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the report of a run, finished or not, and return where it lies.

    Args:
        run_dir: the folder that `dusk run --out` wrote.
        out: the file to write [report.html in the run folder]; one that is there is replaced.

    Raises:
        InputError: `run_dir` holds no run.
        DataError: a file of the run is damaged.
        OutputError: the file cannot be written.
    """
    folder = Path(run_dir)
    page = render(read_run(folder))
    target = Path(out) if out is not None else folder / "report.html"
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(f"{target} cannot be written: {error.strerror}.") from None
    return target
