"""`judge_models`: models answer, a judge grades.

A question has two turns; the second is asked after the model's own first answer. Without an example the model
sees the question alone (0-shot), with one it sees a finished conversation first (1-shot).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from dusk.errors import WorkError
from dusk.evaluate.digest import digest_of
from dusk.evaluate.items import write_atomically
from dusk.evaluate.judged.grades import Grade, GradeLog
from dusk.evaluate.judged.judge import Judge, Message, Verdict
from dusk.evaluate.judged.questions import TURNS, Question, as_example, read_questions
from dusk.evaluate.judged.report import JudgedReport
from dusk.evaluate.naming import model_folders, name_models


class Answerer(Protocol):
    """A model that answers conversations."""

    name: str
    digest: str

    def answer(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """An answer to the last message of each."""
        ...


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
    shots: dict[int, list[Message]] = {0: []} if example is None else {0: [], 1: as_example(example)}
    decided_by = digest_of([judge.model, [asdict(each) for each in questions], shots])
    log = GradeLog(target.with_name(f"{target.stem}.grades.jsonl"))
    grades: list[Grade] = []
    for model in models:
        for number, before in shots.items():
            key = f"{decided_by} {model.digest} {number}"
            grades += _Sitting(model, number, before, questions, judge, log, key).grades()
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
    named = name_models(models)
    from dusk.evaluate.judged.answering import LocalAnswerer  # lazy: torch
    from dusk.evaluate.model import require_chat_template

    folders = model_folders(named, require_chat_template)
    answerers = (
        LocalAnswerer(name, folder, max_tokens=max_tokens, device=device) for name, folder in folders.items()
    )
    return judge_models(answerers, asked, grader, out=out, example=shown)


@dataclass(frozen=True)
class _Sitting:
    """One model with one number of shots: what stands before each question is `before`."""

    model: Answerer
    shots: int
    before: list[Message]
    questions: Sequence[Question]
    judge: Judge
    log: GradeLog
    key: str

    def grades(self) -> Iterator[Grade]:
        """Turn by turn, all questions of a turn at once."""
        conversations = [list(self.before) for _ in self.questions]
        for turn in range(TURNS):
            for question, conversation in zip(self.questions, conversations, strict=True):
                conversation.append({"role": "user", "content": question.turns[turn]})
            yield from self._turn(turn, conversations)

    def _turn(self, turn: int, conversations: list[list[Message]]) -> list[Grade]:
        """The grades of one turn; what was graded before is taken from the log, and each answer is added."""
        kept = [self.log.get(self.key, question.id, turn + 1) for question in self.questions]
        waiting = [number for number, grade in enumerate(kept) if grade is None]
        fresh = self.model.answer([conversations[number] for number in waiting]) if waiting else []
        answered = dict(zip(waiting, fresh, strict=True))
        grades = {number: grade for number, grade in enumerate(kept) if grade is not None}
        for number, conversation in enumerate(conversations):
            answer = answered[number] if number in answered else grades[number].answer
            conversation.append({"role": "assistant", "content": answer})

        def keep(place: int, verdict: Verdict) -> None:
            number = waiting[place]
            question = self.questions[number]
            about = (self.model.name, self.shots, question.id, question.category, turn + 1)
            grades[number] = Grade(*about, answered[number], verdict.grade, verdict.text)
            self.log.put(self.key, grades[number])

        shown = len(self.before)
        asked = [(conversations[n][shown:], self.questions[n].references[turn]) for n in waiting]
        self.judge.grade(asked, keep)
        return [grades[number] for number in range(len(self.questions))]
