"""An index of all runs of words of some benchmarks: from a hash to the items and places that it stands at.

It is a folder of arrays that processes map into memory rather than load, so that many share one copy. A hash is
first looked for in a field of bits (one bit in 32 set, so that most of what is not there costs one look), then
in the sorted hashes; what is found is compared word by word, so that a collision of hashes is never a match.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dusk.data.benchmarks import Item
from dusk.data.words import Hashes, Places, Words, runs, words_of

_BITS_PER_HASH = 32
_AT_ONCE = 1000
_ITEMS = "items.jsonl"


@dataclass(frozen=True)
class Hit:
    """A run of `n` words that stands in a text (from word `place`) and in an item (from word `item_place`).

    `gram` is the number of the run among all of the index.
    """

    text: int
    place: int
    item: int
    item_place: int
    gram: int
    n: int


def write_index(
    folder: Path, items: Sequence[Item], lengths: Mapping[str, int], *, prompts_only: bool
) -> None:
    """Index the items; `lengths` says for each set of how many words its runs are."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [item.prompt if prompts_only else item.text for item in items]
    for n in sorted(set(lengths.values())):
        of_length = [number for number, item in enumerate(items) if lengths[item.set] == n]
        _write_table(folder / str(n), n, texts, of_length)
    with (folder / _ITEMS).open("w", encoding="utf-8") as out:
        for item, text in zip(items, texts, strict=True):
            out.write(json.dumps([item.set, item.row, text], ensure_ascii=False) + "\n")


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
        with (folder / _ITEMS).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        self.sets: list[str] = [row[0] for row in rows]
        self.rows: list[int] = [row[1] for row in rows]
        self.texts: list[str] = [row[2] for row in rows]
        lengths = sorted(int(entry.name) for entry in folder.iterdir() if entry.is_dir())
        self.tables = [_Table(folder / str(n), n) for n in lengths]
        first = 0
        for table in self.tables:
            table.first_gram, first = first, first + len(table.hashes)
        self.grams = first
        self._words: dict[int, list[bytes]] = {}

    def words_of(self, item: int) -> list[bytes]:
        """The words of an item."""
        if item not in self._words:
            self._words[item] = words_of([self.texts[item]]).of(0)
        return self._words[item]

    def hits(self, words: Words) -> Iterator[Hit]:
        """All runs that texts and items share, text by text for each length of run."""
        of_text: tuple[int, list[bytes]] = (-1, [])
        for table in self.tables:
            for hit in table.candidates(words):
                if hit.text != of_text[0]:
                    of_text = (hit.text, words.of(hit.text))
                mine = of_text[1][hit.place : hit.place + table.n]
                if mine == self.words_of(hit.item)[hit.item_place : hit.item_place + table.n]:
                    yield hit


class _Table:
    """The runs of one length."""

    def __init__(self, folder: Path, n: int) -> None:
        self.n, self.first_gram = n, 0
        names = ("hashes", "begins", "owners", "places", "bits")
        arrays = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in names)
        self.hashes, self.begins, self.owners, self.places, self.bits = (np.asarray(one) for one in arrays)
        self.shift = np.uint64(64 - (len(self.bits) * 8 - 1).bit_length())

    def candidates(self, words: Words) -> Iterator[Hit]:
        """Runs whose hashes are equal."""
        hashes, at = runs(words, self.n)
        which, grams = self._found(hashes)
        texts = np.searchsorted(words.first, at[which], "right") - 1
        places = at[which] - words.first[texts]
        for text, place, gram in zip(texts.tolist(), places.tolist(), grams.tolist(), strict=True):
            begin, end = self.begins[gram], self.begins[gram + 1]
            owned = zip(self.owners[begin:end].tolist(), self.places[begin:end].tolist(), strict=True)
            for owner, item_place in owned:
                yield Hit(text, place, owner, item_place, self.first_gram + gram, self.n)

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
