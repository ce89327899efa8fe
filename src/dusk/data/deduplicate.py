"""Taking out of training data what stands there more than once, exactly or nearly; the first stays.

Exact: all texts of two rows are equal but for case, punctuation and white space. Near: their shingles' estimated
Jaccard index is at least the threshold (see `dusk.data.minhash`), directly or through rows in between.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from dusk.data.collect import add_codes, collect
from dusk.data.decontaminate import compared_texts
from dusk.data.fields import RowError
from dusk.data.hub import data_files
from dusk.data.minhash import BAND_ROWS, BANDS, NO_WORD, Groups, Signatures, band_keys, likeness, signatures
from dusk.data.outputs import DataFolder
from dusk.data.passes import KEPT, Codes, Entry, Judge, Part, Progress, Spread, Verdict, run_pass
from dusk.data.units import units
from dusk.data.words import words_of
from dusk.errors import SettingError

REPEATED, ALIKE = "stands twice", "nearly stands twice"
_PAIRS_AT_ONCE = 1 << 16


def deduplicate(
    out: str | Path,
    *,
    data: Sequence[str | Path],
    method: Literal["exact", "minhash"] = "minhash",
    threshold: float = 0.8,
    prompts_only: bool = False,
    skip_bad: bool = False,
    license: str | None = None,
    rejects: str | Path | None = None,
    workers: int | None = None,
    spread: Spread | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Leave out rows that stand further ahead, into the folder `out`.

    Args:
        out: the folder to make.
        data: files or hub ids, together one set.
        method: minhash leaves out near duplicates too.
        threshold: the likeness (estimated Jaccard index) from which rows are near duplicates.
        prompts_only: compare what is asked alone.
        skip_bad, license, rejects, workers, spread: as in `dusk.data.convert`.

    Raises:
        DataError: files that cannot be read, or rows that cannot be used.
        SettingError: a threshold outside 0 to 1, or `out` exists.
    """
    if not 0 < threshold <= 1:
        raise SettingError(f"threshold: above 0 and at most 1, not {threshold}")
    files = data_files(data)
    settings = {"method": method, "threshold": threshold, "prompts_only": prompts_only, "skip_bad": skip_bad}
    licenses = dict.fromkeys(files, license) if license else None
    with DataFolder(out, "data deduplicate", files, settings, licenses=licenses, rejects=rejects) as folder:
        judge = SignatureJudge(prompts_only, near=method == "minhash")
        parts = run_pass(
            units(files),
            judge,
            folder.parts,
            workers=workers,
            skip_bad=skip_bad,
            spread=spread,
            progress=progress,
        )
        repeats = Repeats(parts, threshold if method == "minhash" else None, folder.scratch)
        tally = collect(parts, folder.rows, decide=repeats.decide, rejects=folder.rejects)
        return folder.finish(tally)


@dataclass
class SignatureJudge(Judge):
    """Notes of each row a digest of its words (two numbers) and, for near duplicates, its signature."""

    prompts_only: bool
    near: bool
    arrays: ClassVar[Mapping[str, Any]] = {"digests": np.uint64, "signatures": np.uint32}

    def judge(self, rows: Sequence[Entry], noted: dict[str, Any]) -> list[Verdict]:
        """See `Judge`."""
        texts, verdicts = [], [KEPT] * len(rows)
        for place, entry in enumerate(rows):
            try:
                texts.append(compared_texts(entry.fields, prompts_only=self.prompts_only)[0])
            except RowError as error:
                verdicts[place] = Verdict(str(error), bad=True)
        words = words_of(texts)
        contents = (b" ".join(words.of(place)) or text.encode() for place, text in enumerate(texts))
        digests = b"".join(hashlib.blake2b(content, digest_size=16).digest() for content in contents)
        noted["digests"] = np.frombuffer(digests, "<u8").reshape(-1, 2)
        width = BANDS * BAND_ROWS if self.near else 0
        noted["signatures"] = signatures(texts) if self.near else np.empty((len(texts), width), np.uint32)
        return verdicts


class Repeats:
    """Which rows stand further ahead, once all are known.

    Of each row the digest (16 bytes) and a few numbers are in memory; signatures lie in a file.
    """

    def __init__(self, parts: Sequence[Part], threshold: float | None, folder: Path) -> None:
        self.counts = [int((part.codes == 0).sum()) for part in parts]
        self.offsets = dict(
            zip((part.unit.number for part in parts), np.cumsum([0, *self.counts[:-1]]).tolist(), strict=True)
        )
        self.repeated = _repeated(parts)
        self.alike = np.zeros(len(self.repeated), np.bool_)
        if threshold is not None and len(self.repeated):
            self.alike = _alike(self._signatures(parts, folder), self.repeated, threshold)

    def decide(self, part: Part) -> tuple[Codes, Sequence[str]]:
        """See `dusk.data.collect`."""
        codes, reasons = part.codes, list(part.reasons)
        kept = np.flatnonzero(codes == 0)
        begin = self.offsets[part.unit.number]
        for mask, reason in ((self.repeated, REPEATED), (self.alike, ALIKE)):
            mine = mask[begin : begin + len(kept)]
            if mine.any():
                codes, reasons = add_codes(codes, reasons, kept[mine], reason)
        return codes, reasons

    def _signatures(self, parts: Sequence[Part], folder: Path) -> Signatures:
        """All signatures as one file, mapped into memory."""
        shape = (sum(self.counts), BANDS * BAND_ROWS)
        together = np.lib.format.open_memmap(folder / "signatures.npy", "w+", np.uint32, shape)
        begin = 0
        for part, count in zip(parts, self.counts, strict=True):
            together[begin : begin + count] = part.array("signatures")
            begin += count
        return together


def _repeated(parts: Sequence[Part]) -> npt.NDArray[np.bool_]:
    """Of each row whether one further ahead has its digest."""
    digests = [part.array("digests") for part in parts]
    every = np.concatenate(digests) if digests else np.empty((0, 2), np.uint64)
    order = np.lexsort((every[:, 1], every[:, 0]))  # stable, so that the first row of a digest comes first
    same = (every[order[1:]] == every[order[:-1]]).all(axis=1)
    repeated = np.zeros(len(every), np.bool_)
    repeated[order[1:][same]] = True
    return repeated


def _alike(found: Signatures, repeated: npt.NDArray[np.bool_], threshold: float) -> npt.NDArray[np.bool_]:
    """Of each row whether it is joined with one further ahead, by pairs that agree in some band."""
    groups = Groups(len(found))
    rows = np.flatnonzero(~repeated & (found[:, 0] != NO_WORD))
    for band in range(BANDS):
        for ones, others in _candidates(found, rows, band):
            apart = np.flatnonzero(groups.of_each(ones) != groups.of_each(others))
            near = apart[likeness(found[ones[apart]], found[others[apart]]) >= threshold]
            for one, other in zip(ones[near].tolist(), others[near].tolist(), strict=True):
                groups.join(one, other)
    alike = np.zeros(len(found), np.bool_)
    alike[rows] = groups.of_each(rows) != rows
    return alike


def _candidates(
    found: Signatures, rows: npt.NDArray[np.int64], band: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Pairs of rows with the same key: each row with the one before it and with the first of its key."""
    if not len(rows):
        return
    blocks = [found[rows[at : at + _PAIRS_AT_ONCE]] for at in range(0, len(rows), _PAIRS_AT_ONCE)]
    keys = np.concatenate([band_keys(block, band) for block in blocks])
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    begins = np.flatnonzero(np.concatenate([[True], ~same]))
    firsts = np.repeat(begins, np.diff(np.append(begins, len(order))))
    later = np.flatnonzero(same) + 1
    for at in range(0, len(later), _PAIRS_AT_ONCE):
        some = later[at : at + _PAIRS_AT_ONCE]
        ones = np.concatenate([order[some - 1], order[firsts[some]]])
        yield rows[ones], rows[np.concatenate([order[some], order[some]])]
