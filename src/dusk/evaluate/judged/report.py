"""All grades of all models, and what they come to."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dusk.evaluate.bootstrap import Difference, PairedItems, paired_bootstrap, standard_error
from dusk.evaluate.items import Score
from dusk.evaluate.judged.grades import Grade
from dusk.evaluate.judged.judge import HIGHEST, LOWEST
from dusk.evaluate.judged.questions import TURNS


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

    def compare(
        self,
        first: tuple[str, int],
        second: tuple[str, int],
        *,
        category: str | None = None,
        turn: int | None = None,
    ) -> Difference | None:
        """Second minus first over the chosen questions that both have grades for, by the paired bootstrap."""
        left, right = (self._by_question(run, category, turn) for run in (first, second))
        shared = [name for name in left if name in right]
        if not shared:
            return None
        before, after = (np.array([side[name] for name in shared]) for side in (left, right))
        return paired_bootstrap([PairedItems(before, after, np.ones(len(shared)))])

    def _by_question(self, run: tuple[str, int], category: str | None, turn: int | None) -> dict[str, float]:
        """The mean grade of each question's turns, where both have one; or the grade of the chosen turn."""
        found: dict[str, list[float]] = {}
        for grade in self.grades:
            chosen = category in (None, grade.category) and turn in (None, grade.turn)
            if chosen and (grade.model, grade.shots) == run and grade.grade is not None:
                found.setdefault(grade.question, []).append(grade.grade)
        needed = TURNS if turn is None else 1
        return {name: sum(grades) / needed for name, grades in found.items() if len(grades) == needed}

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
                {
                    "model": run[0],
                    "minus": first[0],
                    "shots": run[1],
                    **difference.to_json(),
                    "turns": [_json(self.compare(first, run, turn=turn + 1)) for turn in range(TURNS)],
                    "categories": {
                        name: _json(self.compare(first, run, category=name)) for name in self.categories
                    },
                }
                for run, first, difference in self.differences
            ],
        }


def _json(found: Score | Difference | None) -> dict[str, Any] | None:
    return dict(found.to_json()) if found else None
