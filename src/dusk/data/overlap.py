"""Which texts share a run of words with another set of texts.

Thirteen words, lower-cased and without punctuation, is the convention of GPT-3 (Brown et al. 2020,
appendix C) and of the evaluation harnesses after it. They are compared as 64-bit hashes: among a hundred
million of them a false match is expected once in a thousand runs.
"""

import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Grams = npt.NDArray[np.uint64]

WORDS = 13

_WORD = re.compile(r"[^\W_]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing modulo 2**64


def ngrams(text: str, words: int = WORDS) -> Grams:
    """A 64-bit hash of each run of `words` words of a text, in order: the same on every machine."""
    found = _WORD.findall(text.lower())
    count = len(found) - words + 1
    if count < 1:
        return np.empty(0, np.uint64)
    ids = _spread(np.fromiter((zlib.crc32(word.encode()) for word in found), np.uint64, len(found)))
    total = np.zeros(count, np.uint64)
    for offset in range(words):
        total = (total ^ ids[offset : offset + count]) * _MULTIPLIER
        total ^= total >> np.uint64(32)
    return total


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


def _spread(ids: Grams) -> Grams:
    """Spread 32-bit numbers over all 64 bits (the finaliser of splitmix64)."""
    ids = (ids ^ (ids >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    ids = (ids ^ (ids >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ids ^ (ids >> np.uint64(31))
