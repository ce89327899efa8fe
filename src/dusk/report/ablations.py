"""The tables that a recipe asks for: what was chosen for each model, its scores, the paper's beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from dusk.report.evaluations import Column, Evaluation, ModelScores
from dusk.report.reading import Json, mapping
from dusk.report.run_folder import Run
from dusk.report.scores import against_reference, label_of, shown

PAPER_FILE = "paper.json"
"""SOLAR 10.7B (arXiv 2312.15166), Tables 3 to 7, percent; SFT v3+v4's Winogrande is what its mean says."""


@dataclass(frozen=True)
class AblationCell:
    """A score of ours with its standard error, and the paper's of the same row and task.

    `noise` says that it does not differ from the first row's, None if that is not known.
    """

    text: str = ""
    error: str = ""
    best: bool = False
    paper: str = ""
    value: float | None = None
    noise: bool | None = None
    hint: str = ""


@dataclass(frozen=True)
class AblationRow:
    """A model: its choice in each column (true and false are on and off, None is neither) and its scores."""

    label: str
    choices: tuple[bool | str | None, ...]
    cells: tuple[AblationCell, ...]
    paper: str = ""


@dataclass(frozen=True)
class Ablation:
    """A table; `reference` is its first row that was evaluated, from which differences are taken.

    `paper_column` is what the paper's mean is called where no task of ours is one of its.
    """

    name: str
    title: str
    suite: str
    software: str
    source: str
    choices: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[AblationRow, ...]
    reference: str = ""
    paper_column: str = ""


def ablations_of(run: Run, evaluations: Sequence[Evaluation]) -> tuple[Ablation, ...]:
    """The tables of a run; each takes its scores from the evaluation that has most of its rows."""
    found = []
    for name, told in mapping(run.facts.get("tables")).items():
        table = mapping(told)
        rows = [str(row) for row in mapping(table.get("rows"))]
        evaluation = max(
            evaluations, key=lambda one: sum(one.model(row) is not None for row in rows), default=None
        )
        if rows and evaluation is not None and any(evaluation.model(row) for row in rows):
            found.append(_table(run, str(name), table, evaluation))
    return tuple(found)


def paper_scores(table: str) -> dict[str, dict[str, float]]:
    """The paper's scores in percent: by row, then by column; empty for a table that it has not."""
    told = json.loads(resources.files("dusk.report").joinpath(PAPER_FILE).read_text(encoding="utf-8"))
    rows = told.get(table, {}) if table != "columns" else {}
    return {row: dict(zip(told["columns"], values, strict=True)) for row, values in rows.items()}


def _table(run: Run, name: str, table: Json, evaluation: Evaluation) -> Ablation:
    choices = tuple(str(column) for column in table.get("columns") or ())
    paper = str(table.get("paper") or "")
    theirs = paper_scores(paper)
    mean = next(iter(next(iter(theirs.values()), {})), "")
    alike = {column.label for column in evaluation.columns} & {key for row in theirs.values() for key in row}
    stages = mapping(table.get("rows"))
    best = {column.label: _best(evaluation, column, list(stages)) for column in evaluation.columns}
    reference = next((model for stage in stages if (model := evaluation.model(stage))), None)
    rows = tuple(
        _row(run, evaluation, stage, mapping(choice), choices, theirs, best, reference, "" if alike else mean)
        for stage, choice in stages.items()
    )
    number = paper.removeprefix("table")
    return Ablation(
        name=name,
        title=str(table.get("title") or name),
        suite=evaluation.suite,
        software=evaluation.software,
        source=f"Table {number} of SOLAR 10.7B" if theirs else "",
        choices=choices,
        columns=evaluation.columns,
        rows=rows,
        reference=label_of(run, reference.name) if reference else "",
        paper_column="" if alike else mean,
    )


def _row(
    run: Run,
    evaluation: Evaluation,
    stage: str,
    chosen: Json,
    choices: Sequence[str],
    theirs: Mapping[str, Mapping[str, float]],
    best: Mapping[str, str],
    reference: ModelScores | None,
    mean: str,
) -> AblationRow:
    label = label_of(run, stage)
    paper = theirs.get(label, {})
    cells = tuple(
        _cell(evaluation, stage, column, best[column.label], reference, paper)
        for column in evaluation.columns
    )
    told = tuple(chosen.get(column) for column in choices)
    return AblationRow(label, told, cells, f"{paper[mean]:.2f}" if mean in paper else "")


def _cell(
    evaluation: Evaluation,
    stage: str,
    column: Column,
    best: str,
    reference: ModelScores | None,
    paper: Mapping[str, float],
) -> AblationCell:
    theirs = f"{paper[column.label]:.2f}" if column.label in paper else ""
    model = evaluation.model(stage)
    score = model.cells.get(column.label) if model else None
    if score is None or model is None:
        return AblationCell(paper=theirs)
    text = shown(score.value, column)
    error = shown(score.stderr, column) if score.stderr is not None else ""
    noise, hint = None, ""
    if reference is not None and model is not reference:
        noise, hint = against_reference(evaluation, model, reference, column)
    return AblationCell(text, error, text == best, theirs, score.value, noise, hint)


def _best(evaluation: Evaluation, column: Column, stages: Sequence[str]) -> str:
    models = [model for stage in stages if (model := evaluation.model(stage)) is not None]
    values = [model.cells[column.label].value for model in models if column.label in model.cells]
    if len({shown(value, column) for value in values}) < 2:
        return ""  # of one alone, or where all are alike, there is no best
    return shown(max(values) if column.higher_is_better else min(values), column)
