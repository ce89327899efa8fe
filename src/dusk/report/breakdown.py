"""The tasks of a group one by one, such as the subjects of MMLU."""

from dataclasses import dataclass

from dusk.report.evaluations import Column, Evaluation
from dusk.report.run_folder import Run
from dusk.report.scores import label_of, shown


@dataclass(frozen=True)
class PartRow:
    """One task of the group: how many items it has, and each model's score; the best is marked."""

    label: str
    items: int
    cells: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Breakdown:
    """A column of the scores, task by task."""

    label: str
    suite: str
    software: str
    models: tuple[str, ...]
    rows: tuple[PartRow, ...]


def breakdowns_of(run: Run, evaluation: Evaluation) -> tuple[Breakdown, ...]:
    """Of each column that is over several tasks, the scores of each; needs the items of the evaluation."""
    columns = [column for column in evaluation.columns if not column.of]
    found = (_breakdown(run, evaluation, column) for column in columns)
    return tuple(one for one in found if one is not None)


def _breakdown(run: Run, evaluation: Evaluation, column: Column) -> Breakdown | None:
    if evaluation.items is None:
        return None
    kept = {
        model.name: evaluation.items.model(model.called).entries.get(column.task)
        for model in evaluation.models
    }
    tasks = list(dict.fromkeys(task for entry in kept.values() if entry is not None for task in entry.tasks))
    if len(tasks) < 2:
        return None
    rows = []
    for task in sorted(tasks):
        scores = [
            entry.score(column.metric, task=task)
            if entry and entry.select(column.metric, task=task)
            else None
            for entry in kept.values()
        ]
        values = [score.value for score in scores if score is not None]
        best = shown((max if column.higher_is_better else min)(values), column) if len(values) > 1 else ""
        texts = [shown(score.value, column) if score else "" for score in scores]
        items = max((score.n for score in scores if score is not None), default=0)
        rows.append(
            PartRow(_called(task, column.task), items, tuple((text, text == best != "") for text in texts))
        )
    return Breakdown(
        column.label,
        evaluation.suite,
        evaluation.software,
        tuple(label_of(run, name) for name in kept),
        tuple(rows),
    )


def _called(task: str, group: str) -> str:
    return task.removeprefix(group).replace("_", " ").strip() or task
