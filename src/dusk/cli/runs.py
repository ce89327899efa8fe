"""The commands of whole runs: run, report, demo."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dusk.cli.terminal import RunDisplay, duration, show_json

if TYPE_CHECKING:
    from dusk.recipe import Recipe, RunReport

_FULL_SEEDS = 5


@click.command()
@click.argument("recipe")
@click.option("--out", metavar="DIR", required=True, help="the run folder")
@click.option("--jobs", metavar="N", type=click.IntRange(1), help="stages side by side")
@click.option("--seed", metavar="N", type=click.IntRange(0), help="in place of the recipe's")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def run(recipe: str, out: str, jobs: int | None, seed: int | None, as_json: bool) -> None:
    """Run a recipe."""
    from dusk.recipe import load_recipe

    done = _run(load_recipe(recipe, seed=seed), out, jobs)
    path = _report(done.out)
    if as_json:
        show_json({**done.to_json(), "report": str(path)})
        return
    _show(done, path)


@click.command()
@click.argument("folder", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def report(folder: str, as_json: bool) -> None:
    """Write the report of a run."""
    path = _report(folder)
    if as_json:
        show_json({"report": str(path)})
    else:
        click.echo(path)


@click.command()
@click.option("--out", metavar="DIR", default="dusk-demo", show_default=True, help="the run folder")
@click.option("--full", is_flag=True, help="five seeds, each in a folder of its own (at most two hours)")
@click.option(
    "--seed", metavar="N", type=click.IntRange(0), default=0, show_default=True, help="the (first) seed"
)
@click.option("--jobs", metavar="N", type=click.IntRange(1), help="stages side by side")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def demo(out: str, full: bool, seed: int, jobs: int | None, as_json: bool) -> None:
    """Run the packaged recipe and report on it."""
    from dusk.recipe import demo_recipe

    folders = (
        {seed + n: Path(out) / f"seed-{seed + n}" for n in range(_FULL_SEEDS)} if full else {seed: Path(out)}
    )
    reports = []
    for one, folder in folders.items():
        done = _run(demo_recipe(seed=one), folder, jobs)
        path = _report(folder)
        reports.append({**done.to_json(), "report": str(path)})
        if not as_json:
            _show(done, path)
    if as_json:
        show_json(reports if full else reports[0])


def _run(recipe: "Recipe", out: str | Path, jobs: int | None) -> "RunReport":
    from dusk.recipe import run as run_recipe

    with RunDisplay() as display:
        return run_recipe(recipe, out, jobs=jobs, progress=display)


def _report(folder: str | Path) -> Path:
    from dusk.report import report as write_report

    return Path(write_report(Path(folder)))


def _show(done: "RunReport", report_path: Path) -> None:
    """The tables of models and scores, and where everything is."""
    labels = {stage.name: str(stage.settings.get("label") or stage.name) for stage in done.stages}
    for path in done.evaluations():
        from dusk.cli.evaluation import show_scores
        from dusk.evaluate import load_report

        show_scores(load_report(path), labels)
    for note in done.notes():
        click.echo(f"Note: {note}")
    kept = sum(stage.kept for stage in done.stages)
    count = len(done.stages)
    stages = f"{count} stage{'s' * (count > 1)}"
    click.echo(f"{stages}, {kept} of them kept, in {duration(done.seconds)}: {done.out}")
    click.echo(f"Report: {report_path}")
