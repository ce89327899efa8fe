"""Grids: an entry of `stages` that has `axes` stands for several stages, one a row of a table.

    sft:
      kind: sft
      model: recovered                      # what all rows have
      axes:                                 # a setting, and its values by name
        data: {Alpaca-GPT4: alpaca.jsonl, OpenOrca: orca.jsonl}
      rows:                                 # a stage, and its value of each axis; several are on beside each other
        sft_v1: {data: [Alpaca-GPT4]}
        sft_v2: {data: [Alpaca-GPT4, OpenOrca]}
        sft_v1_v2: {kind: merge, models: [sft_v1, sft_v2]}

A row with a `kind` of its own is a stage in full; it shows the values of the rows that it merges. Without `rows`
there is a row for each combination of values, where an axis of files has every set of them that is not empty.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any, get_args, get_origin

from dusk.recipe.kinds import KINDS
from dusk.recipe.recipe import NAME
from dusk.recipe.settings import StageSettings
from dusk.recipe.words import nearest

Given = Mapping[str, Any]
_OF_THE_TABLE = ("axes", "rows", "title", "paper")
_HEADINGS = {"model": "Base"}


@dataclass
class Grids:
    """Stages as a recipe gives them, with those of its grids in the grids' places.

    `names` has the stages of each grid; `tables` what a report shows of it, see `dusk.recipe.recipe.Table`.
    """

    stages: dict[str, Any] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def expand(raw: Given) -> Grids:
    """The stages of a recipe, grids expanded; a stage that several grids have alike is one stage."""
    found = Grids()
    for name, given in raw.items():
        if not isinstance(given, dict) or "axes" not in given:
            _add(found, str(name), given)
            continue
        grid = _Grid(str(name), given, found.problems)
        for row, stage in grid.stages.items():
            _add(found, row, stage)
        found.names[str(name)] = list(grid.stages)
        found.tables[str(name)] = grid.table()
    return found


def named(stages: Given, grids: Mapping[str, list[str]]) -> dict[str, Any]:
    """The stages with the names of grids in their lists of references (`models: [sft]`) replaced by the rows."""
    return {name: _named(given, grids) for name, given in stages.items()}


def _named(given: Any, grids: Mapping[str, list[str]]) -> Any:
    kind = KINDS.get(str(given.get("kind"))) if isinstance(given, dict) else None
    if kind is None:
        return given
    replaced = dict(given)
    for key in kind.settings.references():
        if isinstance(given.get(key), list):
            rows = [
                row for text in given[key] for row in grids.get(text if isinstance(text, str) else "", [text])
            ]
            replaced[key] = list(dict.fromkeys(rows)) if any(text in grids for text in given[key]) else rows
    return replaced


def _add(found: Grids, name: str, given: Any) -> None:
    if name in found.stages and found.stages[name] != given:
        found.problems.append(f"stage '{name}' stands twice, with different settings")
    found.stages.setdefault(name, given)


class _Grid:
    """One grid: its axes, and the stages of its rows with what the table shows of each."""

    def __init__(self, name: str, given: Given, problems: list[str]) -> None:
        self.name, self.given, self.problems = name, given, problems
        self.kind = str(given.get("kind"))
        self.schema = KINDS[self.kind].settings if self.kind in KINDS else StageSettings
        self.shared = {key: value for key, value in given.items() if key not in _OF_THE_TABLE}
        self.axes = dict(self._axes(given["axes"]))
        rows = self._rows(given.get("rows"))
        self.sets = {key for key in self.axes if any(isinstance(row.get(key), list) for row in rows.values())}
        self.shown: dict[str, dict[str, Any]] = {}
        self.stages = {row: self._stage(row, own) for row, own in rows.items()}

    def table(self) -> dict[str, Any]:
        """What a report shows: a column for each value of a set, or for each other axis; a row for each stage."""
        columns: list[str] = []
        for key, values in self.axes.items():
            columns += (
                values if key in self.sets else [_HEADINGS.get(key, key.replace("_", " ").capitalize())]
            )
        told = {key: self.given[key] for key in ("title", "paper") if key in self.given}
        return {**told, "columns": columns, "rows": self.shown}

    def _axes(self, given: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        if not isinstance(given, dict) or not given:
            self._problem("`axes` maps settings to their values")
            return
        keys = [*self.schema.keywords()]
        for key, values in given.items():
            if self.kind in KINDS and key not in keys:
                self._problem(f"axes: {self.kind} has no setting {key!r}{nearest(str(key), keys)}")
            if isinstance(values, list) and values:
                yield str(key), {str(value): value for value in values}
            elif isinstance(values, dict) and values:
                yield str(key), {str(name): value for name, value in values.items()}
            else:
                self._problem(f"axes: {key}: its values are a list, or a mapping from names to values")

    def _rows(self, given: Any) -> dict[str, dict[str, Any]]:
        if given is None:
            return dict(self._every())
        if (
            not isinstance(given, dict)
            or not all(isinstance(row, dict) for row in given.values())
            or not given
        ):
            self._problem("`rows` maps the name of a stage to its value of each axis")
            return {}
        return {str(name): row for name, row in given.items()}

    def _every(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every combination of values, named after them."""
        choices: list[list[Any]] = [
            [list(chosen) for size in range(1, len(values) + 1) for chosen in combinations(values, size)]
            if self._of_files(key)
            else list(values)
            for key, values in self.axes.items()
        ]
        for chosen in product(*choices):
            texts: list[str] = [" + ".join(one) if isinstance(one, list) else one for one in chosen]
            slug = "_".join(re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") for text in texts)
            label = ", ".join(texts)
            yield f"{self.name}_{slug}"[:64], {**dict(zip(self.axes, chosen, strict=True)), "label": label}

    def _of_files(self, key: str) -> bool:
        """Whether a setting is a list of files, so that its values can stand beside each other."""
        reference = self.schema.references().get(key)
        return reference is not None and reference.to in ("file", "data") and self._is_list(key)

    def _is_list(self, key: str) -> bool:
        annotation = self.schema.model_fields[key].annotation if key in self.schema.model_fields else None
        return any(get_origin(part) is list for part in (annotation, *get_args(annotation)))

    def _stage(self, name: str, row: Given) -> dict[str, Any]:
        if not re.fullmatch(NAME, name):
            self._problem(f"row '{name}': the name of a stage has letters, digits, - and _")
        if "kind" in row:
            self.shown[name] = self._merged(row)
            return dict(row)
        stage = self.shared | {key: value for key, value in row.items() if key not in self.axes}
        shown: dict[str, Any] = {}
        for key, values in self.axes.items():
            chosen = row.get(key)
            names = [
                str(one) for one in (chosen if isinstance(chosen, list) else [chosen]) if one is not None
            ]
            for one in names:
                if one not in values:
                    self._problem(f"row '{name}': {key} has no value {one!r}{nearest(one, values)}")
            picked = [values[one] for one in names if one in values]
            if key in self.sets:
                shown |= {value: value in names for value in values}
                stage[key] = [file for one in picked for file in (one if isinstance(one, list) else [one])]
            elif picked:
                shown[_HEADINGS.get(key, key.replace("_", " ").capitalize())] = names[0]
                one = picked[0]
                stage[key] = [one] if isinstance(one, str) and self._is_list(key) else one
        self.shown[name] = shown
        return stage

    def _merged(self, row: Given) -> dict[str, Any]:
        """What the rows show that a row of its own kind merges: on where one is on, and the texts of all."""
        parts = [self.shown[name] for name in row.get("models") or [] if name in self.shown]
        shown: dict[str, Any] = {}
        for key in dict.fromkeys(key for part in parts for key in part):
            values = list(dict.fromkeys(part[key] for part in parts if key in part))
            shown[key] = any(values) if isinstance(values[0], bool) else " + ".join(values)
        return shown

    def _problem(self, told: str) -> None:
        self.problems.append(f"grid '{self.name}': {told}")
