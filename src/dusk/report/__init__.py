"""The report of a run, or of several seeds: one HTML file that needs nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path

from dusk.errors import InputError
from dusk.report.page import render
from dusk.report.run_folder import read_run
from dusk.report.seeds import SEEDS, read_seeds, render_seeds, seed_folders, summary_of
from dusk.report.writing import write_whole

__all__ = ["report"]

SUMMARY = "summary.json"


def report(run_dir: str | Path | Sequence[str | Path], *, out: str | Path | None = None) -> Path:
    """Write the report of a run, finished or not, or of several seeds of one recipe; returns where it lies.

    Args:
        run_dir: the folder that `dusk run --out` wrote; or a folder whose subfolders seed-0, seed-1 and so on
            are runs (as `dusk demo --full` leaves it); or several folders of runs. Several are pooled, with
            intervals over the seeds, and `summary.json` beside the page holds the numbers.
        out: the file to write [report.html in the folder]; one that is there is replaced.

    Raises:
        InputError: `run_dir` holds no run, or runs that are not the seeds of one recipe.
        DataError: a file of a run is damaged.
        OutputError: the file cannot be written.
    """
    if not isinstance(run_dir, str | Path):
        return _of_seeds([Path(folder) for folder in run_dir], out)
    folder = Path(run_dir)
    if not (folder / "run.json").is_file() and seed_folders(folder):
        return _of_seeds(seed_folders(folder), out)
    return write_whole(Path(out) if out is not None else folder / "report.html", render(read_run(folder)))


def _of_seeds(folders: Sequence[Path], out: str | Path | None) -> Path:
    """The pooled page, its numbers beside it, and the report of each seed that has none yet."""
    parents = {folder.absolute().parent for folder in folders}
    if out is None and len(parents) != 1:
        raise InputError(
            f"{len(folders)} run folders in {len(parents)} places: where is their report to lie?",
            remedy=f"Give `out`, or one folder with {SEEDS} in it.",
        )
    target = Path(out) if out is not None else folders[0].parent / "report.html"
    seeds = read_seeds(folders)
    for each in seeds.runs:
        own = each.run.folder / "report.html"
        if not own.is_file():
            write_whole(own, render(each.run))
    content = json.dumps(summary_of(seeds), indent=1, ensure_ascii=False)
    write_whole(target.with_name(SUMMARY), content + "\n")
    return write_whole(target, render_seeds(seeds, target.absolute()))
