"""Reading and writing rows of data: JSON lines (plain, gzip, zstandard) and parquet.

A bad row is named by file and line. The first one stops the hand-out of rows, the rest of the file is only
looked through, and then all bad rows are told at once; with `skip_bad` they are left out instead, and counted
by reason.
"""

import gzip
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dusk.data.kinds import Kind, fault
from dusk.errors import DataError, WorkError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")

_SHOWN = 20  # bad rows that one error names
_ROWS_AT_ONCE = 1024
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One row and where it stands; `line` counts from 1 (in parquet, rows)."""

    file: Path
    line: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class _Bad:
    """A row that cannot be used: the reason for counting, and what was found."""

    line: int
    reason: str
    found: str = ""


def read_rows(
    path: str | Path,
    *,
    kinds: Collection[Kind] = (),
    skip_bad: bool = False,
    skipped: Counter[str] | None = None,
) -> Iterator[Row]:
    """Read the rows of a file, one at a time.

    Args:
        path: a .jsonl, .jsonl.gz, .jsonl.zst or .parquet file.
        kinds: what a row may be (see `dusk.data.kinds`); any object where none is named.
        skip_bad: leave bad rows out.
        skipped: where rows left out are counted by reason.

    Raises:
        DataError: no such file, another format, a damaged file, or bad rows (20 of them named, all counted).
    """
    file = Path(path)
    bad: list[_Bad] = []
    count = 0
    with _damage_named(file):
        for line, found in _objects(file):
            checked = _checked(line, found, kinds)
            if isinstance(checked, _Bad):
                if skip_bad:
                    if skipped is not None:
                        skipped[checked.reason] += 1
                    continue
                count += 1
                bad += [checked] if count <= _SHOWN else []
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
                f"{row.file}:{row.line}: {fault(row.fields, tuple(Kind))}",
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


def _objects(file: Path) -> Iterator[tuple[int, bytes | dict[str, Any]]]:
    """The rows of a file as they are stored: lines of bytes, or objects of a parquet file."""
    if not file.exists():
        raise DataError(f"{file}: there is no such file")
    if not file.is_file():
        raise DataError(f"{file}: not a file", remedy=f"Name the data files ({', '.join(SUFFIXES)}).")
    if file.name.endswith(".parquet"):
        yield from _parquet(file)
    elif file.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        with _opened(file) as stream:
            yield from _lines(stream)
    else:
        raise DataError(f"{file}: not a format that is read", remedy=f"These are: {', '.join(SUFFIXES)}.")


def _opened(file: Path) -> io.BufferedIOBase:
    if file.name.endswith(".gz"):
        return gzip.open(file)
    if file.name.endswith(".zst"):
        return io.BufferedReader(_arrow(file).input_stream(str(file), compression="zstd"))
    return file.open("rb")


def _lines(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; empty ones only where something follows them."""
    empty: list[int] = []
    for line, raw in enumerate(stream, 1):
        text = raw.removeprefix(_BOM) if line == 1 else raw
        if text.strip():
            yield from ((number, b"") for number in empty)
            empty = []
            yield line, text
        else:
            empty.append(line)


def _parquet(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    _arrow(file)
    from pyarrow import parquet

    line = 0
    with parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(_ROWS_AT_ONCE):
            for fields in batch.to_pylist():
                line += 1
                yield line, fields


def _arrow(file: Path) -> Any:
    """Pyarrow, which only these formats need."""
    try:
        import pyarrow
    except ImportError:
        raise DataError(f"{file}: reading this needs pyarrow", remedy="pip install pyarrow") from None
    return pyarrow


@contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    """Turn what the decompressors and parquet raise into an error that names the file."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file}: damaged or cut off: {error}", remedy="Fetch the file again.") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if type(error).__module__.partition(".")[0] != "pyarrow":
            raise
        raise DataError(f"{file}: damaged, or no parquet file: {error}") from error


def _checked(line: int, found: bytes | dict[str, Any], kinds: Collection[Kind]) -> dict[str, Any] | _Bad:
    """The fields of a row, or what is wrong with it."""
    fields = found if isinstance(found, dict) else _parsed(line, found)
    if isinstance(fields, _Bad):
        return fields
    reason = fault(fields, kinds) if kinds else None
    return fields if reason is None else _Bad(line, reason)


def _parsed(line: int, raw: bytes) -> dict[str, Any] | _Bad:
    if not raw:
        return _Bad(line, "empty line")
    try:
        fields = json.loads(raw.decode())
        if b"\\u" in raw:
            json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return _Bad(line, "not UTF-8", f"byte {raw[error.start]:#04x} at {error.start + 1}{_utf16(raw)}")
    except UnicodeEncodeError:
        return _Bad(line, "half of a surrogate pair")
    except json.JSONDecodeError as error:
        return _Bad(line, "not JSON", f"{error.msg} at character {error.pos + 1}")
    except RecursionError:
        return _Bad(line, "not JSON", "nested too deeply")
    return fields if isinstance(fields, dict) else _Bad(line, "not an object", type(fields).__name__)


def _utf16(raw: bytes) -> str:
    return "; it looks like UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""


def _bad_rows(file: Path, bad: list[_Bad], count: int) -> DataError:
    problems = [f"{file}:{row.line}: {row.reason}{f' ({row.found})' if row.found else ''}" for row in bad]
    if count > len(bad):
        problems.append(f"and {count - len(bad)} more")
    rows = "a row that cannot be used" if count == 1 else f"{count} rows that cannot be used"
    return DataError(
        f"{file}: {rows}", problems=problems, remedy="Mend them, or leave them out with --skip-bad."
    )
