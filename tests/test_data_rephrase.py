"""Rephrasing: what may change and what may not, on generated problems and on the forms of GSM8K."""

import os
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dusk.data.arithmetic import distinct_problems
from dusk.data.readers import read_rows
from dusk.data.rephrase import (
    RuleRephraser,
    final_number,
    math_alignment,
    math_instruct,
    rephrased_answer,
    rephrased_question,
)

ROWS = [asdict(problem) for level in range(1, 6) for problem in distinct_problems(level, 100, part="train")]


def test_every_generated_problem_can_be_rephrased() -> None:
    rejected: Counter[str] = Counter()
    rows = list(math_alignment(ROWS, RuleRephraser(), rejected))
    assert len(rows) == len(ROWS)
    assert not rejected
    assert len({row["prompt"] for row in rows}) == len(rows)
    for row, original in zip(rows, ROWS, strict=True):
        assert row["rejected"] == original["answer"]
        assert row["prompt"] != original["question"]
        numbers = re.findall(r"\d+", original["question"])
        assert sorted(re.findall(r"\d+", row["prompt"])) == sorted(numbers)
        last = original["answer"].rpartition("#### ")[2]
        assert row["chosen"].endswith(f"The answer is {last}.\n#### {last}")
        assert len(row["chosen"]) > len(row["rejected"])
        assert row["level"] == original["level"]


def test_instruct_and_alignment_are_the_same_question_and_answer() -> None:
    tuned = list(math_instruct(ROWS[:9], RuleRephraser(seed=2)))
    aligned = list(math_alignment(ROWS[:9], RuleRephraser(seed=2)))
    assert [(row["prompt"], row["completion"]) for row in tuned] == [
        (row["prompt"], row["chosen"]) for row in aligned
    ]
    assert tuned != list(math_instruct(ROWS[:9], RuleRephraser(seed=3)))


STORY = "Tom has 3 pens. Ann gives Tom 4 pens. "


@pytest.mark.parametrize(
    ("question", "ways"),
    [
        (
            f"{STORY}How many pens does Tom have now?",
            {
                "Tom owns 3 pens. Ann gives Tom 4 pens. What is the number of pens that Tom has now?",
                f"How many pens does Tom have now? Here is what we know: {STORY.strip()}",
                f"What is the number of pens that Tom has now? Here is what we know: {STORY.strip()}",
                "How many pens does Tom have now? Here is what we know: Tom owns 3 pens. Ann gives Tom 4 pens.",
                "What is the number of pens that Tom has now? Here is what we know: "
                "Tom owns 3 pens. Ann gives Tom 4 pens.",
            },
        ),
        ("What is 3 + 4?", {"What is 3 + 4?"}),
        (
            "It has 8 legs. Why does it run?",
            {"Why does it run? Here is what we know: It has 8 legs."},
        ),
    ],
)
def test_questions_in_other_words(question: str, ways: set[str]) -> None:
    assert {rephrased_question(question, choice) for choice in range(12)} == ways


@pytest.mark.parametrize(
    ("answer", "worded"),
    [
        (
            "Tom has 3 + 4 = 7 pens.\n#### 7",
            "Add 3 and 4: 3 + 4 = 7. Tom has 7 pens. The answer is 7.\n#### 7",
        ),
        (
            "He writes each friend 3*2=<<3*2=6>>6 pages a week\nThat is 6-1=<<6-1=5>>5 more.\n#### 5",
            "Multiply 3 by 2: 3 * 2 = 6. He writes each friend 6 pages a week. "
            "Take 1 from 6: 6 - 1 = 5. That is 5 more. The answer is 5.\n#### 5",
        ),
        ("She earns 12/60 = $0.2. The answer is 0.2", "Divide 12 by 60: 12 / 60 = $0.2. She earns $0.2. "
         "The answer is 0.2."),
        # not one whole equation: left as it is
        ("He has 80/100 * 10 = 8.\n#### 8", "He has 80/100 * 10 = 8. The answer is 8.\n#### 8"),
        ("He has 1 + 2 + 3 = 6.\n#### 6", "He has 1 + 2 + 3 = 6. The answer is 6.\n#### 6"),
        ("That is 6 because 2 x 3 = 6.\n#### 6", "That is 6 because 2 x 3 = 6. The answer is 6.\n#### 6"),
        ("1 + 1 = 2\n#### 2", "Add 1 and 1: 1 + 1 = 2. The answer is 2.\n#### 2"),
    ],
)  # fmt: skip
def test_answers_worded_more_fully(answer: str, worded: str) -> None:
    assert rephrased_answer(answer) == worded


@pytest.mark.parametrize(
    ("answer", "number"),
    [("#### 1,234", "1234"), ("so 3 and 4.0", "4"), ("#### $5\n", "5"), ("#### -7", "-7"), ("none", None)],
)
def test_final_numbers(answer: str, number: str | None) -> None:
    assert final_number(answer) == number


class Fixed:
    """Writes what it is told to, as a language model might."""

    def __init__(self, question: str, answer: str) -> None:
        self.written = question, answer

    def rephrase(self, question: str, answer: str) -> tuple[str, str]:
        return self.written


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("How many are 3 and 4?", "It is 8.\n#### 8", "the final number changed"),
        ("How many are 3 and 4?", "I do not know.", "the final number changed"),
        ("How many are 3 and 5?", "It is 7.\n#### 7", "the numbers of the question changed"),
        ("What is  3 PLUS 4?", "It is 7.\n#### 7", "the question is a copy"),
        ("How many are 3 and 4?", "7\n#### 7", "the answer is a copy"),
        ("", "It is 7.\n#### 7", "nothing was written"),
    ],
)
def test_what_a_rephraser_gets_wrong_is_rejected_and_counted(question: str, answer: str, reason: str) -> None:
    rejected: Counter[str] = Counter()
    row = {"question": "What is 3 plus 4?", "answer": "7\n#### 7"}
    assert list(math_alignment([row], Fixed(question, answer), rejected)) == []
    assert rejected == {reason: 1}


def test_on_gsm8k() -> None:
    data = os.environ.get("DUSK_TEST_DATA")
    if not data:
        pytest.skip("DUSK_TEST_DATA is not set")
    seeds: list[dict[str, Any]] = [row.fields for row in read_rows(Path(data) / "gsm8k" / "train.jsonl.gz")]
    rejected: Counter[str] = Counter()
    rows = list(math_alignment(seeds, RuleRephraser(), rejected))
    assert set(rejected) <= {"the question is a copy"}
    assert len(rows) + rejected.total() == len(seeds)
    assert len(rows) > 0.9 * len(seeds)
