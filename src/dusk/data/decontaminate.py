"""Taking out of training data what overlaps with benchmarks, and saying what matched what.

Two published conventions are presets. A row is compared with each item of each benchmark; words are lower-cased
runs of letters and digits.

    gpt3    Brown et al. 2020, appendix C: prompts with answers; a row that shares a run of 13 words with an
            item is left out. Runs that stand in more than 10 rows are taken for common phrases, as there.
            Where the items of a set are short, its runs are as long as the shortest 5 % of them, but at least
            8 words: the rule of that paper's own analysis of overlap.
    tulu3   Lambert et al. 2024: prompts only; an item matches a row if more than half of its words lie in runs
            of 8 that it shares with this row. Rows are left out for a set of which more than 2 % match.

Items whose prompts are shorter than a run, which neither convention can see, match a row that asks the same words
and no others. Prompts of one or two words tell no item ("Keynes", "4 + 3"), and are counted instead: too short.

Rows are left out whole. What remains is written as it stands in the input.
"""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dusk.data.benchmarks import Item, read_benchmark, row_texts, set_name
from dusk.data.collect import collect
from dusk.data.fields import RowError, UnwantedError
from dusk.data.gram_index import GramIndex, Hit, short_prompts, whole_prompts, write_index
from dusk.data.hub import data_files
from dusk.data.kinds import KINDS, fault
from dusk.data.matches import Match, Ruling, excerpt
from dusk.data.outputs import DataFolder
from dusk.data.passes import KEPT, Entry, Judge, Progress, Spread, Verdict, run_pass
from dusk.data.sources import source_of
from dusk.data.stores import file_digest
from dusk.data.units import units
from dusk.data.words import words_of
from dusk.errors import SettingError

MATCHES_FILE = "matches.jsonl"
OVERLAPS = "overlaps with a benchmark"
_INDEX = "index"
_SHORT_CHARACTERS = 256  # of a question that may be as short as a run of words; saves looking at the others
_SHORT_SHARE = 0.05  # of a set's items, which its runs may be too long for


@dataclass(frozen=True)
class Preset:
    """A convention of what overlaps.

    `words` is the length of a run, `least_words` what it may be shortened to where items are short (None for
    never), `prompts_only` what is compared. An item matches a row if the share of its words that lie in shared
    runs is above `item_share`. A set's matches count if above `set_share` of its items match, and a run is
    ignored that stands in more than `common_rows` rows (None for never).
    """

    words: int
    least_words: int | None = None
    prompts_only: bool = False
    item_share: float = 0.0
    set_share: float | None = None
    common_rows: int | None = None


PRESETS = {
    "gpt3": Preset(words=13, least_words=8, common_rows=10),
    "tulu3": Preset(words=8, prompts_only=True, item_share=0.5, set_share=0.02),
}


def decontaminate(
    out: str | Path,
    *,
    data: Sequence[str | Path],
    against: Sequence[str | Path],
    preset: str = "gpt3",
    words: int | None = None,
    item_share: float | None = None,
    set_share: float | None = None,
    common_rows: int | None = None,
    skip_bad: bool = False,
    license: str | None = None,
    rejects: str | Path | None = None,
    workers: int | None = None,
    spread: Spread | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Leave out the rows that overlap with benchmarks, into the folder `out`; `matches.jsonl` shows them.

    Args:
        out: the folder to make.
        data: files or hub ids: rows of training, or of a published set (see `dusk.data.sources`).
        against: files or hub ids of benchmarks (see `dusk.data.benchmarks`).
        preset: gpt3 or tulu3; the four settings behind it change it.
        words: length of a run of words.
        item_share: share of an item's words in shared runs above which it matches.
        set_share: share of a set's items above which its matches count; 0 for always.
        common_rows: rows above which a run is a common phrase; 0 for never.
        skip_bad, license, rejects, workers, spread: as in `dusk.data.convert`.

    Returns:
        What the card tells; `benchmarks` has of each set its items, how many are compared whole or are too
        short for it, those that matched, and the rows that matched them; `common_runs` how many runs were ignored.

    Raises:
        DataError: files that cannot be read, or rows that cannot be used.
        SettingError: an unknown preset, two benchmarks of one name, or `out` exists.
    """
    files, tests = data_files(data), data_files(against)
    rule = _rule(preset, words, item_share, set_share, common_rows)
    against_digests = {name: file_digest(file) for name, file in _by_name(tests).items()}
    settings = {"preset": preset, **asdict(rule), "against": against_digests, "skip_bad": skip_bad}
    licenses = dict.fromkeys(files, license) if license else None
    with DataFolder(out, "data decontaminate", files, settings, licenses=licenses, rejects=rejects) as folder:
        items = [item for file in tests for item in read_benchmark(file)]
        sizes = item_sizes(items, rule)
        lengths = run_lengths(sizes, rule)
        index = folder.scratch / _INDEX
        if not index.exists():
            partial = folder.scratch / f"{_INDEX}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            write_index(partial, items, lengths, prompts_only=rule.prompts_only)
            partial.rename(index)
        parts = run_pass(
            units(files),
            OverlapJudge(index, rule),
            folder.parts,
            workers=workers,
            skip_bad=skip_bad,
            spread=spread,
            progress=progress,
        )
        short = short_prompts(items, lengths)
        whole = whole_prompts(short)
        ruling = Ruling(
            parts,
            sizes,
            Counter(items[number].set for number in whole),
            Counter(items[number].set for number in short.keys() - whole.keys()),
            rule.set_share,
            rule.common_rows,
        )
        ruling.write(
            folder.path / MATCHES_FILE, [item.prompt if rule.prompts_only else item.text for item in items]
        )
        tally = collect(parts, folder.rows, decide=ruling.decide, rejects=folder.rejects)
        return folder.finish(tally, benchmarks=ruling.benchmarks(lengths), common_runs=len(ruling.common))


def _by_name(files: Sequence[Path]) -> dict[str, Path]:
    """Benchmarks by what they are called in all that is told; raises `SettingError` where two are called alike."""
    named: dict[str, Path] = {}
    problems = []
    for file in files:
        name = set_name(file)
        if name in named:
            problems.append(f"{file} and {named[name]} are both called {name}")
        named[name] = file
    if problems:
        raise SettingError(
            "benchmarks are told apart by the names of folder and file:",
            problems=problems,
            remedy="Rename one of the folders.",
        )
    return named


def item_sizes(items: Sequence[Item], rule: Preset) -> dict[str, list[int]]:
    """Of each set, how many words its items have."""
    sizes: dict[str, list[int]] = {}
    texts = words_of([item.prompt if rule.prompts_only else item.text for item in items])
    for item, size in zip(items, np.diff(texts.first).tolist(), strict=True):
        sizes.setdefault(item.set, []).append(size)
    return sizes


def run_lengths(sizes: Mapping[str, Sequence[int]], rule: Preset) -> dict[str, int]:
    """The length of the runs of each set, in words."""
    if rule.least_words is None:
        return dict.fromkeys(sizes, rule.words)
    short = {name: int(np.quantile(of_set, _SHORT_SHARE)) for name, of_set in sizes.items()}
    return {name: min(rule.words, max(rule.least_words, size)) for name, size in short.items()}


def _rule(
    preset: str,
    words: int | None,
    item_share: float | None,
    set_share: float | None,
    common_rows: int | None,
) -> Preset:
    if preset not in PRESETS:
        raise SettingError(f"there is no preset {preset!r}", remedy=f"There are {', '.join(PRESETS)}.")
    rule = PRESETS[preset]
    if words is not None:
        rule = replace(rule, words=words, least_words=None)
    if item_share is not None:
        rule = replace(rule, item_share=item_share)
    if set_share is not None:
        rule = replace(rule, set_share=set_share or None)
    if common_rows is not None:
        rule = replace(rule, common_rows=common_rows or None)
    return rule


@dataclass
class OverlapJudge(Judge):
    """Finds rows that an item matches; which of them are left out is decided when all are known."""

    index: Path
    rule: Preset

    def begin(self) -> None:
        """See `Judge`."""
        self.loaded = GramIndex(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "rule": self.rule}

    def judge(self, rows: Sequence[Entry], noted: dict[str, Any]) -> list[Verdict]:
        """See `Judge`."""
        texts: list[str] = []
        questions: list[str] = []
        verdicts = [KEPT] * len(rows)
        for place, entry in enumerate(rows):
            text = question = ""
            try:
                text, question = compared_texts(entry.fields, prompts_only=self.rule.prompts_only)
            except RowError as error:
                verdicts[place] = Verdict(str(error), bad=True)
            texts.append(text)
            questions.append(question)
        for place, matched in sorted(self._matched(texts, questions).items()):
            shown = excerpt(texts[place], matched[0].words)
            note = {"line": rows[place].line, "text": shown, "matches": [m.to_json() for m in matched]}
            verdicts[place] = Verdict(OVERLAPS, note=note)
        return verdicts

    def _matched(self, texts: Sequence[str], questions: Sequence[str]) -> dict[int, list[Match]]:
        """The matches of each text that has any, by runs and then by whole prompts."""
        by_text: dict[int, list[Hit]] = {}
        for hit in self.loaded.hits(words_of(texts)):
            by_text.setdefault(hit.text, []).append(hit)
        found = {place: matches(hits, self.loaded, self.rule) for place, hits in by_text.items()}
        short = [place for place, question in enumerate(questions) if 0 < len(question) <= _SHORT_CHARACTERS]
        asked = words_of([questions[place] for place in short])
        for number, prompt, items in self.loaded.same_prompts(asked):
            own = found.setdefault(short[number], [])
            known = {match.item for match in own}
            same = [item for item in items if item not in known]
            own += (Match(*self.loaded.place(item), item, 1.0, prompt, (-1 - same[0],)) for item in same)
        return {place: matched for place, matched in found.items() if matched}


def compared_texts(fields: Mapping[str, Any], *, prompts_only: bool) -> tuple[str, str]:
    """What of a row is compared by runs, and what it asks as a whole (without the system's message).

    Raises `RowError` for a row of no form that is known.
    """
    source = source_of(fields)
    if source.fields:
        try:
            row = source.convert(fields, 0)
            asked, answered = row_texts(row)
        except UnwantedError:  # sound, and so to be compared, whatever its parts are
            return " ".join(str(value) for value in fields.values()), ""
        question = _question(row)
    else:
        wrong = fault(fields, KINDS)
        if wrong is not None:
            raise RowError(wrong)
        asked, answered = row_texts(fields)
        question = _question(fields)
        if isinstance(fields.get("system"), str):
            asked = f"{fields['system']}\n{asked}"
    return asked if prompts_only else f"{asked}\n{answered}", question


def _question(fields: Mapping[str, Any]) -> str:
    """The last message that is not the assistant's; a text as it is."""
    asked = next((fields[name] for name in ("prompt", "messages", "text") if name in fields), "")
    if isinstance(asked, str):
        return asked
    return next((str(m["content"]) for m in reversed(asked) if m["role"] != "assistant"), "")


def matches(hits: Sequence[Hit], index: GramIndex, rule: Preset) -> list[Match]:
    """The items that the hits in one text make a match of, those that are covered most first."""
    of_item: dict[int, list[Hit]] = {}
    for hit in hits:
        of_item.setdefault(hit.item, []).append(hit)
    found = []
    for item, own in of_item.items():
        covered = {word for hit in own for word in range(hit.item_place, hit.item_place + hit.words)}
        share = len(covered) / len(index.words_of(item))
        if share > rule.item_share:
            first = min(own, key=lambda hit: hit.place)
            words = b" ".join(
                index.words_of(item)[first.item_place : first.item_place + first.words]
            ).decode()
            grams = tuple(sorted({gram for hit in own for gram in hit.grams}))
            found.append(Match(*index.place(item), item, round(share, 4), words, grams))
    return sorted(found, key=lambda match: (-match.share, match.item))
