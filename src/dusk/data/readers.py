"""Reading and writing rows of data: JSON lines (plain, gzip, zstandard), arrays of JSON, and parquet.

A bad row is named by file and line. The first one stops the hand-out of rows, the rest of the file is only
looked through, and then all bad rows are told at once; with `skip_bad` they are left out instead, and counted
by reason.
"""

import gzip
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dusk.data.files import Bad, damage_named, parsed_line, stored_rows
from dusk.data.kinds import KINDS, Kind, fault
from dusk.errors import DataError, WorkError

SHOWN = 20  # bad rows that one error names


@dataclass(frozen=True)
class Row:
    """One row and where it stands; `line` counts from 1 (in parquet, rows)."""

    file: Path
    line: int
    fields: dict[str, Any]


def read_rows(
    path: str | Path,
    *,
    kinds: Collection[Kind] = (),
    skip_bad: bool = False,
    skipped: Counter[str] | None = None,
) -> Iterator[Row]:
    """Read the rows of a file, one at a time.

    Args:
        path: a .jsonl, .jsonl.gz, .jsonl.zst, .json, .json.gz or .parquet file.
        kinds: what a row may be (see `dusk.data.kinds`); any object where none is named.
        skip_bad: leave bad rows out.
        skipped: where rows left out are counted by reason.

    Raises:
        DataError: no such file, another format, a damaged file, or bad rows (20 of them named, all counted).
    """
    file = Path(path)
    bad: list[Bad] = []
    count = 0
    with damage_named(file):
        for line, found in stored_rows(file):
            checked = _checked(line, found, kinds)
            if isinstance(checked, Bad):
                if skip_bad:
                    if skipped is not None:
                        skipped[checked.reason] += 1
                    continue
                count += 1
                bad += [checked] if count <= SHOWN else []
            elif not count:
                yield Row(file, line, checked)
    if count:
        raise _bad_rows(file, bad, count)


def kind_of(rows: Iterable[Row]) -> Kind:
    """The kind that the first row has.

    Raises:
        DataError: there is no row, or it is of no kind that training knows.
    """
    for row in rows:
        kind = Kind.of(row.fields)
        if kind is None:
            raise DataError(
                f"{row.file}:{row.line}: {fault(row.fields, KINDS)}",
                remedy=f"Rows are one of {', '.join(kind.shape for kind in Kind)}.",
            )
        return kind
    raise DataError("the data hold no row")


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write JSON lines, gzipped if the name ends with .gz; the file is whole or absent. Returns the rows.

    The same rows give the same bytes.

    Raises:
        DataError: a name of another format.
        WorkError: the disk refuses.
    """
    file = Path(path)
    if not file.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"{file}: rows are written as .jsonl or .jsonl.gz")
    partial = file.with_name(f"{file.name}.partial")
    count = 0
    try:
        with partial.open("wb") as raw:
            with _compressing(raw) if file.name.endswith(".gz") else nullcontext(raw) as out:
                for row in rows:
                    out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                    count += 1
            raw.flush()
            os.fsync(raw.fileno())
        partial.replace(file)
    except OSError as error:
        raise WorkError(f"{file}: could not be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def _compressing(raw: IO[bytes]) -> gzip.GzipFile:
    """Gzip without a name or a time, which would make equal rows differ in bytes."""
    return gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0)


def _checked(line: int, found: bytes | dict[str, Any], kinds: Collection[Kind]) -> dict[str, Any] | Bad:
    """The fields of a row, or what is wrong with it."""
    fields = found if isinstance(found, dict) else parsed_line(line, found)
    if isinstance(fields, Bad):
        return fields
    reason = fault(fields, kinds) if kinds else None
    return fields if reason is None else Bad(line, reason)


def _bad_rows(file: Path, bad: list[Bad], count: int) -> DataError:
    problems = [f"{file}:{row.line}: {row.told}" for row in bad]
    return bad_rows_error(str(file), problems, count, by="dusk data convert --skip-bad")


def bad_rows_error(where: str, problems: Sequence[str], count: int, *, by: str = "--skip-bad") -> DataError:
    """The error that names the first of `count` bad rows, one of `problems` each; `by` what leaves them out."""
    more = [f"and {count - len(problems)} more"] if count > len(problems) else []
    rows = "a row that cannot be used" if count == 1 else f"{count} rows that cannot be used"
    return DataError(
        f"{where}: {rows}",
        problems=[*problems, *more],
        remedy=f"Mend them, or leave them out with {by}.",
    )
