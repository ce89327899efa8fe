"""The tables that a recipe asks for: what was chosen for each model, its scores, the paper's beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from dusk.report.evaluations import Column, Evaluation
from dusk.report.reading import Json, mapping
from dusk.report.run_folder import Run
from dusk.report.scores import label_of, shown

PAPER_FILE = "paper.json"
"""SOLAR 10.7B (arXiv 2312.15166), Tables 3 to 7, percent; SFT v3+v4's Winogrande is what its mean says."""


@dataclass(frozen=True)
class AblationCell:
    """A score of ours with its standard error, and the paper's of the same row and task."""

    text: str = ""
    error: str = ""
    best: bool = False
    paper: str = ""
    value: float | None = None


@dataclass(frozen=True)
class AblationRow:
    """A model: its choice in each column (true and false are on and off, None is neither) and its scores."""

    label: str
    choices: tuple[bool | str | None, ...]
    cells: tuple[AblationCell, ...]
    paper: str = ""


@dataclass(frozen=True)
class Ablation:
    """A table; `paper_column` is what the paper's mean is called where no task of ours is one of its."""

    name: str
    title: str
    suite: str
    software: str
    source: str
    choices: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[AblationRow, ...]
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
    rows = tuple(
        _row(run, evaluation, stage, mapping(choice), choices, theirs, best, "" if alike else mean)
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
    mean: str,
) -> AblationRow:
    label = label_of(run, stage)
    paper = theirs.get(label, {})
    cells = tuple(
        _cell(evaluation, stage, column, best[column.label], paper) for column in evaluation.columns
    )
    told = tuple(chosen.get(column) for column in choices)
    return AblationRow(label, told, cells, f"{paper[mean]:.2f}" if mean in paper else "")


def _cell(
    evaluation: Evaluation, stage: str, column: Column, best: str, paper: Mapping[str, float]
) -> AblationCell:
    theirs = f"{paper[column.label]:.2f}" if column.label in paper else ""
    model = evaluation.model(stage)
    score = model.cells.get(column.label) if model else None
    if score is None:
        return AblationCell(paper=theirs)
    text = shown(score.value, column)
    error = shown(score.stderr, column) if score.stderr is not None else ""
    return AblationCell(text, error, text == best, theirs, score.value)


def _best(evaluation: Evaluation, column: Column, stages: Sequence[str]) -> str:
    models = [model for stage in stages if (model := evaluation.model(stage)) is not None]
    values = [model.cells[column.label].value for model in models if column.label in model.cells]
    if len({shown(value, column) for value in values}) < 2:
        return ""  # of one alone, or where all are alike, there is no best
    return shown(max(values) if column.higher_is_better else min(values), column)
