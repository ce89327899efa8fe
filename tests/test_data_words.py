"""Words and runs of words of batches, against regular expressions and lists."""

import re

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dusk.data.words import runs, words_of

TEXT = st.text(
    st.one_of(
        st.sampled_from("ab Z9_ .\n\t'’–ßÄİéаж٣中\0\x1f\ud7ff\U0001f600 ½"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)


def by_regex(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXT, max_size=6))
@example(["x" * 7, "x" * 8, "x" * 9, "y" * 64, "y" * 65, "y" * 1000, ""])
@example(["", "", "a"])
def test_words_are_those_of_a_regular_expression(texts: list[str]) -> None:
    words = words_of(texts)
    assert [[word.decode() for word in words.of(t)] for t in range(len(texts))] == [
        by_regex(text.replace("\0", " ")) for text in texts
    ]
    flat = [word for text in texts for word in by_regex(text)]
    assert len(words.hashes) == len(flat)
    assert len(set(words.hashes.tolist())) == len(set(flat))  # equal where words are, and only there


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "longer-word", "éé"]), max_size=9).map(" ".join), max_size=5
    ),
    st.integers(1, 5),
)
def test_runs_are_equal_where_their_words_are(texts: list[str], n: int) -> None:
    hashes, places = runs(words_of(texts), n)
    grams = [tuple(by_regex(text)[i : i + n]) for text in texts for i in range(len(by_regex(text)) - n + 1)]
    assert len(hashes) == len(grams) == len(places)
    assert len(set(zip(hashes.tolist(), grams, strict=True))) == len(set(grams)) == len(set(hashes.tolist()))


def test_a_hash_is_pinned() -> None:
    """So that arrays made by one machine, or version, are of use to another."""
    assert [f"{h:016x}" for h in words_of(["one internationalization"]).hashes] == [
        "7d42050bf0c9c391",
        "5aec00dd240615ba",
    ]


def test_a_text_has_the_hashes_it_has_alone() -> None:
    texts = ["The quick brown fox jumps.", "Ünïcode is next to it, too", "and again the QUICK brown fox"]
    together, _ = runs(words_of(texts), 3)
    alone = [runs(words_of([text]), 3)[0] for text in texts]
    assert np.array_equal(together, np.concatenate(alone))
    assert len(set(together.tolist())) == len(together) - 2  # "the quick brown", "quick brown fox"
