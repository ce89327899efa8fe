"""What matched what: the ruling on the rows that overlap with benchmarks, and the report of it."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dusk.data.passes import Codes, Part

_SHOWN = 400  # characters of a text
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Match:
    """An item that a row overlaps with.

    `row` is the item's place in its `set`, from 1, and `item` its number among all; `share` is how much of its
    words lie in shared runs, `words` the first of the shared passages, and `grams` are the
    numbers of all runs; a negative one stands for a prompt that is compared as a whole.
    """

    set: str
    row: int
    item: int
    share: float
    words: str
    grams: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))


class Ruling:
    """Which of the rows that matched are left out, by the rules that need to know all of them.

    Args:
        parts: what the pass has found; its notes hold the matches of rows.
        sizes: of each set the number of words of its items.
        whole, too_short: of each set how many prompts are compared as a whole, and how many are too short for it.
        set_share: the share of a set's items above which its matches count; None for always.
        common_rows: the number of rows above which a run is a common phrase; None for never.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        sizes: Mapping[str, Sequence[int]],
        whole: Mapping[str, int],
        too_short: Mapping[str, int],
        set_share: float | None,
        common_rows: int | None,
    ) -> None:
        self.parts, self.sizes = parts, sizes
        self.whole, self.too_short = whole, too_short
        self.common = self._common_runs(common_rows)
        self.matched: dict[str, set[int]] = {name: set() for name in sizes}
        self.matched_whole: dict[str, set[int]] = {name: set() for name in sizes}
        self.rows: Counter[str] = Counter()
        for part in parts:
            for note in self._notes(part):
                self.rows.update({match["set"] for match in note["matches"]})
                for match in note["matches"]:
                    self.matched[match["set"]].add(match["row"])
                    if match["grams"][0] < 0:
                        self.matched_whole[match["set"]].add(match["row"])
        self.counting = {
            name
            for name, of_set in sizes.items()
            if set_share is None or len(self.matched[name]) > set_share * len(of_set)
        }

    def decide(self, part: Part) -> tuple[Codes, Sequence[str]]:
        """See `dusk.data.collect`: rows come back whose runs are all common, or whose sets do not count."""
        codes = part.codes.copy()
        out = {note["row"] for note in self._notes(part) if self._counts(note)}
        for note in part.notes():
            if note["row"] not in out:
                codes[note["row"]] = 0
        return codes, part.reasons

    def benchmarks(self, lengths: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Of each set: its items, how many are compared whole, what matched, and the rows that match."""
        return {
            name: {
                "items": len(of_set),
                "run_words": lengths[name],
                "whole": self.whole[name],
                "too_short": self.too_short[name],
                "matched_whole": len(self.matched_whole[name]),
                "matched": len(self.matched[name]),
                "rows": self.rows[name],
                "left_out": name in self.counting,
            }
            for name, of_set in self.sizes.items()
        }

    def write(self, file: Path, texts: Sequence[str]) -> None:
        """Write each match as a line: the row, the item, what they share, and both texts side by side."""
        with file.open("w", encoding="utf-8") as out:
            for part in self.parts:
                for note in self._notes(part):
                    for match in note["matches"]:
                        told = {
                            "file": part.unit.file.name,
                            "line": note["line"],
                            "benchmark": match["set"],
                            "item": match["row"],
                            "share": match["share"],
                            "shared": match["words"],
                            "text": note["text"],
                            "item_text": excerpt(texts[match["item"]], match["words"]),
                            "left_out": match["set"] in self.counting,
                        }
                        out.write(json.dumps(told, ensure_ascii=False) + "\n")

    def _counts(self, note: Mapping[str, Any]) -> bool:
        return any(match["set"] in self.counting for match in note["matches"])

    def _notes(self, part: Part) -> Iterator[dict[str, Any]]:
        """The notes of rows with matches that are more than common phrases."""
        for note in part.notes():
            left = [match for match in note["matches"] if not self.common.issuperset(match["grams"])]
            if left:
                yield {**note, "matches": left}

    def _common_runs(self, most: int | None) -> set[int]:
        if most is None:
            return set()
        rows: Counter[int] = Counter()
        for part in self.parts:
            for note in part.notes():
                rows.update({gram for match in note["matches"] for gram in match["grams"]})
        return {gram for gram, count in rows.items() if count > most}


def excerpt(text: str, words: str) -> str:
    """As much of a text as people read, with the place where these words stand in its middle."""
    if len(text) <= _SHOWN:
        return text
    begin = min(max(0, _place(text.lower(), words.split()[:5]) - _SHOWN // 4), len(text) - _SHOWN)
    end = begin + _SHOWN
    return f"{'… ' if begin else ''}{text[begin:end]}{' …' if end < len(text) else ''}"


def _place(text: str, words: Sequence[str]) -> int:
    """Where these words stand, whatever is between them; 0 where they do not."""
    place = text.find(words[0])
    while place >= 0:
        found = (match[0] for match in islice(_WORD.finditer(text, place), len(words)))
        if list(found) == list(words):
            return place
        place = text.find(words[0], place + 1)
    return 0
