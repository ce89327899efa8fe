"""Which texts share a run of words with another set of texts.

Thirteen words, lower-cased and without punctuation, is the convention of GPT-3 (Brown et al. 2020,
appendix C) and of the evaluation harnesses after it. Runs of words (n-grams) are compared as 64-bit hashes of
all texts at once: among a hundred million of them a false match is expected once in a thousand runs.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"[^\W_]+")
_WORDS_AT_ONCE = 4_000_000  # bounds the memory: about 100 bytes a word
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing modulo 2**64

Hashes = npt.NDArray[np.uint64]


def overlapping(texts: Iterable[str], reference: Iterable[str], *, words: int = 13) -> list[bool]:
    """For each text whether `words` words in a row also stand in one of the reference texts."""
    numbers: dict[str, int] = {}
    known = _known_grams(reference, words=words, numbers=numbers)
    found: list[bool] = []
    for hashes, documents, count in _hashed(texts, words, numbers):
        order = np.argsort(hashes)  # neighbours are looked up together, which is five times faster
        hits = np.zeros(count, np.bool_)
        hits[documents[order[_contained(hashes[order], known)]]] = True
        found += hits.tolist()
    return found


def _known_grams(texts: Iterable[str], *, words: int, numbers: dict[str, int]) -> Hashes:
    """The distinct hashes of all runs of `words` words, sorted.

    `numbers` gives each word its number and grows; hashes made with the same one can be compared.
    """
    known = np.empty(0, np.uint64)
    for hashes, _, _ in _hashed(texts, words, numbers):
        known = _distinct(np.concatenate([known, hashes]))
    return known


def _distinct(hashes: Hashes) -> Hashes:
    """Sorted, without repeats: 20 times faster than numpy's `unique`, which goes by a hash table."""
    hashes.sort()
    first = np.ones(len(hashes), np.bool_)
    first[1:] = hashes[1:] != hashes[:-1]
    return hashes[first]


def _contained(hashes: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Which hashes are in the sorted `known`."""
    if not len(known):
        return np.zeros(len(hashes), np.bool_)
    places = np.searchsorted(known, hashes)
    return np.equal(known[np.minimum(places, len(known) - 1)], hashes)


def _hashed(
    texts: Iterable[str], words: int, numbers: dict[str, int]
) -> Iterator[tuple[Hashes, npt.NDArray[np.int64], int]]:
    """For some texts at a time: the hash of every run of words, the text it is from, and how many texts."""
    for ids, lengths in _numbered(texts, numbers):
        documents = np.repeat(np.arange(len(lengths)), lengths)
        whole = documents[: max(0, len(ids) - words + 1)] == documents[words - 1 :]
        yield _runs(ids, words)[whole], documents[words - 1 :][whole], len(lengths)


def _numbered(texts: Iterable[str], numbers: dict[str, int]) -> Iterator[tuple[Hashes, Sequence[int]]]:
    """The words of some texts at a time as numbers, and how many words each text has."""
    ids: list[int] = []
    lengths: list[int] = []
    for text in texts:
        found = _WORD.findall(text.lower())
        ids += [numbers.setdefault(word, len(numbers)) for word in found]
        lengths.append(len(found))
        if len(ids) >= _WORDS_AT_ONCE:
            yield np.array(ids, np.uint64), lengths
            ids, lengths = [], []
    if lengths:
        yield np.array(ids, np.uint64), lengths


def _runs(ids: Hashes, words: int) -> Hashes:
    """Hashes of all runs of `words` numbers, (T - words + 1,)."""
    count = max(0, len(ids) - words + 1)
    spread = _spread(ids)
    total = np.zeros(count, np.uint64)
    for offset in range(words):
        total ^= spread[offset : offset + count]
        total *= _MULTIPLIER
        total ^= total >> np.uint64(32)
    return total


def _spread(ids: Hashes) -> Hashes:
    """Spread small numbers over all 64 bits (splitmix64, Steele et al. 2014)."""
    ids = (ids + np.uint64(1)) * _MULTIPLIER
    ids = (ids ^ (ids >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    ids = (ids ^ (ids >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ids ^ (ids >> np.uint64(31))
