"""Data files as they are stored: JSON lines (plain, gzip, zstandard), arrays, parquet; and what a line holds."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dusk.errors import DataError

JSON = (".json", ".json.gz")  # arrays, or lines
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", *JSON, ".parquet")

Stored = bytes | dict[str, Any]
"""A row as it is stored: a line, an element of an array in one line, or the fields of a parquet row."""

_ROWS_AT_ONCE = 1024
_BOM = b"\xef\xbb\xbf"
_DECODER = json.JSONDecoder()
_HEAD_BYTES, _BLOCK_BYTES = 4096, 1 << 20
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")  # no string of JSON holds a line break as it is


@dataclass(frozen=True)
class Bad:
    """A row that cannot be used: the reason for counting, and what was found."""

    line: int
    reason: str
    found: str = ""

    @property
    def told(self) -> str:
        """The reason with what was found."""
        return f"{self.reason} ({self.found})" if self.found else self.reason


def stored_rows(file: Path) -> Iterator[tuple[int, Stored]]:
    """The rows of a file, numbered, as they are stored: lines of bytes, or objects of a parquet file.

    A .json or .json.gz file holds an array of rows, or lines as a .jsonl does.

    Raises:
        DataError: no such file, or of another format, or an array that does not end.
    """
    require_format(file)
    if file.name.endswith(".parquet"):
        yield from parquet_rows(file)
        return
    with opened(file) as stream:
        if file.name.endswith(JSON) and (begin := _array_begin(stream)) is not None:
            stream.seek(begin)
            yield from _elements(file, stream)
        else:
            yield from numbered_lines(stream)


def require_format(file: Path) -> None:
    """Raises `DataError` for a path that is no data file."""
    if not file.exists():
        raise DataError(f"{file}: there is no such file")
    if not file.is_file():
        raise DataError(f"{file}: not a file", remedy=f"Name the data files ({', '.join(SUFFIXES)}).")
    if not file.name.endswith(SUFFIXES):
        raise DataError(f"{file}: not a format that is read", remedy=f"These are: {', '.join(SUFFIXES)}.")


def opened(file: Path) -> io.BufferedIOBase:
    """A file of JSON lines as a stream of its uncompressed bytes."""
    if file.name.endswith(".gz"):
        return gzip.open(file)
    if file.name.endswith(".zst"):
        return io.BufferedReader(arrow(file).input_stream(str(file), compression="zstd"))
    return file.open("rb")


def numbered_lines(
    stream: Iterable[bytes], *, first: int = 1, last: bool = True
) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; empty ones only where something follows them. `last` says that the file ends here."""
    empty: list[int] = []
    for line, raw in enumerate(stream, first):
        text = raw.removeprefix(_BOM) if line == 1 else raw
        if not text.strip():
            empty.append(line)
            continue
        if empty:
            yield from ((number, b"") for number in empty)
            empty = []
        yield line, text
    if not last:
        yield from ((number, b"") for number in empty)


def _array_begin(stream: io.BufferedIOBase) -> int | None:
    """Where the first element of an array may begin; None for other content. The stream is at its start then."""
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    inside = head.removeprefix(_BOM).lstrip()
    return len(head) - len(inside) + 1 if inside.startswith(b"[") else None


def _elements(file: Path, stream: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
    """The elements of an array, each in one line: brackets and commas are counted, strings passed over.

    So an element that is no JSON is one bad row, and memory is that of one element.
    """
    buffer, at, begin, depth, row = b"", 0, 0, 1, 0
    while more := stream.read(_BLOCK_BYTES):
        buffer, at, begin = buffer[begin:] + more, at - begin, 0
        for token in _TOKEN.finditer(buffer, at):
            at, sign = token.start(), token[0]
            if sign == b'"':
                break  # a string that goes on in the next block
            at = token.end()
            depth += (sign in (b"[", b"{")) - (sign in (b"]", b"}"))
            if depth == 0 or (depth == 1 and sign == b","):
                row += 1
                element = buffer[begin : token.start()].translate(_ONE_LINE).strip()
                if element or depth:  # behind a last comma there is none
                    yield row, element
                begin = at
            if depth == 0:
                if (buffer[at:] + stream.read(_HEAD_BYTES)).strip():
                    raise DataError(f"{file}: something follows the array of rows, after row {row}")
                return
    raise DataError(f"{file}: damaged or cut off: the array of rows ends within row {row + 1}")


def parquet_rows(
    file: Path, *, groups: Sequence[int] | None = None, first: int = 1
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a parquet file, or of some of its row groups, numbered."""
    arrow(file)
    from pyarrow import parquet

    line = first - 1
    with parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=groups):
            for fields in batch.to_pylist():
                line += 1
                yield line, fields


def arrow(file: Path) -> Any:
    """Pyarrow, which only these formats need."""
    try:
        import pyarrow
    except ImportError:
        raise DataError(f"{file}: reading this needs pyarrow", remedy="pip install pyarrow") from None
    return pyarrow


@contextmanager
def damage_named(file: Path) -> Iterator[None]:
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


def parsed_line(line: int, raw: bytes) -> dict[str, Any] | Bad:
    """The object that a line holds, or what is wrong with the line."""
    if not raw:
        return Bad(line, "empty line")
    try:
        fields = _parsed(raw.decode())
        if b"\\ud" in raw or b"\\uD" in raw:  # how halves of surrogate pairs begin
            json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return Bad(line, "not UTF-8", f"byte {raw[error.start]:#04x} at {error.start + 1}{_utf16(raw)}")
    except UnicodeEncodeError:
        return Bad(line, "half of a surrogate pair")
    except json.JSONDecodeError as error:
        return Bad(line, "not JSON", f"{error.msg} at character {error.pos + 1}")
    except RecursionError:
        return Bad(line, "not JSON", "nested too deeply")
    except ValueError:
        return Bad(line, "not JSON", "a number of too many digits")
    return fields if isinstance(fields, dict) else Bad(line, "not an object", type(fields).__name__)


def _parsed(text: str) -> Any:
    """As `json.loads`, whose steps around the decoder cost as much as it for short lines."""
    try:
        found, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError:
        return json.loads(text)  # blanks in front, or the error as it is told
    return json.loads(text) if text[end:].strip(" \t\n\r") else found


def _utf16(raw: bytes) -> str:
    return "; it looks like UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
