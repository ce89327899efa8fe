"""A pass over data files: every unit is read and judged by itself, in as many processes as there are workers.

What a pass finds about a unit is its part: one verdict a row, and whatever else the judge noted. Parts are
kept in a folder, so that a pass that was stopped goes on where it was, that other machines can make some of
them, and that memory does not grow with the data. Which process made a part changes nothing in it.
"""

import json
import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from dusk.data.files import Bad, Stored, parsed_line
from dusk.data.readers import SHOWN, bad_rows_error
from dusk.data.units import Unit, in_batches

Fields = dict[str, Any]
Progress = Callable[..., None]
Codes = npt.NDArray[np.uint16]

_ROWS_AT_ONCE = 1024
_AHEAD = 2  # units in work for each worker, so that results that wait for their turn stay few


class Entry(NamedTuple):
    """One row as a judge sees it: its number among the unit's rows, from 0, its line, and its fields."""

    row: int
    line: int
    fields: Fields


@dataclass
class Verdict:
    """What becomes of one row: kept where `reason` is None, and perhaps as another line.

    `bad` tells a row that cannot be used, an error of the input, from one that a filter leaves out.
    `found` is what people are shown beside the reason, `note` what the reject file says further.
    """

    reason: str | None = None
    found: str = ""
    bad: bool = False
    line: bytes | None = None
    note: Mapping[str, Any] = field(default_factory=dict)


KEPT = Verdict()


class Judge(ABC):
    """Judges rows, some at a time. It travels to other processes, so it holds settings and paths alone.

    `arrays` names what is noted besides verdicts, with types; each batch gives one array for each name, and
    those of a unit are put together. `rewrites` says that rows which are kept become other lines.
    """

    arrays: ClassVar[Mapping[str, Any]] = {}
    rewrites: ClassVar[bool] = False

    def begin(self) -> None:
        """Load what judging needs; called once in each process."""
        return

    @abstractmethod
    def judge(self, rows: Sequence[Entry], noted: dict[str, Any]) -> list[Verdict]:
        """A verdict for each row; fills `noted` with the arrays, and under "counts" with what it counts."""


@dataclass(frozen=True)
class Part:
    """What a pass found about one unit. `codes` says of each row 0 (kept) or 1 + the place of its reason."""

    unit: Unit
    folder: Path
    reasons: tuple[str, ...]
    bad: tuple[tuple[str, str], ...]  # place and what is wrong, of the first ones
    bad_count: int
    counts: Mapping[str, int]  # rows by what the judge noted under "counts"

    @property
    def name(self) -> str:
        """What its files' names begin with."""
        return f"{self.unit.number:06}"

    @property
    def codes(self) -> Codes:
        """What became of each row."""
        return self.array("codes")

    @property
    def lines(self) -> Path:
        """The file of the lines that were kept, where the judge rewrites rows."""
        return self.folder / f"{self.name}.jsonl"

    def array(self, name: str) -> npt.NDArray[Any]:
        """One of the arrays that were noted."""
        with np.load(self.folder / f"{self.name}.npz") as arrays:
            found: npt.NDArray[Any] = arrays[name]
        return found

    def notes(self) -> Iterator[dict[str, Any]]:
        """What the judge noted of rows left out, one object a row, in order: its "row" counts from 0."""
        file = self.folder / f"{self.name}.notes.jsonl"
        if file.exists():
            with file.open("rb") as stream:
                for line in stream:
                    yield json.loads(line)


Spread = Callable[[Sequence[Unit], Judge, Path], None]
"""Makes parts of a pass in a folder, on other machines."""


def run_pass(
    units: Sequence[Unit],
    judge: Judge,
    folder: Path,
    *,
    workers: int | None,
    skip_bad: bool,
    spread: Spread | None = None,
    progress: Progress | None = None,
) -> list[Part]:
    """Judge every unit; parts already in `folder` are kept. Returns the parts in order.

    `workers` are processes, as many as there are processors where it is None; `spread` makes parts elsewhere
    before (see `dusk.data.cluster`).

    Raises:
        DataError: rows that cannot be used (without `skip_bad`; 20 of them are named), or a damaged file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if spread is not None:
        spread(units, judge, folder)
    total = sum(unit.size_bytes for unit in units)
    parts: list[Part] = []
    done = 0
    for part in _parts(units, judge, folder, workers or _processors()):
        parts.append(part)
        done += part.unit.size_bytes
        if progress is not None:
            progress(done, total, "bytes")
    bad_count = sum(part.bad_count for part in parts)
    if bad_count and not skip_bad:
        named = [f"{place}: {what}" for part in parts for place, what in part.bad]
        files = list(dict.fromkeys(str(part.unit.file) for part in parts if part.bad_count))
        raise bad_rows_error(" and ".join(files), named[:SHOWN], bad_count)
    return parts


def _processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parts(units: Sequence[Unit], judge: Judge, folder: Path, workers: int) -> Iterator[Part]:
    """The parts in the order of the units, made by this process or by several."""
    if workers == 1 or len(units) < 2:
        judge.begin()
        for unit in units:
            yield part_of(unit, judge, folder)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(judge,)) as pool:
        waiting: deque[Future[Part]] = deque()
        try:
            for unit in units:
                waiting.append(pool.submit(_in_worker, unit, folder))
                if len(waiting) >= workers * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


_judge: list[Judge] = []  # of a worker process


def _begin(judge: Judge) -> None:
    judge.begin()
    _judge[:] = [judge]


def _in_worker(unit: Unit, folder: Path) -> Part:
    return part_of(unit, _judge[0], folder)


def part_of(unit: Unit, judge: Judge, folder: Path) -> Part:
    """The part of a unit: the one in the folder, or else made now."""
    facts_file = folder / f"{unit.number:06}.json"
    if not facts_file.exists():
        _make(unit, judge, folder)
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    bad = tuple((place, what) for place, what in facts["bad"])
    return Part(unit, folder, tuple(facts["reasons"]), bad, facts["bad_count"], facts["counts"])


class _Making:
    """A part while it is made."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.reasons: dict[str, int] = {}
        self.bad: list[tuple[str, str]] = []
        self.bad_count = 0
        self.counts: Counter[str] = Counter()

    def left_out(self, verdict: Verdict, place: str) -> None:
        reason = verdict.reason or ""
        self.codes.append(self.reasons.setdefault(reason, len(self.reasons) + 1))
        if verdict.bad:
            self.bad_count += 1
            if len(self.bad) < SHOWN:
                self.bad.append((place, f"{reason} ({verdict.found})" if verdict.found else reason))


def _make(unit: Unit, judge: Judge, folder: Path) -> None:
    """Judge the rows of a unit and write its part; the small file comes last and says that it is whole."""
    name, made = folder / f"{unit.number:06}", _Making()
    noted: dict[str, list[npt.NDArray[Any]]] = {key: [] for key in judge.arrays}
    with (
        Path(f"{name}.notes.jsonl").open("wb") as notes,
        Path(f"{name}.jsonl").open("wb") if judge.rewrites else nullcontext(None) as lines,
    ):
        for batch in in_batches(unit.rows(), _ROWS_AT_ONCE):
            verdicts = _judged(batch, len(made.codes), judge, noted, made.counts)
            for (line, _), verdict in zip(batch, verdicts, strict=True):
                if verdict.note:
                    note = {"row": len(made.codes), **verdict.note}
                    notes.write(json.dumps(note, ensure_ascii=False).encode() + b"\n")
                if verdict.reason is not None:
                    made.left_out(verdict, f"{unit.file}:{line}")
                    continue
                made.codes.append(0)
                if lines is not None:
                    assert verdict.line is not None
                    lines.write(verdict.line)
    arrays = {key: np.concatenate(found) for key, found in noted.items()}
    save: Any = np.savez  # whose stubs know no arrays by keyword
    save(f"{name}.npz", codes=np.array(made.codes, np.uint16), **arrays)
    facts = {"reasons": list(made.reasons), "bad": made.bad, "bad_count": made.bad_count}
    facts_file = Path(f"{name}.json.partial")
    facts_file.write_text(json.dumps(facts | {"counts": dict(made.counts)}), encoding="utf-8")
    facts_file.replace(f"{name}.json")


def _judged(
    batch: Sequence[tuple[int, Stored]],
    first_row: int,
    judge: Judge,
    noted: dict[str, list[npt.NDArray[Any]]],
    counts: Counter[str],
) -> Iterator[Verdict]:
    """A verdict for each stored row of a batch; those that are no objects are bad before they are judged."""
    read = [found if isinstance(found, dict) else parsed_line(line, found) for line, found in batch]
    rows = zip(batch, read, strict=True)
    entries = [
        Entry(row, line, fields)
        for row, ((line, _), fields) in enumerate(rows, first_row)
        if not isinstance(fields, Bad)
    ]
    arrays: dict[str, Any] = {}
    verdicts = iter(judge.judge(entries, arrays))
    counts.update(arrays.pop("counts", {}))
    for key, found in arrays.items():
        noted[key].append(np.asarray(found, judge.arrays[key]))
    for fields in read:
        if isinstance(fields, Bad):
            yield Verdict(fields.reason, fields.found, bad=True)
        else:
            yield next(verdicts)
