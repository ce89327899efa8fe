"""The commands of whole runs: run, report, demo."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dusk.cli.terminal import RunDisplay, duration, show_json, table

if TYPE_CHECKING:
    from dusk.recipe import Recipe, RunReport

_FULL_SEEDS = 5


@click.command()
@click.argument("recipe")
@click.option("--out", metavar="DIR", required=True, help="the run folder")
@click.option("--dry-run", is_flag=True, help="say what would be run; data need not be there yet")
@click.option("--jobs", metavar="N", type=click.IntRange(1), help="stages side by side")
@click.option(
    "--reuse",
    metavar="DIR",
    multiple=True,
    help="another run folder, or one of seeds; what it has finished alike is copied",
)
@click.option("--seed", metavar="N", type=click.IntRange(0), help="in place of the recipe's")
@click.option(
    "--seeds", metavar="N", type=click.IntRange(1), help="so many, from the seed on, each in DIR/seed-N"
)
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def run(
    recipe: str,
    out: str,
    dry_run: bool,
    jobs: int | None,
    reuse: tuple[str, ...],
    seed: int | None,
    seeds: int | None,
    as_json: bool,
) -> None:
    """Run a recipe, or run it with several seeds and report on all."""
    from dusk.recipe import load_recipe

    if dry_run:
        _show_stages(load_recipe(recipe, seed=seed, need_files=False), as_json)
        return
    whole = load_recipe(recipe, seed=seed)
    if seeds is not None:
        numbers = range(whole.seed, whole.seed + seeds)
        _run_seeds(lambda number: load_recipe(recipe, seed=number), numbers, out, jobs, reuse, as_json)
        return
    done = _run(whole, out, jobs, reuse)
    if done.node:
        click.echo(f"node {done.node}: node 0 has ended its run")
        return
    path = _report(done.out)
    if as_json:
        show_json({**done.to_json(), "report": str(path)})
        return
    _show(done, path)


def _show_stages(recipe: "Recipe", as_json: bool) -> None:
    """The stages in their order, what each uses, and the files that are not here yet."""
    absent = recipe.absent_files()
    if as_json:
        stages = {name: {"kind": stage.kind, **stage.shown()} for name, stage in recipe.stages.items()}
        show_json({"name": recipe.name, "ranks": recipe.ranks, "stages": stages, "absent": absent})
        return
    rows = [[name, stage.kind, ", ".join(recipe.uses(name))] for name, stage in recipe.stages.items()]
    width = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:2]]
    for name, kind, uses in rows:
        click.echo(f"{name:<{width[0]}}  {kind:<{width[1]}}  {uses}".rstrip())
    if recipe.ranks > 1:
        click.echo(f"Training on {recipe.nodes or 1} x {recipe.gpus or 1} GPUs.")
    for path in absent:
        click.echo(f"Not here yet: {path}")


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR [DIR...]")
@click.option(
    "--out", metavar="FILE", help="the page [report.html in DIR; of several comparison.html beside]"
)
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def report(folders: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Write the report of a run, of the seeds in DIR/seed-N, or of runs to compare."""
    path = _report(folders if len(folders) > 1 else folders[0], out)
    pooled = len(folders) == 1 and not (Path(folders[0]) / "run.json").is_file()
    if as_json:
        show_json({"report": str(path), **({"summary": _summary(path)} if pooled else {})})
    elif pooled:
        _show_seeds(path)
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

    if full:
        numbers = range(seed, seed + _FULL_SEEDS)
        _run_seeds(lambda number: demo_recipe(full=True, seed=number), numbers, out, jobs, (), as_json)
        return
    done = _run(demo_recipe(seed=seed), out, jobs)
    path = _report(out)
    if as_json:
        show_json({**done.to_json(), "report": str(path)})
        return
    _show(done, path)


def _run_seeds(
    recipe: Callable[[int], "Recipe"],
    seeds: Sequence[int],
    out: str,
    jobs: int | None,
    reuse: Sequence[str],
    as_json: bool,
) -> None:
    """One run a seed, side by side in OUT; what is the same in all is made by the first alone."""
    runs: list[dict[str, Any]] = []
    folders = {number: Path(out) / f"seed-{number}" for number in seeds}
    for number, folder in folders.items():
        if not as_json:
            click.echo(f"seed {number}", err=True)
        done = _run(recipe(number), folder, jobs, [*folders.values(), *reuse])
        if not done.node:
            runs.append({**done.to_json(), "report": str(_report(folder))})
    if not runs:
        click.echo("node 0 has ended its runs")
        return
    path = _report(out)
    if as_json:
        show_json({"runs": runs, "report": str(path), "summary": _summary(path)})
    else:
        _show_seeds(path)


def _run(
    recipe: "Recipe", out: str | Path, jobs: int | None, reuse: Sequence[str | Path] = ()
) -> "RunReport":
    from dusk.recipe import run as run_recipe
    from dusk.report.seeds import seed_folders

    others = [run for folder in map(Path, reuse) for run in seed_folders(folder) or [folder]]
    with RunDisplay() as display:
        return run_recipe(recipe, out, jobs=jobs, reuse=others, progress=display)


def _report(folder: str | Path | Sequence[str], out: str | None = None) -> Path:
    from dusk.report import report as write_report

    return Path(write_report(folder, out=out))


def _show(done: "RunReport", report_path: Path) -> None:
    """The tables of models and scores, and where everything is."""
    labels = {stage.name: str(stage.settings.get("label") or stage.name) for stage in done.stages}
    if done.evaluations():
        _show_tables(done, labels)
    for note in done.notes():
        click.echo(f"Note: {note}")
    kept = sum(stage.kept for stage in done.stages)
    count = len(done.stages)
    stages = f"{count} stage{'s' * (count > 1)}"
    click.echo(f"{stages}, {kept} of them kept, in {duration(done.seconds)}: {done.out}")
    click.echo(f"Report: {report_path}")


def _show_tables(done: "RunReport", labels: Mapping[str, str]) -> None:
    """A table for each measure, its models in the order of the run."""
    from dusk.cli.evaluation import show_scores
    from dusk.evaluate.results import alike, joined, load_report

    places = {name: place for place, name in enumerate(labels)}
    for reports in alike(map(load_report, done.evaluations())):
        whole = joined(reports)
        whole.models.sort(key=lambda model: places.get(model.name, len(places)))
        show_scores(whole, labels)


def _summary(report_path: Path) -> Any:
    """The numbers that the report of several seeds has put beside itself."""
    return json.loads(report_path.with_name("summary.json").read_text(encoding="utf-8"))


def _show_seeds(report_path: Path) -> None:
    """The sentence over seeds, what is missing, and the table of mean scores with their deviations."""
    told = _summary(report_path)
    click.echo(told["sentence"])
    for line in told["missing"]:
        click.echo(line)
    _show_arms(told["arms"])
    for scores in told["scores"].values():
        labels = [column["label"] for column in scores["columns"]]
        rows = [
            [model["label"], *(_score(model["scores"].get(label)) for label in labels)]
            for model in scores["models"].values()
        ]
        click.echo()
        table(["model", *labels], rows)
        reference = scores["models"].get(scores["reference"], {}).get("label")
        if reference:
            click.echo(
                f"Mean ± standard deviation over seeds; ≈ no difference from {reference} within the noise."
            )
    click.echo(f"Report: {report_path}")


def _show_arms(arms: Mapping[str, dict[str, Any]]) -> None:
    """Where each arm ends, if there is more than one grown model and its controls."""
    if not any(arm["role"] in ("grown", "from-scratch") for arm in arms.values()):
        return
    rows = []
    for arm in arms.values():
        passed, final = arm["recovered_after_tokens"], arm["final_bits_per_byte"]
        after = f"{passed['mean']:,.0f} ({passed['n']} of {final['n']})" if passed and final else "–"
        rows.append([arm["label"], after, _score(final and {**final, "from_reference": None})])
    click.echo()
    table(["arm", "passed its base after", "bits per byte at the end"], rows)


def _score(score: dict[str, Any] | None) -> str:
    if score is None:
        return "–"
    noise = (score["from_reference"] or {}).get("noise")
    deviation = f" ± {score['deviation']:.4f}" if score["deviation"] is not None else ""
    return f"{'≈ ' if noise else ''}{score['mean']:.4f}{deviation}"
