"""The results of an evaluation: scores of every model, differences between any two, and the results file."""

import json
import math
from collections.abc import Container, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dusk.errors import DataError, SettingError
from dusk.evaluate.bootstrap import RESAMPLES, Difference, PairedItems, paired_bootstrap
from dusk.evaluate.items import EntryItems, Score, paired, read_entries, write_atomically
from dusk.evaluate.suites import Column, Entry, Suite, nearest


@dataclass
class ModelScores:
    """One model's items by entry of the suite, and the file that keeps them."""

    name: str
    path: str
    digest: str
    entries: dict[str, EntryItems]
    items_file: Path | None = None


@dataclass
class EvalReport:
    """Every model's scores on a suite.

    `settings` are those that change scores; `versions` those of the software.
    """

    suite: Suite
    settings: dict[str, Any]
    versions: dict[str, str]
    models: list[ModelScores] = field(default_factory=list)

    @property
    def columns(self) -> list[Column]:
        """The table's columns: the suite's, or where it names none, the first metric of each task."""
        first = self.models[0].entries if self.models else {}
        return self.suite.columns or [
            Column(entry, entry, items.metrics[0]) for entry, items in first.items() if items.metrics
        ]

    @property
    def measure(self) -> str:
        """What has to be the same for the scores of two reports to stand in one table."""
        tasks = [entry.to_json() for entry in self.suite.tasks]
        columns = [vars(column) for column in self.columns]
        told = [
            self.suite.suite,
            tasks,
            columns,
            self.suite.mean,
            self.settings,
            self.versions.get("lm_eval"),
        ]
        return json.dumps(told, sort_keys=True)

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores must know, of all models, each once."""
        shared = self._shared_notes()
        told = (
            note if note in shared else f"{model.name}: {note}"
            for model in self.models
            for entry in model.entries.values()
            for note in entry.notes
        )
        return list(dict.fromkeys(told))

    def _shared_notes(self) -> set[str]:
        """Those that hold for every model."""
        each = [{note for entry in model.entries.values() for note in entry.notes} for model in self.models]
        return set.intersection(*each) if each else set()

    def model(self, name: str) -> ModelScores:
        """The model of that name; raises `SettingError` with the nearest names."""
        for model in self.models:
            if model.name == name:
                return model
        names = [model.name for model in self.models]
        raise SettingError(f"there is no model {name} in these results", remedy=nearest(name, names))

    def scores(self, name: str) -> dict[str, dict[str, Score]]:
        """All of a model's scores: by task, then metric; a breakdown's are called metric/part."""
        model = self.model(name)
        entries = {entry.task: entry for entry in self.suite.tasks}
        found: dict[str, dict[str, Score]] = {}
        for key, items in model.entries.items():
            found.update(_entry_scores(entries[key], items))
        return found

    def cell(self, name: str, label: str) -> Score:
        """What stands in the column of this label for the model."""
        column = next(column for column in self.columns if column.label == label)
        scores = self.scores(name).get(column.entry, {})
        if column.metric not in scores:
            raise SettingError(
                f"column {label}: task {column.entry} has no metric {column.metric!r}",
                remedy=f"It has {', '.join(scores)}.",
            )
        return scores[column.metric]

    def mean(self, name: str, label: str) -> Score:
        """The plain mean of the columns that the suite names for it, its error as of independent columns."""
        return _mean_score([self.cell(name, column) for column in self.suite.mean[label]])

    def compare(
        self, first: str, second: str, *, seed: int = 0, resamples: int = RESAMPLES
    ) -> dict[str, Difference]:
        """Second minus first in every column and mean, by the paired bootstrap over items."""
        columns = {column.label: column for column in self.columns}
        options: dict[str, Any] = {"seed": seed, "resamples": resamples}
        found = {}
        for label, column in columns.items():
            groups = self._groups(first, second, column)
            if groups:
                found[label] = paired_bootstrap(groups, **options)
        for label, of in self.suite.mean.items():
            nested = [self._groups(first, second, columns[name]) for name in of]
            if all(nested):
                equal = [replace(group, share=1 / len(groups)) for groups in nested for group in groups]
                found[label] = paired_bootstrap(equal, **options)
        return found

    def _groups(self, first: str, second: str, column: Column) -> list[PairedItems]:
        """The items behind a column, in the groups that its score is the mean over."""
        entry = next(entry for entry in self.suite.tasks if entry.task == column.entry)
        left = self.model(first).entries[column.entry]
        right = self.model(second).entries[column.entry]
        tasks: list[str | None] = list(left.tasks) if entry.average == "tasks" else [None]
        groups = [paired(left, right, column.metric, task=task) for task in tasks]
        return [group for group in groups if len(group.weights)]

    def to_json(self, folder: Path | None = None) -> dict[str, Any]:
        """Plain data; the items files relative to `folder`."""
        return {
            "suite": self.suite.suite,
            "description": self.suite.description,
            "settings": self.settings,
            "versions": self.versions,
            "columns": [self._column_json(column) for column in self.columns],
            "mean": self.suite.mean,
            "tasks": [entry.to_json() for entry in self.suite.tasks],
            "notes": self.notes,
            "models": [self._model_json(model, folder) for model in self.models],
        }

    def write(self, out: Path) -> None:
        """Write the results file in one step."""
        text = json.dumps(self.to_json(out.parent), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(out, f"{text}\n".encode())

    def _column_json(self, column: Column) -> dict[str, Any]:
        higher = [m.entries[column.entry].higher_is_better.get(column.metric, True) for m in self.models]
        return {**vars(column), "higher_is_better": all(higher)}

    def _model_json(self, model: ModelScores, folder: Path | None) -> dict[str, Any]:
        kept = model.items_file
        scores = {
            task: {metric: score.to_json() for metric, score in metrics.items()}
            for task, metrics in self.scores(model.name).items()
        }
        return {
            "name": model.name,
            "path": model.path,
            "digest": model.digest,
            "scores": scores,
            "means": {label: self.mean(model.name, label).to_json() for label in self.suite.mean},
            "items": str(kept.relative_to(folder) if folder and kept else kept) if kept else None,
            "tasks": {
                task: version for entry in model.entries.values() for task, version in entry.versions.items()
            },
        }


class Measured(Protocol):
    """What has scores of one measure."""

    @property
    def measure(self) -> Hashable:
        """See `EvalReport.measure`."""
        ...


M = TypeVar("M", bound=Measured)


def alike(measured: Iterable[M]) -> list[list[M]]:
    """Those of one measure side by side."""
    groups: dict[Hashable, list[M]] = {}
    for each in measured:
        groups.setdefault(each.measure, []).append(each)
    return list(groups.values())


def joined(reports: Sequence[EvalReport]) -> EvalReport:
    """Reports of one measure as one; a model that several have is the first one's."""
    models: dict[str, ModelScores] = {}
    for report in reports:
        for model in report.models:
            models.setdefault(model.name, model)
    return replace(reports[0], models=list(models.values()))


def _entry_scores(entry: Entry, items: EntryItems) -> dict[str, dict[str, Score]]:
    """The scores of each task of an entry, and of all of them together under the entry's name."""
    found = {task: _task_scores(items, task, entry.breakdown is not None) for task in items.tasks}
    if entry.task in found:
        return found
    together: dict[str, Score] = {}
    for metric in items.metrics:
        if entry.average == "items":
            together[metric] = items.score(metric)
        else:
            together[metric] = _mean_score([scores[metric] for scores in found.values() if metric in scores])
    return {entry.task: together, **found}


def _task_scores(items: EntryItems, task: str, by_part: bool) -> dict[str, Score]:
    scores = {
        metric: items.score(metric, task=task) for metric in items.metrics if items.select(metric, task=task)
    }
    count = len({item.id for item in items.items if item.task == task})
    for metric, value in items.whole.get(task, {}).items():
        scores[metric] = Score(value, None, count, items.higher_is_better.get(metric, True))
    if by_part:
        parts = sorted({item.part for item in items.items if item.part is not None})
        for metric in list(scores):
            for part in parts:
                if items.select(metric, task=task, part=part):
                    scores[f"{metric}/{part}"] = items.score(metric, task=task, part=part)
    return scores


def _mean_score(scores: list[Score]) -> Score:
    errors = [score.stderr for score in scores]
    known = [error for error in errors if error is not None]
    error = math.hypot(*known) / len(scores) if len(known) == len(scores) else None
    value = math.fsum(score.value for score in scores) / len(scores)
    return Score(value, error, sum(score.n for score in scores), scores[0].higher_is_better)


def items_folder(out: Path) -> Path:
    """The folder beside a results file that keeps its models' items."""
    return out.with_name(f"{out.stem}.items")


def load_report(path: str | Path) -> EvalReport:
    """A results file with the items beside it.

    Raises:
        DataError: the file is not there, or no results of dusk's.
    """
    file = Path(path)
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        tasks = tuple(Entry(**entry) for entry in read["tasks"])
        seed = read["settings"]["fewshot_seed"]
        suite = Suite(read["suite"], tasks, read["description"], read["mean"], seed)
        models = [
            _read_model(model, file.parent, {entry.task for entry in tasks}) for model in read["models"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} holds no results of `dusk eval`: {error!r}") from error
    return EvalReport(suite, read["settings"], read["versions"], models)


def _read_model(read: dict[str, Any], folder: Path, tasks: Container[str]) -> ModelScores:
    """Its items file may hold more than the suite's entries: what was stopped under other settings."""
    kept = folder / read["items"] if read["items"] else None
    entries = {entry.entry: entry for entry in read_entries(kept) if entry.entry in tasks} if kept else {}
    return ModelScores(read["name"], read["path"], read["digest"], entries, kept)
