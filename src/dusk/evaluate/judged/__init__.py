"""Judged evaluation: two turns, without and with an example, graded by a judge, as LogicKor does it.

Source: LogicKor (instructkr, 2024), Korean questions of two turns in six categories, which Solar Pro reports.
Nothing here imports torch until a model is asked.
"""

from dusk.evaluate.judged.grades import Grade, GradeLog
from dusk.evaluate.judged.judge import Judge
from dusk.evaluate.judged.questions import Question, read_questions
from dusk.evaluate.judged.report import JudgedReport
from dusk.evaluate.judged.run import Answerer, judge_folders, judge_models

__all__ = [
    "Answerer",
    "Grade",
    "GradeLog",
    "Judge",
    "JudgedReport",
    "Question",
    "judge_folders",
    "judge_models",
    "read_questions",
]
