"""Judged evaluation: two turns, without and with an example, graded by a judge, as LogicKor does it.

A question has two turns; the second is asked after the model's own first answer. Without an example the model
sees the question alone (0-shot), with one it sees a finished conversation first (1-shot). Every grade is kept
when it is given, so a run that was stopped goes on.

Source: LogicKor (instructkr, 2024), Korean questions of two turns in six categories, which Solar Pro reports.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dusk.checkpoint import resolve
from dusk.data.readers import read_rows
from dusk.errors import DataError, OutputError, WorkError
from dusk.evaluate.bootstrap import Difference, PairedItems, paired_bootstrap, standard_error
from dusk.evaluate.digest import digest_of
from dusk.evaluate.items import Score, write_atomically
from dusk.evaluate.judge import HIGHEST, LOWEST, Judge, Message
from dusk.evaluate.naming import name_models

TURNS = 2


@dataclass(frozen=True)
class Question:
    """A question of two turns, and reference answers where there are some."""

    id: str
    category: str
    turns: tuple[str, str]
    references: tuple[str | None, str | None]


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


class Answerer(Protocol):
    """A model that answers conversations."""

    name: str
    digest: str

    def answer(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """An answer to the last message of each."""
        ...


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


@dataclass(frozen=True)
class JudgedReport:
    """All grades of all models."""

    judge: str
    grades: list[Grade]

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Each model with each number of shots, in their order."""
        return list(dict.fromkeys((grade.model, grade.shots) for grade in self.grades))

    @property
    def categories(self) -> list[str]:
        """The categories in the order of the questions."""
        return list(dict.fromkeys(grade.category for grade in self.grades))

    @property
    def notes(self) -> list[str]:
        """How many grades are missing."""
        missing = sum(grade.grade is None for grade in self.grades)
        told = f"{missing} of {len(self.grades)} answers have no grade: the judge stayed off the scale of 1 to 10"
        return [told] if missing else []

    def score(
        self, model: str, shots: int, *, category: str | None = None, turn: int | None = None
    ) -> Score | None:
        """The mean grade over the chosen answers; None where there is none."""
        values = np.array(
            [
                grade.grade
                for grade in self.grades
                if (grade.model, grade.shots) == (model, shots)
                and grade.grade is not None
                and category in (None, grade.category)
                and turn in (None, grade.turn)
            ]
        )
        if not len(values):
            return None
        error = standard_error(values, np.ones(len(values)))
        return Score(float(values.mean()), None if np.isnan(error) else error, len(values), True)

    def compare(self, first: tuple[str, int], second: tuple[str, int]) -> Difference | None:
        """Second minus first over the questions that both have grades for, by the paired bootstrap."""
        left, right = self._by_question(first), self._by_question(second)
        shared = [name for name in left if name in right]
        if not shared:
            return None
        before, after = (np.array([side[name] for name in shared]) for side in (left, right))
        return paired_bootstrap([PairedItems(before, after, np.ones(len(shared)))])

    def _by_question(self, run: tuple[str, int]) -> dict[str, float]:
        """The mean grade of each question's turns, where both have one."""
        found: dict[str, list[float]] = {}
        for grade in self.grades:
            if (grade.model, grade.shots) == run and grade.grade is not None:
                found.setdefault(grade.question, []).append(grade.grade)
        return {name: sum(grades) / TURNS for name, grades in found.items() if len(grades) == TURNS}

    @property
    def differences(self) -> list[tuple[tuple[str, int], tuple[str, int], Difference]]:
        """Each other model's run, the first model's with as many shots, and what the one is beyond the other."""
        found = []
        for model, shots in self.runs:
            first = (self.runs[0][0], shots)
            difference = None if model == first[0] else self.compare(first, (model, shots))
            if difference:
                found.append(((model, shots), first, difference))
        return found

    def to_json(self) -> dict[str, Any]:
        """Scores by model and shots, and differences; the grades lie beside."""
        return {
            "judge": self.judge,
            "scale": [LOWEST, HIGHEST],
            "notes": self.notes,
            "scores": [
                {
                    "model": model,
                    "shots": shots,
                    "overall": _json(self.score(model, shots)),
                    "turns": [_json(self.score(model, shots, turn=turn + 1)) for turn in range(TURNS)],
                    "categories": {
                        name: _json(self.score(model, shots, category=name)) for name in self.categories
                    },
                }
                for model, shots in self.runs
            ],
            "differences": [
                {"model": run[0], "minus": first[0], "shots": run[1], **difference.to_json()}
                for run, first, difference in self.differences
            ],
        }


def _json(score: Score | None) -> dict[str, Any] | None:
    return score.to_json() if score else None


def judge_models(
    models: Iterable[Answerer],
    questions: Sequence[Question],
    judge: Judge,
    *,
    out: str | Path,
    example: Question | None = None,
) -> JudgedReport:
    """Have the models answer and the judge grade, 0-shot and with an example also 1-shot.

    The scores go to `out`, the grades, one a line, to `NAME.grades.jsonl` beside it as they are given.

    Raises:
        WorkError: the judge does not answer, or gives no grade at all.
        DataError: an example without its answers.
    """
    target = Path(out)
    shots = _examples(example)
    decided_by = digest_of([judge.model, [asdict(each) for each in questions], shots])
    log = _GradeLog(target.with_name(f"{target.stem}.grades.jsonl"))
    grades: list[Grade] = []
    for model in models:
        for number, before in shots.items():
            key = f"{decided_by} {model.digest} {number}"
            grades += _graded(model, number, before, questions, judge, log, key)
    report = JudgedReport(judge.model, grades)
    if all(grade.grade is None for grade in grades):
        raise WorkError(
            f"judge {judge.model} gave no grade from 1 to 10 in {len(grades)} answers",
            remedy=f"Its last words: {grades[-1].verdict[:200]!r}",
        )
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False)
    write_atomically(target, f"{text}\n".encode())
    return report


def judge_folders(
    models: Sequence[str | Path],
    *,
    questions: str | Path,
    judge: str,
    judge_model: str,
    out: str | Path,
    example: str | Path | None = None,
    max_tokens: int = 1024,
    timeout_seconds: float = 120.0,
    device: str | None = None,
) -> JudgedReport:
    """`judge_models` for folders and hub ids, one loaded at a time, and a judge by its server and name.

    Args:
        models: as in `evaluate`.
        questions: rows {"id", "category", "questions": [two], "references": [two] or absent}.
        judge: the address of an OpenAI-compatible server; its key is taken from OPENAI_API_KEY.
        judge_model: the judge's name there.
        out: the results file; the grades lie beside it, and what they hold is not graded again.
        example: a file whose first row, with its references, is the example of 1-shot.
        max_tokens: of an answer.
        timeout_seconds: of one request to the judge.
        device: as in `evaluate`.

    Raises:
        InputError: a model, a file or the judge's address is wrong.
        WorkError: the judge does not answer, or gives no grade at all.
    """
    grader = Judge(judge, judge_model, timeout_seconds=timeout_seconds)
    asked = read_questions(questions)
    shown = read_questions(example)[0] if example is not None else None
    folders = {name: resolve(model) for name, model in name_models(models).items()}
    from dusk.evaluate.answering import LocalAnswerer

    answerers = (
        LocalAnswerer(name, folder, max_tokens=max_tokens, device=device) for name, folder in folders.items()
    )
    return judge_models(answerers, asked, grader, out=out, example=shown)


def _examples(example: Question | None) -> dict[int, list[Message]]:
    """The messages that stand before a question, by the number of shots."""
    if example is None:
        return {0: []}
    messages: list[Message] = []
    for asked, answer in zip(example.turns, example.references, strict=True):
        if answer is None:
            raise DataError("the example needs `references`, its answers")
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {0: [], 1: messages}


def _graded(
    model: Answerer,
    shots: int,
    before: list[Message],
    questions: Sequence[Question],
    judge: Judge,
    log: "_GradeLog",
    key: str,
) -> Iterator[Grade]:
    """The grades of one model with one number of shots, turn by turn, all questions of a turn at once."""
    conversations = [list(before) for _ in questions]
    for turn in range(TURNS):
        for question, conversation in zip(questions, conversations, strict=True):
            conversation.append({"role": "user", "content": question.turns[turn]})
        kept = [log.get(key, question.id, turn + 1) for question in questions]
        waiting = [number for number, grade in enumerate(kept) if grade is None]
        fresh = model.answer([conversations[number] for number in waiting]) if waiting else []
        answers = dict(zip(waiting, fresh, strict=True))
        for number, question in enumerate(questions):
            done = kept[number]
            answer = done.answer if done else answers[number]
            conversations[number].append({"role": "assistant", "content": answer})
            if done is None:
                verdict = judge.grade(conversations[number][len(before) :], question.references[turn])
                place = (model.name, shots, question.id, question.category, turn + 1)
                done = Grade(*place, answer, verdict.grade, verdict.text)
                log.put(key, done)
            yield done


class _GradeLog:
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
