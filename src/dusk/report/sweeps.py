"""Merges of the same two models at several weights: what a score does from the one model to the other."""

from collections.abc import Sequence

from dusk.report.chart import Axes, Chart, Line, draw
from dusk.report.evaluations import Column, Evaluation
from dusk.report.reading import finite
from dusk.report.run_folder import Run, Stage
from dusk.report.scores import label_of, shown

_STYLES = 6
_LEAST = 3  # points of a line


def sweeps_of(run: Run, evaluations: Sequence[Evaluation]) -> tuple[Chart, ...]:
    """A chart for each mean (or, without one, each task) of the evaluations that hold three points of a line.

    The ends of a line are the two models themselves, where they were evaluated.
    """
    charts = [
        _chart(run, evaluation, column) for evaluation in evaluations for column in _columns(evaluation)
    ]
    return tuple(chart for chart in charts if chart is not None)


def weight_of_second(stage: Stage) -> float | None:
    """The second model's share of a merge of two; None where it differs over the depth, or is no such merge."""
    method = stage.settings.get("method") or "linear"
    if stage.kind != "merge" or len(stage.parents) != 2 or method not in ("linear", "slerp"):
        return None
    if method == "slerp":
        return finite(stage.settings.get("t", 0.5))
    weights = stage.settings.get("weights") or [0.5, 0.5]
    first, second = (finite(weight) for weight in weights) if len(weights) == 2 else (None, None)
    return None if first is None or second is None or not first + second else second / (first + second)


def _columns(evaluation: Evaluation) -> list[Column]:
    means = [column for column in evaluation.columns if column.of]
    return [*means, *filter(None, [evaluation.held_out])] or list(evaluation.columns)


def _chart(run: Run, evaluation: Evaluation, column: Column) -> Chart | None:
    groups: dict[tuple[str, ...], dict[str, list[tuple[float, float]]]] = {}
    for stage in run.models:
        at, score = weight_of_second(stage), _score(evaluation, stage.name, column)
        if at is not None and score is not None:
            method = str(stage.settings.get("method") or "linear")
            groups.setdefault(stage.parents, {}).setdefault(method, []).append((at, score))
    lines: list[Line] = []
    for (first, second), methods in groups.items():
        ends = [(0.0, _score(evaluation, first, column)), (1.0, _score(evaluation, second, column))]
        if len({at for points in methods.values() for at, _ in points}) < 2:  # one weight is no sweep
            continue
        known = [(at, score) for at, score in ends if score is not None]
        for method, points in methods.items():
            if len({at for at, _ in points + known}) >= _LEAST:
                label = f"{method}: {label_of(run, first)} to {label_of(run, second)}"
                lines.append(Line(label, len(lines) % _STYLES + 1, tuple(sorted({*points, *known}))))
    axes = Axes(
        "weight of the second model", column.label, lambda x: f"{x:g}", lambda y: shown_score(y, column)
    )
    return draw(f"{column.label} by weight", lines, axes)


def shown_score(value: float, column: Column) -> str:
    """As in the tables."""
    return shown(value / 100 if column.in_percent else value, column)


def _score(evaluation: Evaluation, name: str, column: Column) -> float | None:
    model = evaluation.model(name)
    score = model.cells.get(column.label) if model else None
    return None if score is None else score.value * (100 if column.in_percent else 1)
