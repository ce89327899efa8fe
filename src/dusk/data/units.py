"""Units: stretches of data files that several processes can read at once, in any order.

A unit of a plain file is a stretch of whole lines, of a parquet file some row groups, and of a compressed file
or an array all of it. Which units there are depends on the files alone, not on who reads them.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

from dusk.data.files import (
    Stored,
    arrow,
    damage_named,
    numbered_lines,
    parquet_rows,
    require_format,
    stored_rows,
)

UNIT_BYTES = 8 << 20


@dataclass(frozen=True)
class Unit:
    """A stretch of a file: bytes of a plain file, row groups of a parquet file, `end` None for a whole file.

    `number` is its place among all units, `first` the number of its first row, `last` whether the file ends
    with it, `size_bytes` what of the file it takes.
    """

    number: int
    file: Path
    first: int = 1
    begin: int = 0
    end: int | None = None
    last: bool = True
    size_bytes: int = 0

    def rows(self) -> Iterator[tuple[int, Stored]]:
        """The rows as they are stored, numbered as in the file.

        Raises:
            DataError: the file is damaged.
        """
        with damage_named(self.file):
            if self.file.name.endswith(".parquet"):
                assert self.end is not None
                yield from parquet_rows(self.file, groups=range(self.begin, self.end), first=self.first)
                return
            if self.end is None:
                yield from stored_rows(self.file)
                return
            with self.file.open("rb") as stream:
                stream.seek(self.begin)
                lines = io.BytesIO(stream.read(self.end - self.begin))
            yield from numbered_lines(lines, first=self.first, last=self.last)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"file": str(self.file)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The unit that `to_json` gave these fields of."""
        return cls(**fields | {"file": Path(fields["file"])})


def units(files: Iterable[Path]) -> list[Unit]:
    """The units of files, in order.

    Raises:
        DataError: a path that is no data file, or a parquet file that is damaged.
    """
    found: list[Unit] = []
    for file in files:
        require_format(file)
        with damage_named(file):
            found += (Unit(number, *rest) for number, rest in enumerate(_stretches(file), len(found)))
    return found


def _stretches(file: Path) -> Iterator[tuple[Path, int, int, int | None, bool, int]]:
    """The fields of a file's units but their number."""
    if file.name.endswith(".parquet"):
        yield from _groups(file)
    elif file.name.endswith(".jsonl"):
        yield from _line_stretches(file)
    else:
        yield file, 1, 0, None, True, file.stat().st_size


def _line_stretches(file: Path) -> Iterator[tuple[Path, int, int, int | None, bool, int]]:
    begin, first, size = 0, 1, file.stat().st_size
    with file.open("rb") as stream:
        while block := stream.read(UNIT_BYTES):
            block += stream.readline()
            end = begin + len(block)
            yield file, first, begin, end, end >= size, len(block)
            begin, first = end, first + block.count(b"\n")
    if not begin:
        yield file, 1, 0, 0, True, 0


def _groups(file: Path) -> Iterator[tuple[Path, int, int, int | None, bool, int]]:
    """Row groups put together until they are as large as a unit."""
    arrow(file)
    from pyarrow import parquet

    metadata = parquet.read_metadata(file)
    begin, first, rows, size = 0, 1, 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        size += metadata.row_group(group).total_byte_size
        if size >= UNIT_BYTES or group == metadata.num_row_groups - 1:
            yield file, first, begin, group + 1, group == metadata.num_row_groups - 1, size
            begin, first, rows, size = group + 1, first + rows, 0, 0


def in_batches(rows: Iterator[tuple[int, Stored]], size: int) -> Iterator[list[tuple[int, Stored]]]:
    """Rows by so many at once; one empty batch where there are none."""
    some = list(islice(rows, size))
    yield some
    while len(some) == size and (some := list(islice(rows, size))):
        yield some
