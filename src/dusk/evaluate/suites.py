"""Suites: which tasks, with how many shots, and which of their metrics stand in the table.

A suite is a YAML file. Ours lie in `suites/`; a file of the user's has the same keys; the name of a task of
the harness stands for a suite of that one task.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from dusk.errors import SettingError

FOLDER = Path(__file__).with_name("suites")
AVERAGES = ("tasks", "items", "group")


@dataclass(frozen=True)
class Column:
    """A column of the table: its label, and the metric of an entry that stands in it."""

    label: str
    entry: str
    metric: str


@dataclass(frozen=True)
class Entry:
    """One task or group of tasks of a suite.

    `local` names a maker of ours (`tasks_*.py`) that builds the task from rows of the file `data`; `items`
    bounds how many it makes. `task_files` is a folder with task files of the harness's form: one of ours in
    `tasks/`, or a path; without it the task is one of the harness's own. `settings` override keys of the
    harness's task. The score of several tasks together is their plain mean (`average: tasks`), the mean over
    all of their items (`average: items`), or what the harness's group says (`average: group`). `columns` goes
    from label to metric. `breakdown` names a field of the items whose values get scores of their own.
    """

    task: str
    columns: dict[str, str] = field(default_factory=dict)
    local: str | None = None
    data: str | None = None
    items: int | None = None
    task_files: str | None = None
    num_fewshot: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    average: str = "tasks"
    breakdown: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Suite:
    """Tasks, and which columns the mean is taken over (`mean` from the mean's label to columns' labels).

    `add_bos_token` says whether prompts begin with BOS; None leaves that to the tokenizer.
    """

    suite: str
    tasks: tuple[Entry, ...]
    description: str = ""
    mean: dict[str, list[str]] = field(default_factory=dict)
    fewshot_seed: int = 1234
    add_bos_token: bool | None = None

    @property
    def columns(self) -> list[Column]:
        """The columns of all entries, in order."""
        return [
            Column(label, entry.task, metric)
            for entry in self.tasks
            for label, metric in entry.columns.items()
        ]


def suite_names() -> list[str]:
    """The suites that come with dusk."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_suite(name: str | Path) -> Suite:
    """A suite by its name, from a YAML file, or of the one task of the harness that has this name.

    Whether the harness has the task is asked when it is loaded. Raises `SettingError` for a file that is no
    suite, with all of its faults.
    """
    builtin = FOLDER / f"{name}.yaml"
    if str(name) in suite_names():
        return _parse(builtin)
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        return _parse(path)
    if len(path.parts) != 1:
        raise SettingError(f"suite {name}: there is no such file", remedy=_known())
    return Suite(str(name), (Entry(str(name), average="group"),))


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the names like this one; empty if there is none."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else ""


def unknown_task(name: str, known: Iterable[str]) -> SettingError:
    """The error for a name that is no suite, no file and no task."""
    hint = nearest(name, [*suite_names(), *known])
    return SettingError(
        f"{name}: no suite of dusk's, no suite file and no task of lm-evaluation-harness has this name",
        remedy=" ".join(part for part in (hint, _known()) if part),
    )


def _known() -> str:
    names = ", ".join(suite_names())
    return f"Suites that come with dusk: {names}; `lm_eval ls tasks` lists the harness's tasks."


def _parse(path: Path) -> Suite:
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingError(f"suite {path}: there is no such file", remedy=_known()) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f"suite {path}: cannot be read as YAML: {error}") from error
    problems = _problems(read)
    if problems:
        raise SettingError(
            f"suite {path}: this is no suite", problems=problems, remedy="See docs/evaluation.md."
        )
    return Suite(**{**read, "tasks": tuple(Entry(**entry) for entry in read["tasks"])})


def _problems(read: Any) -> list[str]:
    """Every fault of a parsed suite file."""
    if not isinstance(read, Mapping):
        return ["the file holds no mapping"]
    problems = _wrong_keys(read, Suite, "")
    entries = read.get("tasks")
    if not isinstance(entries, list) or not entries:
        return [*problems, "`tasks` is no list of tasks"]
    if not isinstance(read.get("suite"), str):
        problems.append("`suite`, its name, is missing")
    for number, entry in enumerate(entries, 1):
        problems += _entry_problems(entry, f"task {number}: ")
    if not problems:
        problems += _repeated([entry["task"] for entry in entries], "task")
        problems += _mean_problems(read.get("mean"), entries)
    return problems


def _entry_problems(entry: Any, where: str) -> list[str]:
    if not isinstance(entry, Mapping):
        return [f"{where}no mapping"]
    problems = _wrong_keys(entry, Entry, where)
    if not isinstance(entry.get("task"), str):
        problems.append(f"{where}`task`, its name, is missing")
    if bool(entry.get("local")) != bool(entry.get("data")):
        problems.append(f"{where}`local` and `data` go together: what makes the task, and from which file")
    if entry.get("average", "tasks") not in AVERAGES:
        problems.append(f"{where}`average` is `{'`, `'.join(AVERAGES)}`")
    for name in ("items", "num_fewshot"):
        value = entry.get(name)
        if value is not None and (not isinstance(value, int) or value < (name == "items")):
            problems.append(
                f"{where}`{name}` is {value!r}, not a number of {'items' if name == 'items' else 'shots'}"
            )
    problems += [
        f"{where}`{name}` is no mapping"
        for name in ("columns", "settings")
        if not isinstance(entry.get(name, {}), dict)
    ]
    return problems


def _wrong_keys(given: Mapping[Any, Any], kind: type, where: str) -> list[str]:
    known = [each.name for each in fields(kind)]
    return [
        f"{where}unknown key {key!r}. {nearest(str(key), known)}".rstrip()
        for key in given
        if key not in known
    ]


def _repeated(names: list[str], what: str) -> list[str]:
    return [
        f"{what} {name} stands {names.count(name)} times"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]


def _mean_problems(mean: Any, entries: list[dict[str, Any]]) -> list[str]:
    labels = [label for entry in entries for label in entry.get("columns", {})]
    problems = _repeated(labels, "column")
    if mean is None:
        return problems
    if not isinstance(mean, dict) or not all(isinstance(of, list) for of in mean.values()):
        return [*problems, "`mean` goes from a label to a list of columns"]
    return problems + [
        f"mean {label}: there is no column {name!r}. {nearest(str(name), labels)}".rstrip()
        for label, of in mean.items()
        for name in of
        if name not in labels
    ]
