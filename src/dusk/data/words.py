"""The words of many texts at once, as 64-bit hashes; and the hashes of all runs of `n` words.

Words are runs of letters and digits, lower-cased: the convention of n-gram overlap since GPT-3 (Brown et al.
2020, appendix C). Everything is done on whole batches, a few nanoseconds a byte: a word of up to eight bytes is
loaded as one number, and a run of words is the difference of two prefix sums of a polynomial modulo 2**64.
Hashes are the same on every machine, and independent of the batch that a text stands in.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

_SPACE = 32
_ASCII = bytes(
    code if code >= 128 else ord(chr(code).lower()) if chr(code).isalnum() else _SPACE for code in range(256)
)
_WORD_BYTES = 8
_MASKS = np.array([(1 << (8 * size)) - 1 for size in range(_WORD_BYTES + 1)], np.uint64)
_LONGEST = 64  # bytes of a word that is hashed by numpy; longer ones (base64, mostly) are few
_ODD = 0x9E3779B97F4A7C15
_BASE = 0xD6E8FEB86659FD93  # odd, so that it has an inverse modulo 2**64
_USUAL = 0x3000  # code points below are looked up in a table, those above as they come
_MARK = "\0"  # between texts while they are cleaned together


@dataclass(frozen=True)
class Words:
    """The words of a batch of texts: bytes `starts[i]` to `ends[i]` of `buffer`, and a hash each.

    `first` has an entry more than there are texts: text t has the words `first[t]` to `first[t + 1]`.
    """

    buffer: bytes
    starts: Places
    ends: Places
    hashes: Hashes
    first: Places

    def of(self, text: int) -> list[bytes]:
        """The words of one text."""
        begin, end = self.first[text], self.first[text + 1]
        return self.buffer[self.starts[begin] : self.ends[end - 1]].split() if end > begin else []


def words_of(texts: Sequence[str]) -> Words:
    """The words of some texts; as many at once as fit the processor's cache go fastest (about 256 kB)."""
    cleaned = _cleaned(texts)
    buffer = b" " + b" ".join(cleaned).translate(_ASCII) + b" " * _WORD_BYTES
    is_word = np.frombuffer(buffer, np.uint8) != _SPACE
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
    starts, ends = edges[0::2], edges[1::2]
    sizes = np.fromiter(map(len, cleaned), np.int64, len(cleaned))
    offsets = np.concatenate([[0], np.cumsum(sizes + 1)]) + 1
    first = np.searchsorted(starts, offsets)
    return Words(buffer, starts, ends, _hashes(buffer, starts, ends), first)


def runs(words: Words, n: int) -> tuple[Hashes, Places]:
    """A hash of each run of `n` words that stays in one text, and the place of its first word."""
    count = len(words.hashes)
    if count < n:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    powers, inverses = _powers(1 << (count - 1).bit_length())
    sums = np.empty(count + 1, np.uint64)
    sums[0] = 0
    np.cumsum(words.hashes * powers[:count], out=sums[1:])
    hashes = _mixed((sums[n:] - sums[:-n]) * inverses[: count - n + 1])
    text_ends = np.repeat(words.first[1:], np.diff(words.first))
    places = np.flatnonzero(text_ends[: count - n + 1] - np.arange(count - n + 1) >= n)
    return hashes[places], places


def _hashes(buffer: bytes, starts: Places, ends: Places) -> Hashes:
    """A hash of each word: its bytes eight at a time."""
    sizes = ends - starts
    eights = np.ndarray((len(buffer) - _WORD_BYTES + 1,), "<u8", buffer, strides=(1,))
    hashes = _mixed(eights[starts] & _MASKS[np.minimum(sizes, _WORD_BYTES)])
    for begin in range(_WORD_BYTES, _LONGEST, _WORD_BYTES):
        longer = np.flatnonzero(sizes > begin)
        if not len(longer):
            break
        more = eights[starts[longer] + begin] & _MASKS[np.minimum(sizes[longer] - begin, _WORD_BYTES)]
        hashes[longer] = _mixed(hashes[longer] * np.uint64(_ODD) + more)
    for place in np.flatnonzero(sizes > _LONGEST):
        word = buffer[starts[place] : ends[place]]
        hashes[place] = int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")
    return hashes


def _mixed(numbers: Hashes) -> Hashes:
    """Numbers spread over all 64 bits (after the finaliser of splitmix64)."""
    spread = (numbers ^ (numbers >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    spread = (spread ^ (spread >> np.uint64(32))) * np.uint64(_ODD)
    mixed: Hashes = spread ^ (spread >> np.uint64(29))
    return mixed


@cache
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """The first powers of the polynomial's base, and of its inverse, modulo 2**64."""
    found = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        powers = np.full(count, base, np.uint64)
        powers[0] = 1
        found.append(np.cumprod(powers, dtype=np.uint64))
    return found[0], found[1]


def _cleaned(texts: Sequence[str]) -> list[bytes]:
    """The texts as UTF-8; of those that are not ASCII, lower-cased and with blanks between the words."""
    cleaned = [text.encode() if text.isascii() else b"" for text in texts]
    wide = [place for place, text in enumerate(texts) if not text.isascii()]
    if wide:
        joined = _MARK.join(texts[place].lower().replace(_MARK, " ") for place in wide)
        codes = np.frombuffer(joined.encode("utf-32-le", "replace"), np.uint32)
        blanked = np.where(_is_word(codes), codes, np.uint32(_SPACE))
        for place, text in zip(wide, blanked.tobytes().decode("utf-32-le").split(_MARK), strict=True):
            cleaned[place] = text.encode()
    return cleaned


def _is_word(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Of each code point whether it is a letter or a digit (or the mark)."""
    known: npt.NDArray[np.bool_] = _letters()[np.minimum(codes, _USUAL)]
    rare = codes >= _USUAL
    if rare.any():
        distinct, places = np.unique(codes[rare], return_inverse=True)
        known[rare] = np.array([chr(code).isalnum() for code in distinct.tolist()])[places]
    return known


@cache
def _letters() -> npt.NDArray[np.bool_]:
    """The usual code points that are letters or digits (or the mark), and one entry for the others."""
    table = np.fromiter((chr(code).isalnum() for code in range(_USUAL + 1)), np.bool_, _USUAL + 1)
    table[0] = True
    return table
