"""Tasks of ours from local rows, written as task files of the harness: the path that its own tasks take."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from dusk.data.readers import read_rows
from dusk.errors import DataError, SettingError
from dusk.evaluate import tasks_arithmetic, tasks_choice, tasks_documents
from dusk.evaluate.suites import Entry, nearest

TEMPLATES = Path(__file__).with_name("tasks")

_SUFFIXES = ("", ".gz", ".zst")
_SEED = 0  # which rows are drawn; part of what the task is

MAKERS: dict[str, ModuleType] = {
    "documents": tasks_documents,
    "choice": tasks_choice,
    "arithmetic": tasks_arithmetic,
}


@dataclass(frozen=True)
class LocalTask:
    """Where the task files of an entry lie, and the digest of all that they were made from."""

    folder: Path
    digest: str


def write_local_task(entry: Entry, data: Sequence[Path], folder: Path) -> LocalTask:
    """Make an entry's items from its data and write them with task files into `folder`.

    Raises:
        SettingError: no such maker.
        DataError: the data are missing, lack fields, or give no item.
    """
    maker = _maker(entry)
    source = _data_file(entry, data, maker.FIELDS)
    make: Callable[..., dict[str, list[dict[str, Any]]]] = maker.make_items
    tasks = make(_rows(source, maker.FIELDS), task=entry.task, items=entry.items or 200, seed=_SEED)
    if not any(tasks.values()):
        raise DataError(
            f"task {entry.task}: {source} gives no item for it",
            remedy=f"See docs/evaluation.md: {entry.local}.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    template = TEMPLATES / f"{entry.local}.yaml"
    for name, items in tasks.items():
        _write_task(folder, name, items, template)
    if list(tasks) != [entry.task]:
        _write_yaml(folder / f"{entry.task}.yaml", {"group": entry.task, "task": list(tasks)})
    made_from = [
        json.dumps(tasks, sort_keys=True).encode(),
        template.read_bytes(),
        Path(str(maker.__file__)).read_bytes(),
    ]
    return LocalTask(folder, hashlib.sha256(b"\0".join(made_from)).hexdigest()[:16])


def task_folder(entry: Entry) -> Path | None:
    """The folder of the entry's task files, ours by name or any by path; None if it names none.

    Raises:
        SettingError: there is no such folder.
    """
    if entry.task_files is None:
        return None
    for folder in (TEMPLATES / entry.task_files, Path(entry.task_files)):
        if folder.is_dir():
            return folder
    raise SettingError(f"task {entry.task}: `task_files: {entry.task_files}` is no folder")


def _write_task(folder: Path, name: str, items: list[dict[str, Any]], template: Path) -> None:
    rows = folder / f"{name}.jsonl"
    rows.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    files = {"data_files": {"test": str(rows.resolve())}, "cache_dir": str((folder / "cache").resolve())}
    _write_yaml(folder / f"{name}.yaml", {"include": str(template), "task": name, "dataset_kwargs": files})


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _maker(entry: Entry) -> ModuleType:
    if entry.local not in MAKERS:
        raise SettingError(
            f"task {entry.task}: `local: {entry.local}` is nothing that tasks are made by",
            remedy=f"{nearest(str(entry.local), MAKERS)} There are {', '.join(MAKERS)}.".strip(),
        )
    return MAKERS[entry.local]


def _data_file(entry: Entry, data: Sequence[Path], columns: tuple[str, ...]) -> Path:
    """The file of rows; as named by the suite inside `data`, also compressed."""
    wanted = f"rows {{{', '.join(columns)}}} in {entry.data}"
    if not data:
        raise DataError(f"task {entry.task}: needs {wanted}", remedy="Name its folder with --data.")
    absent = [f"there is no folder {folder}" for folder in data if not folder.is_dir()]
    if absent:
        raise DataError(f"task {entry.task}: needs {wanted}", problems=absent)
    for path in (folder / f"{entry.data}{suffix}" for folder in data for suffix in _SUFFIXES):
        if path.is_file():
            return path
    raise DataError(
        f"task {entry.task}: {entry.data} is missing",
        remedy=f"Put {wanted} (.gz and .zst are read too) into {' or '.join(map(str, data))}.",
    )


def _rows(source: Path, columns: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    for row in read_rows(source):
        missing = [name for name in columns if name not in row.fields]
        if missing:
            raise DataError(f"{row.file}:{row.line}: the row has no {', '.join(missing)}")
        yield row.fields
