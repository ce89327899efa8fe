"""An index of all runs of words of some benchmarks: from a hash to the items and places that it stands at.
Prompts that are shorter than a run are kept as a whole.

It is a folder of arrays that processes map into memory rather than load, so that many share one copy. A hash is
first looked for in a field of bits (one bit in 32 set, so that most of what is not there costs one look), then
in the sorted hashes; what is found is compared word by word, so that a collision of hashes is never a match.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dusk.data.benchmarks import Item
from dusk.data.words import Hashes, Places, Words, runs, words_of

_BITS_PER_HASH = 32
_AT_ONCE = 1000
_LEAST_WORDS = 3  # of a prompt that is compared as a whole
_NAMES = "names.json"


class Hit(NamedTuple):
    """A passage of `words` words, one run or more, in a text (from word `place`) and in an item (`item_place`).

    `grams` are the numbers of its runs among all of the index.
    """

    text: int
    place: int
    item: int
    item_place: int
    grams: tuple[int, ...]
    words: int


def short_prompts(items: Sequence[Item], lengths: Mapping[str, int]) -> dict[int, str]:
    """The words of the prompts that are shorter than a run, by the number of the item."""
    words = words_of([item.prompt for item in items])
    sizes = np.diff(words.first).tolist()
    return {
        number: joined(words, number)
        for number, (item, size) in enumerate(zip(items, sizes, strict=True))
        if 0 < size < lengths[item.set]
    }


def whole_prompts(short: Mapping[int, str]) -> dict[int, str]:
    """Of the short prompts those that are compared as a whole: a word or two ("Keynes") tell no item."""
    return {number: prompt for number, prompt in short.items() if prompt.count(" ") + 1 >= _LEAST_WORDS}


def joined(words: Words, text: int) -> str:
    """The words of one text, with blanks between them."""
    return b" ".join(words.of(text)).decode()


def word_sums(words: Words) -> Hashes:
    """The sum of the words' hashes of each text, modulo 2**64: the same for texts of the same words."""
    sums = np.zeros(len(words.hashes) + 1, np.uint64)
    np.cumsum(words.hashes, out=sums[1:])
    found: Hashes = np.diff(sums[words.first])
    return found


def write_index(
    folder: Path, items: Sequence[Item], lengths: Mapping[str, int], *, prompts_only: bool
) -> None:
    """Index the items; `lengths` says for each set of how many words its runs are."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [item.prompt if prompts_only else item.text for item in items]
    for n in sorted(set(lengths.values())):
        of_length = [number for number, item in enumerate(items) if lengths[item.set] == n]
        _write_table(folder / str(n), n, texts, of_length)
    names = sorted(lengths)
    numbers = [[names.index(item.set), item.row] for item in items]
    stored = [text.encode() for text in texts]
    np.save(folder / "items.npy", np.array(numbers, np.int32).reshape(-1, 2))
    np.save(folder / "texts.npy", np.frombuffer(b"".join(stored), np.uint8))
    np.save(folder / "ends.npy", np.cumsum([0, *map(len, stored)]))
    told = {"sets": names, "whole": whole_prompts(short_prompts(items, lengths))}
    (folder / _NAMES).write_text(json.dumps(told), encoding="utf-8")


def _write_table(folder: Path, n: int, texts: Sequence[str], of_length: Sequence[int]) -> None:
    hashes: list[Hashes] = []
    owners: list[npt.NDArray[Any]] = []
    places: list[npt.NDArray[Any]] = []
    for begin in range(0, len(of_length), _AT_ONCE):
        some = of_length[begin : begin + _AT_ONCE]
        words = words_of([texts[number] for number in some])
        found, at = runs(words, n)
        owner = np.searchsorted(words.first, at, "right") - 1
        hashes.append(found)
        owners.append(np.array(some, np.int32)[owner])
        places.append((at - words.first[owner]).astype(np.int32))
    every = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    order = np.argsort(every, kind="stable")
    distinct, begins = np.unique(every[order], return_index=True)
    shift = 64 - max(12, int(len(distinct) * _BITS_PER_HASH).bit_length())
    bits = np.zeros(1 << (64 - shift), np.bool_)
    bits[distinct >> np.uint64(shift)] = True
    folder.mkdir()
    np.save(folder / "hashes.npy", distinct)
    np.save(folder / "begins.npy", np.append(begins, len(every)).astype(np.int64))
    np.save(folder / "owners.npy", np.concatenate(owners)[order] if owners else np.empty(0, np.int32))
    np.save(folder / "places.npy", np.concatenate(places)[order] if places else np.empty(0, np.int32))
    np.save(folder / "bits.npy", np.packbits(bits, bitorder="little"))


class GramIndex:
    """An index in a folder, for looking up."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / _NAMES).read_text(encoding="utf-8"))
        self._sets: list[str] = told["sets"]
        self._whole: dict[str, list[int]] = {}
        for item, prompt in told["whole"].items():
            self._whole.setdefault(prompt, []).append(int(item))
        self._whole_sums = word_sums(words_of(list(self._whole)))
        names = ("items", "texts", "ends")
        self._items, self._texts, self._ends = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in names)
        lengths = sorted(int(entry.name) for entry in folder.iterdir() if entry.is_dir())
        self.tables = [_Table(folder / str(n), n) for n in lengths]
        first = 0
        for table in self.tables:
            table.first_gram, first = first, first + len(table.hashes)
        self.grams = first
        self._words: dict[int, list[bytes]] = {}

    def place(self, item: int) -> tuple[str, int]:
        """The set of an item, and its row there."""
        name, row = self._items[item].tolist()
        return self._sets[name], row

    def words_of(self, item: int) -> list[bytes]:
        """The words of an item."""
        if item not in self._words:
            text = self._texts[self._ends[item] : self._ends[item + 1]].tobytes().decode()
            self._words[item] = words_of([text]).of(0)
        return self._words[item]

    def same_prompts(self, words: Words) -> Iterator[tuple[int, str, list[int]]]:
        """Of each text that is the prompt of items, and shorter than a run: its number, its words, the items."""
        for text in np.flatnonzero(np.isin(word_sums(words), self._whole_sums)).tolist():
            prompt = joined(words, text)
            if prompt in self._whole:
                yield text, prompt, self._whole[prompt]

    def hits(self, words: Words) -> Iterator[Hit]:
        """All passages that texts and items share, text by text for each length of run."""
        of_text: tuple[int, list[bytes]] = (-1, [])
        for table in self.tables:
            for hit in table.candidates(words):
                if hit.text != of_text[0]:
                    of_text = (hit.text, words.of(hit.text))
                if self._is_true(hit, of_text[1]):
                    yield hit
                elif len(hit.grams) > 1:  # hashes collided
                    yield from (run for run in _runs_of(hit, table.n) if self._is_true(run, of_text[1]))

    def _is_true(self, hit: Hit, words: list[bytes]) -> bool:
        theirs = self.words_of(hit.item)[hit.item_place : hit.item_place + hit.words]
        return words[hit.place : hit.place + hit.words] == theirs


def _runs_of(hit: Hit, n: int) -> Iterator[Hit]:
    for k, gram in enumerate(hit.grams):
        yield hit._replace(place=hit.place + k, item_place=hit.item_place + k, grams=(gram,), words=n)


class _Table:
    """The runs of one length."""

    def __init__(self, folder: Path, n: int) -> None:
        self.n, self.first_gram = n, 0
        names = ("hashes", "begins", "owners", "places", "bits")
        arrays = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in names)
        self.hashes, self.begins, self.owners, self.places, self.bits = (np.asarray(one) for one in arrays)
        self.shift = np.uint64(64 - (len(self.bits) * 8 - 1).bit_length())

    def candidates(self, words: Words) -> Iterator[Hit]:
        """Passages whose runs have equal hashes: runs that follow each other in a text and in an item."""
        hashes, at = runs(words, self.n)
        which, grams = self._found(hashes)
        if not len(which):
            return
        counts = self.begins[grams + 1] - self.begins[grams]
        nth = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        owned = np.repeat(self.begins[grams], counts) + nth
        texts = np.searchsorted(words.first, at[which], "right") - 1
        places = np.repeat(at[which] - words.first[texts], counts)
        texts, grams = np.repeat(texts, counts), np.repeat(grams, counts) + self.first_gram
        items, item_places = self.owners[owned], self.places[owned]
        order = np.lexsort((places, places - item_places, items, texts))
        columns = np.stack([texts, items, places - item_places, places], axis=1)[order]
        breaks = np.any(columns[1:] - columns[:-1] != (0, 0, 0, 1), axis=1)
        begins = np.concatenate([[0], np.flatnonzero(breaks) + 1])
        ends = np.append(begins[1:], len(columns))
        grams = grams[order]
        for begin, end, (text, item, shift, place) in zip(
            begins.tolist(), ends.tolist(), columns[begins].tolist(), strict=True
        ):
            own = tuple(grams[begin:end].tolist())
            yield Hit(text, place, item, place - shift, own, self.n + end - begin - 1)

    def _found(self, hashes: Hashes) -> tuple[Places, Places]:
        """Which of the hashes are here, and where."""
        top = hashes >> self.shift
        bit = self.bits[top >> np.uint64(3)] >> (top & np.uint64(7)).astype(np.uint8) & 1
        likely = np.flatnonzero(bit)
        if not len(likely):
            return likely, likely
        places = np.searchsorted(self.hashes, hashes[likely])
        places[places == len(self.hashes)] = 0
        true = self.hashes[places] == hashes[likely]
        return likely[true], places[true]
