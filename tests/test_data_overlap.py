"""Overlap of texts, against sets of tuples of words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dusk.data.overlap import overlapping

WORDS = st.sampled_from(["a", "b", "A", "c3", "ß", "é"])
TEXTS = st.lists(st.lists(WORDS, max_size=12).map(" ".join), max_size=8)


def by_sets(texts: list[str], reference: list[str], words: int) -> list[bool]:
    def grams(text: str) -> set[tuple[str, ...]]:
        found = re.sub(r"[^\w]|_", " ", text.lower()).split()
        return {tuple(found[i : i + words]) for i in range(len(found) - words + 1)}

    known = set().union(*map(grams, reference))
    return [bool(grams(text) & known) for text in texts]


@given(TEXTS, TEXTS, st.integers(1, 5))
def test_equal_to_sets_of_words(texts: list[str], reference: list[str], words: int) -> None:
    assert overlapping(texts, reference, words=words) == by_sets(texts, reference, words)


SENTENCE = "It was the best of times, it was the worst of times; it was the age of wisdom."


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        (SENTENCE, True),
        (f"Before. {SENTENCE.upper()} After!", True),
        ("best of times it -- was -- the worst_of times (it was): 'the age of'", True),  # 14 words
        ("times it was the worst of times it was the age of", False),  # 12 words
        (SENTENCE.replace("worst", "best"), False),
        ("", False),
    ],
)
def test_thirteen_words_in_a_row(text: str, hit: bool) -> None:
    assert overlapping([text], ["Something else.", SENTENCE]) == [hit]


def test_a_run_does_not_cross_from_one_text_to_the_next() -> None:
    half, rest = SENTENCE[:40], SENTENCE[40:]
    assert overlapping([SENTENCE], [half, rest]) == [False]
    assert overlapping([half, rest], [SENTENCE]) == [False, False]


def test_nothing_to_compare() -> None:
    assert overlapping([], [SENTENCE]) == []
    assert overlapping([SENTENCE], []) == [False]
