"""Word problems: worked answers against Python's own arithmetic, parts that do not meet."""

import json
import re
from pathlib import Path

import pytest

from dusk.data import arithmetic
from dusk.data.arithmetic import Problem, distinct_problems, part_of, problems, write_arithmetic
from dusk.data.readers import read_rows
from dusk.data.stories import LEVELS, NAMES, STORIES, THINGS
from dusk.errors import SettingError

EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")


def sample(level: int, part: str = "train") -> list[Problem]:
    return distinct_problems(level, 300, part=part)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", LEVELS)
def test_every_equation_is_true_and_the_last_result_is_the_answer(level: int) -> None:
    for problem in sample(level):
        equations = EQUATION.findall(problem.answer)
        assert len(equations) == {1: 1, 2: 1, 3: 1, 4: 2, 5: 3}[level]
        for left, sign, right, result in equations:
            value = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](int(left), int(right))
            assert value == int(result) >= 2
        assert problem.answer.endswith(f"\n#### {equations[-1][3]}")
        assert problem.level == level


@pytest.mark.parametrize("level", LEVELS)
def test_each_operand_is_told_or_was_worked_out(level: int) -> None:
    for problem in sample(level):
        known = set(re.findall(r"\d+", problem.question))
        for left, _, right, result in EQUATION.findall(problem.answer):
            assert {left, right} <= known
            known.add(result)


@pytest.mark.parametrize("level", LEVELS)
def test_no_evaluation_problem_is_a_training_problem_with_other_words(level: int) -> None:
    def bare(problem: Problem) -> str:
        words = "|".join([*NAMES, *THINGS])
        return re.sub(rf"\b({words})\b", "_", problem.question)

    train = {bare(problem) for problem in sample(level)}
    evaluation = {bare(problem) for problem in sample(level, "evaluation")}
    assert not train & evaluation


def test_about_a_fifth_is_for_evaluation() -> None:
    story = STORIES[0]
    parts = [part_of(story, {"a": a, "b": b}) for a in range(100) for b in range(100)]
    assert 0.18 < parts.count("evaluation") / len(parts) < 0.22


def test_seeds_give_the_same_or_other_problems() -> None:
    assert distinct_problems(2, 50, part="train", seed=3) == distinct_problems(2, 50, part="train", seed=3)
    assert distinct_problems(2, 50, part="train", seed=3) != distinct_problems(2, 50, part="train", seed=4)
    assert len({problem.question for problem in sample(1)}) == 300


def test_problems_have_no_end_but_a_level_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "NAMES", ("Ann", "Tom"))
    monkeypatch.setattr(arithmetic, "THINGS", ("pens",))
    stream = problems(1, part="evaluation")
    assert all(next(stream).level == 1 for _ in range(2000))
    with pytest.raises(SettingError, match="level 1 has little more than"):
        distinct_problems(1, 10_000, part="evaluation")


def test_written_files_have_what_their_readers_need(tmp_path: Path) -> None:
    counts = write_arithmetic(tmp_path / "problems", seed=1, problems=52, evaluation_problems=21)
    assert counts == {"train": 52, "text": 52, "arithmetic": 21}
    rows = {name: [r.fields for r in read_rows(tmp_path / "problems" / f"{name}.jsonl")] for name in counts}
    assert {row["level"] for row in rows["train"]} == set(LEVELS)
    assert list(rows["arithmetic"][0]) == ["question", "answer", "level"]
    first = rows["train"][0]
    assert rows["text"][0]["text"] == f"Question: {first['question']}\nAnswer: {first['answer']}"
    assert not {r["question"] for r in rows["train"]} & {r["question"] for r in rows["arithmetic"]}


def test_a_seed_means_the_same_everywhere() -> None:
    first = json.dumps([problem.text for problem in distinct_problems(5, 3, part="train", seed=0)])
    assert first.startswith('["Question: Sam has 5 boxes. Each box holds 5 stamps.')
