"""The results files of a run's evaluations: columns, scores, and differences over the same items."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dusk.errors import DataError
from dusk.evaluate.bootstrap import Difference
from dusk.evaluate.results import EvalReport, alike, joined, load_report
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
    """One model's scores by column; `name` is its stage's, `called` what the results file calls it."""

    name: str
    called: str
    cells: Mapping[str, Score]


@dataclass(frozen=True)
class Evaluation:
    """One results file of `dusk eval`."""

    stage: str
    suite: str
    versions: Mapping[str, str]
    columns: tuple[Column, ...]
    models: tuple[ModelScores, ...]
    items: EvalReport | None = None
    compared: dict[tuple[str, str], dict[str, Difference]] = field(default_factory=dict, compare=False)

    @property
    def software(self) -> str:
        """What measured the scores, with versions."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())

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
        if (first, second) not in self.compared:
            self.compared[first, second] = self._compare(first, second)
        return self.compared[first, second].get(column.label)

    def _compare(self, first: str, second: str) -> dict[str, Difference]:
        left, right = self.model(first), self.model(second)
        if self.items is None or left is None or right is None:
            return {}
        kept = [self.items.model(model.called).entries for model in (left, right)]
        tasks = {entry.task for entry in self.items.suite.tasks}
        if not all(tasks <= set(entries) for entries in kept):
            return {}
        return self.items.compare(left.called, right.called, resamples=RESAMPLES)

    @property
    def measure(self) -> tuple[Any, ...]:
        """What has to be the same for the scores of two evaluations to stand in one table."""
        return self.suite, self.columns, self.items.measure if self.items else None


def read_evaluations(run: Run) -> tuple[Evaluation, ...]:
    """The results of the finished evaluations, those of one measure as one, its models in the run's order.

    Raises DataError for a results file that is damaged.
    """
    places = {stage.name: place for place, stage in enumerate(run.stages)}

    def place(model: ModelScores) -> int:
        return places.get(model.name, len(places))

    groups = alike(_read_all(run))
    return tuple(_joined(group, place) if len(group) > 1 else group[0] for group in groups)


def _joined(group: Sequence[Evaluation], place: Callable[[ModelScores], int]) -> Evaluation:
    models: dict[str, ModelScores] = {}
    for evaluation in group:
        for model in evaluation.models:
            models.setdefault(model.called, model)
    items = [evaluation.items for evaluation in group if evaluation.items is not None]
    return replace(
        group[0],
        models=tuple(sorted(models.values(), key=place)),
        items=joined(items) if len(items) == len(group) else None,
        compared={},
    )


def _read_all(run: Run) -> list[Evaluation]:
    found = []
    for stage in run.stages:
        if stage.kind != "evaluate" or not stage.folder.is_dir():
            continue
        for path in sorted(stage.folder.glob("*.json")):
            content = read_object(path)
            if isinstance(content.get("models"), list):
                found.append(_evaluation(stage, path, content))
    return found


def _evaluation(stage: Stage, path: Path, content: Json) -> Evaluation:
    rows = [row for row in content["models"] if isinstance(row, dict)]
    columns = _columns(content, rows)
    names = _names(rows, stage)
    return Evaluation(
        stage=stage.name,
        suite=str(content.get("suite") or stage.name),
        versions={str(name): str(version) for name, version in mapping(content.get("versions")).items()},
        columns=columns,
        models=tuple(_model(row, name, columns) for row, name in zip(rows, names, strict=True)),
        items=_items(path),
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


def _items(path: Path) -> EvalReport | None:
    """The items behind a results file; None where it is not one of `dusk eval`."""
    try:
        return load_report(path)
    except DataError:
        return None


def _model(row: Json, name: str, columns: Sequence[Column]) -> ModelScores:
    cells = {column.label: _score(row, column) for column in columns}
    found = {label: score for label, score in cells.items() if score is not None}
    return ModelScores(name, str(row.get("name", "")), found)


def _score(row: Json, column: Column) -> Score | None:
    if column.of:
        told = mapping(mapping(row.get("means")).get(column.label))
    else:
        told = mapping(mapping(mapping(row.get("scores")).get(column.task)).get(column.metric))
    return score_of(told)


def score_of(told: Json) -> Score | None:
    """A score as results files write it; None where it has no value."""
    value = finite(told.get("value"))
    return (
        None if value is None else Score(value, finite(told.get("stderr")), int(finite(told.get("n")) or 0))
    )
