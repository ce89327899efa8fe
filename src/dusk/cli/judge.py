"""The command judge, and its table."""

from typing import TYPE_CHECKING

import click

from dusk.cli.terminal import show_json, table

if TYPE_CHECKING:
    from dusk.evaluate.judged import JudgedReport


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL [MODEL...]")
@click.option("--questions", metavar="FILE", required=True, help="rows {id, category, questions, references}")
@click.option("--judge", "url", metavar="URL", required=True, help="an OpenAI-compatible server")
@click.option("--judge-model", metavar="NAME", required=True, help="the judge's name there")
@click.option("--example", metavar="FILE", help="a row of the same form with answers: adds 1-shot")
@click.option("--max-tokens", metavar="N", type=click.IntRange(1), default=1024, show_default=True)
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(1), default=120, show_default=True)
@click.option("--device", metavar="TEXT", help="cpu, cuda or cuda:N")
@click.option("--out", metavar="FILE", required=True, help="where the result goes")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def judge(
    models: tuple[str, ...],
    questions: str,
    url: str,
    judge_model: str,
    example: str | None,
    max_tokens: int,
    timeout: float,
    device: str | None,
    out: str,
    as_json: bool,
) -> None:
    """Have a judge grade models' answers."""
    from dusk.evaluate.judged import judge_folders

    report = judge_folders(
        models,
        questions=questions,
        judge=url,
        judge_model=judge_model,
        example=example,
        max_tokens=max_tokens,
        timeout_seconds=timeout,
        device=device,
        out=out,
    )
    if as_json:
        show_json(report)
    else:
        show_grades(report)


def show_grades(report: "JudgedReport") -> None:
    """Print a row a model and number of shots, then what each model is beyond the first."""
    rows = []
    for model, shots in report.runs:
        columns: list[dict[str, object]] = [{}, {"turn": 1}, {"turn": 2}]
        columns += [{"category": name} for name in report.categories]
        found = [report.score(model, shots, **chosen) for chosen in columns]  # type: ignore[arg-type]
        rows.append([f"{model}, {shots}-shot", *(f"{score.value:.2f}" if score else "" for score in found)])
        errors = (score.stderr if score else None for score in found)
        rows.append(["  ±", *("" if error is None else f"{error:.2f}" for error in errors)])
    click.echo(f"grades from 1 to 10 by {report.judge}")
    table(["model", "overall", "turn 1", "turn 2", *report.categories], rows)
    for run, first, found_difference in report.differences:
        click.echo(
            f"{run[0]}, {run[1]}-shot minus {first[0]}, {first[1]}-shot: {found_difference.difference:+.2f} "
            f"[{found_difference.low:+.2f}, {found_difference.high:+.2f}], p {found_difference.p:.3f}"
        )
    for note in report.notes:
        click.echo(f"{note}.")
