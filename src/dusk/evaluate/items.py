"""What a model did on every single item, kept so that models can be compared in pairs.

One gzip file a model: for each entry of the suite a header line, then a line an item. Each entry is a whole
gzip member and the file is replaced in one step, so it is whole at every moment and a later run takes from it
what is already measured. An entry of many tasks, such as MMLU, is kept in lots until its last is measured.
"""

import gzip
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dusk.errors import OutputError
from dusk.evaluate.bootstrap import PairedItems, standard_error, weighted_mean


@dataclass(frozen=True)
class Item:
    """One item of a task under one model.

    `values` by metric; `weights` only where they are not 1 (the bytes behind a bits-per-byte value); `part`
    is what a breakdown goes by (the package of a document); `output` is what the model wrote, or its
    log-likelihoods.
    """

    task: str
    id: int
    hash: str
    values: dict[str, float]
    weights: dict[str, float] = field(default_factory=dict)
    part: str | None = None
    output: Any = None

    def to_json(self) -> dict[str, Any]:
        """The fields that say something."""
        return {name: value for name, value in vars(self).items() if value not in (None, {})}


@dataclass(frozen=True)
class Score:
    """A metric of a task: its mean, the mean's standard error (None if it has none), and how many items."""

    value: float
    stderr: float | None
    n: int
    higher_is_better: bool

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))


@dataclass
class EntryItems:
    """All that was measured for one entry of a suite: the items, and scores that are no mean of items.

    `notes` say what a reader of the scores must know: prompts that were cut, shots that were missing.
    `cut` counts the items whose prompts were cut.
    """

    entry: str
    fingerprint: str
    higher_is_better: dict[str, bool]
    versions: dict[str, str]
    items: list[Item]
    whole: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cut: int = 0

    @cached_property
    def by_task(self) -> dict[str | None, list[Item]]:
        """The items of each task, and under None all of them."""
        found: dict[str | None, list[Item]] = {None: self.items}
        for item in self.items:
            found.setdefault(item.task, []).append(item)
        return found

    @property
    def tasks(self) -> list[str]:
        """The tasks of the entry, in the order of the items."""
        return list(dict.fromkeys([task for task in self.by_task if task is not None] + list(self.whole)))

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics that items have, in their order."""
        return list(dict.fromkeys(metric for item in self.items for metric in item.values))

    def select(self, metric: str, *, task: str | None = None, part: str | None = None) -> dict[str, Item]:
        """The items that have the metric, by `task/id`."""
        return {
            f"{item.task}/{item.id}": item
            for item in self.by_task.get(task, [])
            if metric in item.values and part in (None, item.part)
        }

    def score(self, metric: str, *, task: str | None = None, part: str | None = None) -> Score:
        """The weighted mean of the metric over the chosen items."""
        chosen = self.select(metric, task=task, part=part).values()
        values = np.array([item.values[metric] for item in chosen])
        weights = np.array([item.weights.get(metric, 1.0) for item in chosen])
        error = standard_error(values, weights)
        return Score(
            weighted_mean(values, weights),
            None if math.isnan(error) else error,
            len(values),
            self.higher_is_better.get(metric, True),
        )


def joined(entry: str, lots: Sequence[EntryItems]) -> EntryItems:
    """The lots of an entry as one."""
    whole = EntryItems(entry, lots[0].fingerprint, {}, {}, [])
    for lot in lots:
        whole.items += lot.items
        whole.higher_is_better |= lot.higher_is_better
        whole.versions |= lot.versions
        whole.whole |= lot.whole
        whole.cut += lot.cut
    return whole


def paired(first: EntryItems, second: EntryItems, metric: str, *, task: str | None = None) -> PairedItems:
    """The items that both models answered, in one order; an item whose content differs is left out."""
    left, right = first.select(metric, task=task), second.select(metric, task=task)
    same = [key for key, item in left.items() if key in right and right[key].hash == item.hash]
    return PairedItems(
        np.array([left[key].values[metric] for key in same]),
        np.array([right[key].values[metric] for key in same]),
        np.array([left[key].weights.get(metric, 1.0) for key in same]),
    )


_LOT = ", lot "


def lot_name(entry: str, number: int) -> str:
    """What a lot of an entry is kept under until the entry is whole."""
    return f"{entry}{_LOT}{number}"


class ItemStore:
    """The items of one model in one file; a path of None keeps them in memory alone."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries = {entry.entry: entry for entry in read_entries(path)} if path else {}
        self._members = {name: _member(entry) for name, entry in self.entries.items()}

    def get(self, entry: str, fingerprint: str) -> EntryItems | None:
        """The entry as measured before under the same settings, if it was."""
        found = self.entries.get(entry)
        return found if found and found.fingerprint == fingerprint else None

    def put(self, entry: EntryItems) -> None:
        """Add an entry, or replace the one of its name and its lots; the file is whole before and after."""
        for name in [name for name in self.entries if name.startswith(f"{entry.entry}{_LOT}")]:
            del self.entries[name]
            self._members.pop(name, None)  # of what is kept in memory alone there is none
        self.entries[entry.entry] = entry
        if self.path is not None:
            self._members[entry.entry] = _member(entry)
            write_atomically(self.path, b"".join(self._members.values()))


def read_entries(path: Path) -> list[EntryItems]:
    """All entries of an items file; none if it is not there or not whole."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return list(_entries(json.loads(line) for line in file))
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return []  # not written by us or cut off on the way here: measured again


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step, and have it on the disk before."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def _member(entry: EntryItems) -> bytes:
    header = {
        "entry": entry.entry,
        "fingerprint": entry.fingerprint,
        "higher_is_better": entry.higher_is_better,
        "versions": entry.versions,
        "whole": entry.whole,
        "notes": entry.notes,
        "cut": entry.cut,
        "items": len(entry.items),
    }
    rows = [header, *(item.to_json() for item in entry.items)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return gzip.compress(text.encode(), compresslevel=6, mtime=0)


def _entries(rows: Iterable[dict[str, Any]]) -> Iterator[EntryItems]:
    stream = iter(rows)
    for header in stream:
        count = header.pop("items")
        items = [Item(**row) for _, row in zip(range(count), stream, strict=False)]
        if len(items) != count:
            raise ValueError("cut off")
        yield EntryItems(items=items, **header)
