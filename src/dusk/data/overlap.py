"""Which texts share a run of words with another set of texts.

Thirteen words, lower-cased and without punctuation, is the convention of GPT-3 (Brown et al. 2020,
appendix C) and of the evaluation harnesses after it. They are compared as 64-bit hashes: among a hundred
million of them a false match is expected once in a thousand runs. `dusk.data.decontaminate` compares the words
themselves, too, and says what matched what.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from dusk.data.words import Hashes, runs, words_of

Grams = Hashes

WORDS = 13


def ngrams(text: str, words: int = WORDS) -> Grams:
    """A 64-bit hash of each run of `words` words of a text, in order: the same on every machine."""
    return runs(words_of([text]), words)[0]


def shared(grams: Sequence[Grams], reference: Sequence[Grams]) -> list[bool]:
    """For each text, given as its n-grams, whether one of them also stands in the reference."""
    if not reference or not grams:
        return [False] * len(grams)
    known = np.sort(np.concatenate(reference))
    asked = np.concatenate(grams)
    texts = np.repeat(np.arange(len(grams)), [len(own) for own in grams])
    order = np.argsort(asked)  # neighbours are looked up together, which is five times faster
    places = np.searchsorted(known, asked[order])
    found = places < len(known)
    found[found] = known[places[found]] == asked[order][found]
    hits = np.zeros(len(grams), np.bool_)
    hits[texts[order[found]]] = True
    return hits.tolist()


def overlapping(texts: Iterable[str], reference: Iterable[str], *, words: int = WORDS) -> list[bool]:
    """For each text whether `words` words in a row also stand in one of the reference texts."""
    return shared([ngrams(text, words) for text in texts], [ngrams(text, words) for text in reference])
