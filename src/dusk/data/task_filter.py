"""Leaving out rows of FLAN tasks that belong to benchmarks (SOLAR, table 8).

OpenOrca's ids name a submix and a number ("niv.12", "cot.7"), not the task that a row was made from. Tasks are
told by, in this order: the row's own field; an id that begins with a task's name; a table of FLAN in which the
same question stands with its task. What none of these tells is undecided, counted by submix, and kept or left
out as asked.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dusk.data.collect import collect
from dusk.data.convert import converted
from dusk.data.fields import RowError, UnwantedError
from dusk.data.hub import data_files
from dusk.data.kinds import conversation, prompt
from dusk.data.outputs import DataFolder
from dusk.data.passes import Entry, Judge, Progress, Spread, Verdict, run_pass
from dusk.data.readers import read_rows
from dusk.data.sources import source_of
from dusk.data.stores import file_digest
from dusk.data.units import units
from dusk.data.words import words_of
from dusk.errors import DataError

TABLE_8 = (
    "task228_arc_answer_generation_easy",
    "ai2_arc/ARC-Challenge:1.0.0",
    "ai2_arc/ARC-Easy:1.0.0",
    "task229_arc_answer_generation_hard",
    "hellaswag:1.1.0",
    "task1389_hellaswag_completion",
    "cot_gsm8k",
    "cot_gsm8k_ii",
    "drop:2.0.0",
    "winogrande:1.1.0",
)
UNDECIDED = "of an undecided task"

_TASK_FIELDS = ("task", "task_name", "_task_name")
_QUESTION_FIELDS = ("question", "inputs", "prompt", "instruction")
_SUBMIX = re.compile(r"(niv|t0|cot|flan)\.")
_TABLE = "flan.npy"


def filter_tasks(
    out: str | Path,
    *,
    data: Sequence[str | Path],
    tasks: Sequence[str] = TABLE_8,
    flan: Sequence[str | Path] = (),
    undecided: Literal["keep", "leave-out"] = "keep",
    skip_bad: bool = False,
    license: str | None = None,
    rejects: str | Path | None = None,
    workers: int | None = None,
    spread: Spread | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Leave out the rows of some FLAN tasks, into the folder `out`.

    Args:
        out: the folder to make.
        data: files or hub ids, OpenOrca's or of its form.
        tasks: names of tasks, by default SOLAR's; upper case and punctuation do not count.
        flan: files or hub ids of FLAN: rows with a task (`task`, `task_name`) and a question (`question`,
            `inputs`, `prompt`), or with the `digest` of one (`question_digest`).
        undecided: what becomes of rows whose task nothing tells.
        skip_bad, license, rejects, workers, spread: as in `dusk.data.convert`.

    Returns:
        What the card tells; `decided` counts how tasks were told, `undecided` those that were not, by submix.

    Raises:
        DataError: files that cannot be read, or rows that cannot be used.
        SettingError: `out` exists.
    """
    files, tables = data_files(data), data_files(flan)
    settings = {
        "tasks": list(tasks),
        "flan": [[file.name, file_digest(file)] for file in tables],
        "undecided": undecided,
        "skip_bad": skip_bad,
    }
    licenses = dict.fromkeys(files, license) if license else None
    with DataFolder(out, "data filter", files, settings, licenses=licenses, rejects=rejects) as folder:
        table = folder.scratch / _TABLE
        names = write_table(table, tables, tasks)
        parts = run_pass(
            units(files),
            TaskJudge(tuple(tasks), table, names, undecided == "keep"),
            folder.parts,
            workers=workers,
            skip_bad=skip_bad,
            spread=spread,
            progress=progress,
        )
        counted = sum((Counter(part.counts) for part in parts), Counter[str]())
        tally = collect(parts, folder.rows, rejects=folder.rejects)
        told: dict[str, dict[str, int]] = {"decided": {}, "undecided": {}}
        for key, count in sorted(counted.items()):
            kind, _, name = key.partition(":")
            told[kind][name] = count
        return folder.finish(tally, **told)


def canonical(task: str) -> str:
    """A task's name without case and punctuation, in which copies of the table differ."""
    return "".join(character for character in task.lower() if character.isalnum())


def question_digest(question: str) -> int:
    """A 64-bit digest of a question's words, whatever their case and the punctuation between them."""
    return _digest(words_of([question]).of(0))


def write_table(file: Path, tables: Sequence[Path], tasks: Sequence[str]) -> list[str]:
    """Write the digests of FLAN's questions, sorted, each with the number of its task; returns the tasks.

    A question that stands in a task to be left out belongs to it, whatever other task has it too.

    Raises:
        DataError: a row without a task, or without a question or digest.
    """
    unwanted = {canonical(task) for task in tasks}
    numbers: dict[str, int] = {}
    digests: list[int] = []
    owners: list[int] = []
    for task, digest in _flan_rows(tables):
        digests.append(digest)
        owners.append(numbers.setdefault(task, len(numbers)))
    names = list(numbers)
    wanted = np.array([canonical(name) not in unwanted for name in names], np.bool_)
    every, owner = np.array(digests, np.uint64), np.array(owners, np.int64)
    order = np.lexsort((wanted[owner] if len(owner) else owner, every))
    np.save(file, np.stack([every[order], owner[order].astype(np.uint64)]))
    return names


def _flan_rows(tables: Sequence[Path]) -> Iterator[tuple[str, int]]:
    for table in tables:
        for row in read_rows(table):
            task = next((row.fields[n] for n in _TASK_FIELDS if isinstance(row.fields.get(n), str)), None)
            asked = next(
                (row.fields[n] for n in _QUESTION_FIELDS if isinstance(row.fields.get(n), str)), None
            )
            digest = row.fields.get("digest", None if asked is None else question_digest(asked))
            if task is None or not isinstance(digest, int):
                raise DataError(
                    f"{table}:{row.line}: no row of FLAN: it has {', '.join(row.fields)}",
                    remedy=f"Rows need one of {', '.join(_TASK_FIELDS)}, and one of {', '.join(_QUESTION_FIELDS)} "
                    "or a digest.",
                )
            yield task, digest


@dataclass
class TaskJudge(Judge):
    """Leaves out the rows of `tasks`; `table` and `names` are what `write_table` gives."""

    tasks: tuple[str, ...]
    table: Path
    names: Sequence[str]
    keep_undecided: bool

    def begin(self) -> None:
        """See `Judge`."""
        self.unwanted = {canonical(task): task for task in self.tasks}
        self.digests, self.owners = np.load(self.table, mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        names = ("tasks", "table", "names", "keep_undecided")
        return {name: getattr(self, name) for name in names}

    def judge(self, rows: Sequence[Entry], noted: dict[str, Any]) -> list[Verdict]:
        """See `Judge`."""
        counts: Counter[str] = Counter()
        noted["counts"] = counts
        return [self._verdict(entry.fields, counts) for entry in rows]

    def _verdict(self, fields: Mapping[str, Any], counts: Counter[str]) -> Verdict:
        try:
            row = converted(fields, source_of(fields))
        except RowError as error:
            return Verdict(str(error), bad=True)
        except UnwantedError as error:
            return Verdict(str(error))
        task, how = self._task(fields, row)
        if task is None:
            submix = _SUBMIX.match(str(fields.get("id", "")))
            counts[f"undecided:{submix[1] if submix else 'no submix'}"] += 1
            return Verdict(None if self.keep_undecided else UNDECIDED)
        counts[f"decided:{how}"] += 1
        name = self.unwanted.get(canonical(task))
        return Verdict(f"of the task {name}" if name else None)

    def _task(self, fields: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[str | None, str]:
        """The task of a row, and what told it."""
        for name in _TASK_FIELDS:
            if isinstance(fields.get(name), str):
                return fields[name], "by the row's field"
        of_id = str(fields.get("id", "")).rpartition(".")[0]
        if canonical(of_id) in self.unwanted:
            return of_id, "by the id"
        digest = np.uint64(question_digest(asked(row)))
        place = int(np.searchsorted(self.digests, digest))
        if place < len(self.digests) and self.digests[place] == digest:
            return self.names[int(self.owners[place])], "by its question in FLAN"
        return None, ""


def asked(row: Mapping[str, Any]) -> str:
    """What the user says in a row of training, without the system's words."""
    if "text" in row:
        return str(row["text"])
    messages = conversation(row) if "messages" in row else prompt(row["prompt"])
    return "\n".join(message["content"] for message in messages if message["role"] == "user")


def _digest(words: Sequence[bytes]) -> int:
    return int.from_bytes(hashlib.blake2b(b" ".join(words), digest_size=8).digest(), "little")
