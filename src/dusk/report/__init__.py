"""The report of a run, of several seeds, or of runs to compare: one HTML file that needs nothing else."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from dusk.errors import InputError
from dusk.report.compared import compare_runs, render_compared
from dusk.report.page import render
from dusk.report.run_folder import Run, read_run
from dusk.report.seeds import SEEDS, are_seeds, read_seeds, render_seeds, seed_folders, summary_of
from dusk.report.writing import write_whole

__all__ = ["report"]

SUMMARY = "summary.json"


def report(run_dir: str | Path | Sequence[str | Path], *, out: str | Path | None = None) -> Path:
    """Write the report of a run, finished or not, of several seeds of one recipe, or of runs to compare.

    Args:
        run_dir: the folder that `dusk run --out` wrote; or a folder whose subfolders seed-0, seed-1 and so on
            are runs (as `dusk run --seeds` leaves it); or several folders of runs. The seeds of one recipe are
            pooled, with intervals over the seeds, and `summary.json` beside the page holds the numbers; other
            runs are compared: one table of all models, curves in one chart.
        out: the file to write [report.html in the folder, comparison.html beside compared runs]; one that is
            there is replaced.

    Returns:
        Where it lies.

    Raises:
        InputError: `run_dir` holds no run, or its seeds are not those of one recipe.
        DataError: a file of a run is damaged.
        OutputError: the file cannot be written.
    """
    if not isinstance(run_dir, str | Path):
        folders = [Path(folder) for folder in run_dir]
        if len(folders) != 1:
            return _of_seeds(folders, out) if are_seeds(folders) else _of_several(folders, out)
        run_dir = folders[0]
    folder = Path(run_dir)
    if not (folder / "run.json").is_file() and seed_folders(folder):
        return _of_seeds(seed_folders(folder), out)
    return write_whole(Path(out) if out is not None else folder / "report.html", render(read_run(folder)))


def _of_several(folders: Sequence[Path], out: str | Path | None) -> Path:
    """The page of runs to compare, and the report of each that has none yet."""
    target = _target(folders, out, "comparison.html")
    compared = compare_runs(folders)
    _write_own(each.run for each in compared.runs)
    return write_whole(target, render_compared(compared, target.absolute()))


def _of_seeds(folders: Sequence[Path], out: str | Path | None) -> Path:
    """The pooled page, its numbers beside it, and the report of each seed that has none yet."""
    target = _target(folders, out, "report.html")
    seeds = read_seeds(folders)
    _write_own(each.run for each in seeds.runs)
    content = json.dumps(summary_of(seeds), indent=1, ensure_ascii=False)
    write_whole(target.with_name(SUMMARY), content + "\n")
    return write_whole(target, render_seeds(seeds, target.absolute()))


def _target(folders: Sequence[Path], out: str | Path | None, name: str) -> Path:
    """The file to write: `out`, or of this name where all folders lie; raises InputError for several places."""
    parents = {folder.absolute().parent for folder in folders}
    if out is None and len(parents) != 1:
        raise InputError(
            f"{len(folders)} run folders in {len(parents)} places: where is their report to lie?",
            remedy=f"Give `out` (--out), or one folder with {SEEDS} in it.",
        )
    return Path(out) if out is not None else folders[0].parent / name


def _write_own(runs: Iterable[Run]) -> None:
    for run in runs:
        own = run.folder / "report.html"
        if not own.is_file():
            write_whole(own, render(run))
