"""What local tasks ask, and how answers are scored, without a model."""

import math
from collections import Counter

import pytest

from dusk.evaluate import tasks_arithmetic, tasks_choice, tasks_documents

PAGE = """Return the roots of a polynomial.

The coefficients are given from the highest power. Their number is the degree plus one. The roots come in no
particular order at all.

Parameters
----------
p : array_like
    Not a sentence of the prose. It is never asked for.
"""


def _row(text, source="numpy", module="numpy.roots", name="numpy.roots.roots"):
    return {"text": text, "source": source, "module": module, "name": name}


def test_sentences_end_where_the_prose_ends():
    assert tasks_choice.sentences(PAGE) == [
        "Return the roots of a polynomial.",
        "The coefficients are given from the highest power.",
        "Their number is the degree plus one.",
        "The roots come in no particular order at all.",
    ]


def test_choices_come_from_the_page_then_from_the_module():
    other = "Evaluate a polynomial.\n\nThe value is computed by the scheme of Horner. It is stable for most."
    rows = [
        _row(PAGE),
        _row(other, name="numpy.roots.polyval"),
        _row("One. Two.", source="scipy", module="scipy.x"),
    ]
    asked = {q["name"]: q for q in tasks_choice.make_items(rows, task="t", items=10, seed=0)["t"]}
    question = asked["numpy.roots.roots"]
    assert question["head"] == "numpy.roots.roots\n\nReturn the roots of a polynomial."
    assert question["choices"][question["right"]] == "The coefficients are given from the highest power."
    assert {"Their number is the degree plus one.", "The roots come in no particular order at all."} < set(
        question["choices"]
    )
    third = set(question["choices"]) - set(tasks_choice.sentences(PAGE))
    assert third <= set(tasks_choice.sentences(other))
    assert len(set(question["choices"])) == 4
    assert set(asked) == {"numpy.roots.roots", "numpy.roots.polyval"}


def test_what_is_asked_depends_on_the_content_alone():
    rows = [
        _row(
            f"Head of page {i}.\n\n" + " ".join(f"This is sentence {j} of page {i}." for j in range(4)),
            name=f"n{i}",
        )
        for i in range(40)
    ]
    asked = tasks_choice.make_items(rows, task="t", items=12, seed=0)
    assert asked == tasks_choice.make_items(rows[::-1], task="t", items=12, seed=0)
    assert asked != tasks_choice.make_items(rows, task="t", items=12, seed=1)
    places = Counter(q["right"] for q in tasks_choice.make_items(rows, task="t", items=40, seed=0)["t"])
    assert set(places) == {0, 1, 2, 3}


def test_packages_take_turns_in_the_held_out_documents():
    rows = [_row(f"{i} " * 150, source="big") for i in range(50)] + [
        _row(f"small {i} " * 60, source="small") for i in range(5)
    ]
    items = tasks_documents.make_items(rows, task="heldout", items=10, seed=0)["heldout"]
    assert Counter(item["source"] for item in items) == {"big": 5, "small": 5}


def test_documents_are_cut_between_words():
    assert tasks_documents.beginning("one two three", 9) == "one two"
    assert tasks_documents.beginning("one two", 9) == "one two"
    assert tasks_documents.beginning("x" * 20, 9) == "x" * 9


def test_choice_probabilities_are_softmaxes():
    doc = {"choices": ["ab", "abcd", "abcdef", "abcdefgh"], "right": 2}
    logs = [-3.0, -5.0, -4.5, -9.0]
    scores = tasks_choice.process_results(doc, [(log, False) for log in logs])
    assert scores["choice_probability"] == pytest.approx(math.exp(-4.5) / sum(map(math.exp, logs)))
    normed = [log * 5 / length for log, length in zip(logs, (2, 4, 6, 8), strict=True)]
    assert scores["choice_probability_norm"] == pytest.approx(
        math.exp(normed[2]) / sum(map(math.exp, normed))
    )
    assert (scores["acc"], scores["acc_norm"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7.\n#### 7", "7"),
        ("#### 1,234.", "1234"),
        ("####  -5\n#### 6", "-5"),
        ("#### $12.50", "12.50"),
        ("#### 8.0", "8"),
        ("the answer is 7", None),
        ("#### seven", None),
        ("", None),
    ],
)
def test_the_number_after_the_mark_is_read(text, number):
    assert tasks_arithmetic.final_number(text) == number


def test_problems_are_sorted_into_levels():
    rows = [{"question": f"q{i}", "answer": f"#### {i}", "level": 1 + i % 5} for i in range(50)]
    made = tasks_arithmetic.make_items(rows, task="arithmetic", items=4, seed=0)
    assert list(made) == [f"arithmetic_level_{level}" for level in range(1, 6)]
    assert all(len(items) == 4 for items in made.values())
    assert all(int(item["question"][1:]) % 5 == 0 for item in made["arithmetic_level_1"])


def test_an_exact_match_needs_the_mark_and_the_number():
    doc = {"answer": "2 + 2 = 4.\n#### 4"}
    right = tasks_arithmetic.process_results(doc, [" 1 + 3 = 4.\n#### 4", (-2.0, False)])
    assert right == {"exact_match": 1.0, "answer_bits_per_byte": (-2.0, 18)}
    assert tasks_arithmetic.process_results(doc, [" 4", (-2.0, False)])["exact_match"] == 0.0
    assert tasks_arithmetic.process_results(doc, [" #### 40", (-2.0, False)])["exact_match"] == 0.0
