"""Questions of two turns, from a file of rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dusk.data.readers import read_rows
from dusk.errors import DataError
from dusk.evaluate.judged.judge import Message

TURNS = 2


@dataclass(frozen=True)
class Question:
    """A question of two turns, and reference answers where there are some."""

    id: str
    category: str
    turns: tuple[str, str]
    references: tuple[str | None, str | None]


def read_questions(file: str | Path) -> list[Question]:
    """Rows {"id", "category", "questions": [two], "references": [two] or absent}.

    Raises:
        DataError: rows of another form, all of them named; two of one id.
    """
    found, problems = [], []
    for row in read_rows(file):
        fields = row.fields
        turns: Any = fields.get("questions")
        references = fields.get("references") or [None] * TURNS
        if not _texts(turns) or not isinstance(references, list) or len(references) != TURNS:
            problems.append(
                f"{row.file}:{row.line}: `questions` (and `references`, if any) must be two texts"
            )
        elif "id" not in fields or not isinstance(fields.get("category"), str):
            problems.append(f"{row.file}:{row.line}: the row has no `id` or no `category`")
        else:
            first, second = (None if each is None else str(each) for each in references)
            found.append(
                Question(str(fields["id"]), fields["category"], (turns[0], turns[1]), (first, second))
            )
    twice = {each.id for each in found if sum(other.id == each.id for other in found) > 1}
    problems += [f"{file}: the id {name} stands on several rows" for name in sorted(twice)]
    if problems or not found:
        raise DataError(f"{file}: these are no questions", problems=problems or ["there is no row"])
    return found


def _texts(turns: Any) -> bool:
    return isinstance(turns, list) and len(turns) == TURNS and all(isinstance(t, str) and t for t in turns)


def as_example(question: Question) -> list[Message]:
    """A question with its reference answers as a finished conversation; raises DataError without these."""
    messages: list[Message] = []
    for asked, answer in zip(question.turns, question.references, strict=True):
        if answer is None:
            raise DataError("the example needs `references`, its answers")
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return messages
