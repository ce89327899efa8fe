"""Grades, and the file that keeps each when it is given, so that a run that was stopped goes on."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dusk.errors import OutputError


@dataclass(frozen=True)
class Grade:
    """What a model answered in one turn, and what the judge said; `grade` is None if it stayed off the scale."""

    model: str
    shots: int
    question: str
    category: str
    turn: int
    answer: str
    grade: float | None
    verdict: str


class GradeLog:
    """Grades in a file of lines, each on the disk when it is given; a last line that was cut off is not read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = dict(self._read())

    def _read(self) -> Iterator[tuple[tuple[str, str, int], Grade]]:
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.is_file() else []
        for line in lines:
            try:
                row = json.loads(line)
                key = row.pop("key")
                grade = Grade(**row)
            except (ValueError, KeyError, TypeError):
                continue  # cut off when a run was killed: graded again
            yield (key, grade.question, grade.turn), grade

    def get(self, key: str, question: str, turn: int) -> Grade | None:
        """The grade as given before for the same model, questions, example and judge."""
        return self.known.get((key, question, turn))

    def put(self, key: str, grade: Grade) -> None:
        """Add a grade."""
        row: Mapping[str, Any] = {"key": key, **asdict(grade)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if file.tell() and not self._ends_a_line():
                    file.write(b"\n")
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}") from error

    def _ends_a_line(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read() == b"\n"
