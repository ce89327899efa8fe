"""The command eval, and the tables of models, scores and differences."""

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from dusk.cli.settings import settings_command
from dusk.cli.terminal import table

if TYPE_CHECKING:
    from dusk.evaluate import EvalReport, Score

_LEVEL = 0.05


def show_scores(report: "EvalReport", labels_of: Mapping[str, str] | None = None) -> None:
    """Print a row a model, with the suite's columns and means; `labels_of` are names to show for models."""
    _scores(report, labels_of or {}, errors=False)


def show_report(report: "EvalReport") -> None:
    """Print scores with their standard errors, every model's difference from the first, and the notes."""
    _scores(report, {}, errors=True)
    if len(report.models) > 1:
        _differences(report)
    for note in report.notes:
        click.echo(f"\n{click.wrap_text(f'{note}.', shutil.get_terminal_size().columns)}")


def _scores(report: "EvalReport", labels_of: Mapping[str, str], *, errors: bool) -> None:
    rows = []
    for model in report.models:
        scores = _of_model(report, model.name)
        name = labels_of.get(model.name, model.name)
        rows.append([name, *(f"{score.value:.4f}" for score in scores)])
        if errors:
            shown = ("" if score.stderr is None else f"{score.stderr:.4f}" for score in scores)
            rows.append(["  ±", *shown])
    click.echo(_heading(report))
    table(["model", *_labels(report)], rows)


def _heading(report: "EvalReport") -> str:
    """The suite, what measured it, and what is unlike the whole of it."""
    limit = report.settings.get("limit")
    parts = [
        f"suite {report.suite.suite}",
        f"lm-evaluation-harness {report.versions.get('lm_eval', '?')}",
        *([f"{limit} items of each task at most"] if limit else []),
        *(["chat template"] if report.settings.get("apply_chat_template") else []),
    ]
    return ", ".join(parts)


def _differences(report: "EvalReport") -> None:
    first = report.models[0].name
    rows = []
    for model in report.models[1:]:
        found = report.compare(first, model.name)
        chosen = [found.get(label) for label in _labels(report)]
        rows.append([model.name, *(f"{each.difference:+.4f}" if each else "" for each in chosen)])
        rows.append(["  p", *(f"{each.p:.3f}{'*' * (each.p < _LEVEL)}" if each else "" for each in chosen)])
    click.echo(f"\nminus {first}, paired over items; * p < {_LEVEL}")
    table(["model", *_labels(report)], rows)


def _labels(report: "EvalReport") -> list[str]:
    return [*report.suite.mean, *(column.label for column in report.columns)]


def _of_model(report: "EvalReport", name: str) -> list["Score"]:
    means = [report.mean(name, label) for label in report.suite.mean]
    return means + [report.cell(name, column.label) for column in report.columns]


evaluate = settings_command("evaluate", words=("models...",), out="FILE", show=show_report)
