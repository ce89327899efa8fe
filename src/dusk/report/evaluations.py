"""The results files of a run's evaluations: columns, scores, and differences over the same items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dusk.evaluate.bootstrap import Difference, PairedItems, paired_bootstrap
from dusk.evaluate.items import EntryItems, paired, read_entries
from dusk.report.reading import Json, finite, mapping, read_object
from dusk.report.run_folder import Run, Stage

RESAMPLES = 4000


@dataclass(frozen=True)
class Score:
    """A score, its standard error (None if it has none) and the number of items behind it."""

    value: float
    stderr: float | None
    n: int


@dataclass(frozen=True)
class Column:
    """A column of the table; `of` names the columns that it is the mean of."""

    label: str
    task: str = ""
    metric: str = ""
    higher_is_better: bool = True
    of: tuple[str, ...] = ()

    @property
    def in_percent(self) -> bool:
        """Shares are shown in percent; bits, nats and perplexities as they are."""
        return self.higher_is_better

    @property
    def is_bits(self) -> bool:
        """Whether it counts bits per byte."""
        return self.metric.split(",")[0].endswith("bits_per_byte")


@dataclass(frozen=True)
class ModelScores:
    """One model's scores by column, and its items by entry of the suite."""

    name: str
    cells: Mapping[str, Score]
    entries: Mapping[str, EntryItems]


@dataclass(frozen=True)
class Evaluation:
    """One results file of `dusk eval`."""

    stage: str
    suite: str
    versions: Mapping[str, str]
    columns: tuple[Column, ...]
    models: tuple[ModelScores, ...]

    def model(self, name: str | None) -> ModelScores | None:
        """The scores of that model, if it was scored."""
        return next((model for model in self.models if model.name == name), None)

    def column(self, label: str) -> Column | None:
        """The column of that label."""
        return next((column for column in self.columns if column.label == label), None)

    @property
    def held_out(self) -> Column | None:
        """The column of held-out bits per byte: what a scaled model is judged by."""
        return next((column for column in self.columns if column.is_bits and not column.of), None)

    def difference(self, first: str, second: str, column: Column) -> Difference | None:
        """Second minus first over the same items; None where there are no items of both."""
        left, right = self.model(first), self.model(second)
        if left is None or right is None:
            return None
        if not column.of:
            groups = _groups(left, right, column)
            return paired_bootstrap(groups, resamples=RESAMPLES) if groups else None
        parts = [self.column(label) for label in column.of]
        nested = [_groups(left, right, part) if part else [] for part in parts]
        if not all(len(groups) == 1 for groups in nested):
            return None  # a mean over groups of groups: not a mean over the groups together
        return paired_bootstrap([groups[0] for groups in nested], resamples=RESAMPLES)


def read_evaluations(run: Run) -> tuple[Evaluation, ...]:
    """The results of every finished evaluation; raises DataError for a results file that is damaged."""
    found = []
    for stage in run.stages:
        if stage.kind != "evaluate" or not stage.folder.is_dir():
            continue
        for path in sorted(stage.folder.glob("*.json")):
            content = read_object(path)
            if isinstance(content.get("models"), list):
                found.append(_evaluation(stage, path, content))
    return tuple(found)


def _evaluation(stage: Stage, path: Path, content: Json) -> Evaluation:
    rows = [row for row in content["models"] if isinstance(row, dict)]
    columns = _columns(content, rows)
    names = _names(rows, stage)
    return Evaluation(
        stage=stage.name,
        suite=str(content.get("suite") or stage.name),
        versions={str(name): str(version) for name, version in mapping(content.get("versions")).items()},
        columns=columns,
        models=tuple(_model(path, row, name, columns) for row, name in zip(rows, names, strict=True)),
    )


def _columns(content: Json, rows: Sequence[Json]) -> tuple[Column, ...]:
    """The means first, as the papers set them; then the columns named, or every task's first metric."""
    means = [
        Column(str(label), higher_is_better=True, of=tuple(str(part) for part in of))
        for label, of in mapping(content.get("mean")).items()
    ]
    told = [row for row in content.get("columns") or [] if isinstance(row, dict)]
    named = [
        Column(
            str(row["label"]),
            str(row.get("entry") or row["label"]),
            str(row["metric"]),
            row.get("higher_is_better", True),
        )
        for row in told
        if "label" in row and "metric" in row
    ]
    return (*means, *(named or _first_metrics(rows)))


def _first_metrics(rows: Sequence[Json]) -> list[Column]:
    found: dict[str, Column] = {}
    for row in rows:
        for task, metrics in mapping(row.get("scores")).items():
            for metric, score in list(mapping(metrics).items())[:1]:
                higher = bool(mapping(score).get("higher_is_better", True))
                found.setdefault(task, Column(task, task, metric, higher))
    return list(found.values())


def _names(rows: Sequence[Json], stage: Stage) -> list[str]:
    """The stages' names: what was evaluated was told in the stage's order, where the counts agree."""
    told = [str(row.get("name", "")) for row in rows]
    if len(rows) == len(stage.parents) and not set(told) <= set(stage.parents):
        return list(stage.parents)
    return told


def _model(path: Path, row: Json, name: str, columns: Sequence[Column]) -> ModelScores:
    items = path.parent / str(row["items"]) if row.get("items") else None
    cells = {column.label: _score(row, column) for column in columns}
    return ModelScores(
        name=name,
        cells={label: score for label, score in cells.items() if score is not None},
        entries={entry.entry: entry for entry in read_entries(items)} if items else {},
    )


def _score(row: Json, column: Column) -> Score | None:
    if column.of:
        told = mapping(mapping(row.get("means")).get(column.label))
    else:
        told = mapping(mapping(mapping(row.get("scores")).get(column.task)).get(column.metric))
    value = finite(told.get("value"))
    return (
        None if value is None else Score(value, finite(told.get("stderr")), int(finite(told.get("n")) or 0))
    )


def _groups(first: ModelScores, second: ModelScores, column: Column) -> list[PairedItems]:
    """The items behind a column, a group for each task of the entry: a score is the mean over its tasks."""
    left, right = first.entries.get(column.task), second.entries.get(column.task)
    if left is None or right is None:
        return []
    groups = [paired(left, right, column.metric, task=task) for task in left.tasks]
    return [group for group in groups if len(group.weights)]
