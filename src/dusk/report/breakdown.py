"""The tasks of a group one by one, such as the subjects of MMLU."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dusk.evaluate.bootstrap import paired_bootstrap
from dusk.evaluate.items import EntryItems, paired
from dusk.report.evaluations import RESAMPLES, Column, Evaluation
from dusk.report.run_folder import Run, Stage
from dusk.report.scores import Cell, difference_in_words, label_of, reference_of, shown


@dataclass(frozen=True)
class PartRow:
    """One task of the group: how many items it has, and each model's score."""

    label: str
    items: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Breakdown:
    """A column of the scores, task by task; `reference` is the model that differences are taken from."""

    label: str
    suite: str
    software: str
    models: tuple[str, ...]
    rows: tuple[PartRow, ...]
    reference: str = ""

    @property
    def by_chance(self) -> float:
        """How many differences are taken for real by chance where there are none."""
        return 0.05 * sum(cell.noise is not None for row in self.rows for cell in row.cells)


def breakdowns_of(run: Run, evaluation: Evaluation, base: Stage | None) -> tuple[Breakdown, ...]:
    """Of each column that is over several tasks, the scores of each; needs the items of the evaluation."""
    columns = [column for column in evaluation.columns if not column.of]
    found = (_breakdown(run, evaluation, column, base) for column in columns)
    return tuple(one for one in found if one is not None)


def _breakdown(run: Run, evaluation: Evaluation, column: Column, base: Stage | None) -> Breakdown | None:
    if evaluation.items is None:
        return None
    kept = {
        model.name: evaluation.items.model(model.called).entries.get(column.task)
        for model in evaluation.models
    }
    tasks = {task for entry in kept.values() if entry is not None for task in entry.tasks}
    if len(tasks) < 2:
        return None
    reference = reference_of(run, evaluation, base)
    name = reference.name if reference else ""
    return Breakdown(
        column.label,
        evaluation.suite,
        evaluation.software,
        tuple(label_of(run, model) for model in kept),
        tuple(_row(kept, task, column, name) for task in sorted(tasks)),
        label_of(run, name) if len(kept) > 1 else "",
    )


def _row(kept: Mapping[str, EntryItems | None], task: str, column: Column, reference: str) -> PartRow:
    cells = {name: _cell(entry, task, column) for name, entry in kept.items()}
    values = [cell.value for cell in cells.values() if cell.value is not None]
    best = shown((max if column.higher_is_better else min)(values), column) if len(values) > 1 else ""
    other = kept[reference]
    for name, entry in kept.items():
        cells[name] = replace(cells[name], best=cells[name].text == best != "")
        if name != reference and entry is not None and other is not None:
            cells[name] = _against(cells[name], other, entry, task, column)
    items = max(len(entry.select(column.metric, task=task)) for entry in kept.values() if entry is not None)
    label = task.removeprefix(column.task).replace("_", " ").strip() or task
    return PartRow(label, items, tuple(cells.values()))


def _cell(entry: EntryItems | None, task: str, column: Column) -> Cell:
    if entry is None or not entry.select(column.metric, task=task):
        return Cell()
    value = entry.score(column.metric, task=task).value
    return Cell(text=shown(value, column), value=value)


def _against(cell: Cell, first: EntryItems, second: EntryItems, task: str, column: Column) -> Cell:
    items = paired(first, second, column.metric, task=task)
    if not len(items.weights):
        return cell
    found = paired_bootstrap([items], resamples=RESAMPLES)
    return replace(cell, noise=found.low <= 0 <= found.high, hint=difference_in_words(found, column))
