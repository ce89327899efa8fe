"""From the rows of published sets to rows of training: converted, checked, sampled, perhaps masked."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from dusk.data.collect import add_codes, collect
from dusk.data.fields import RowError, UnwantedError
from dusk.data.hub import data_files
from dusk.data.kinds import KINDS, fault
from dusk.data.outputs import DataFolder
from dusk.data.passes import Codes, Entry, Judge, Part, Progress, Spread, Verdict, run_pass
from dusk.data.pii import masked
from dusk.data.readers import SHOWN, bad_rows_error
from dusk.data.sources import SOURCES, Source, source_named, source_of
from dusk.data.units import units
from dusk.errors import DataError, SettingError

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

SAMPLED_OUT = "not in the sample"
REPEATED_ID = "the id stands twice"


def convert(
    out: str | Path,
    *,
    data: Sequence[str | Path],
    source: str | None = None,
    rows: int | Literal["solar"] | None = None,
    seed: int = 0,
    mask_pii: bool = False,
    skip_bad: bool = False,
    license: str | None = None,
    rejects: str | Path | None = None,
    workers: int | None = None,
    spread: Spread | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make rows of training from the rows of published data sets, into the folder `out`.

    Args:
        out: the folder to make: train.jsonl, dusk.json and a card.
        data: files, or hub ids (`owner/name[@revision][:pattern]`).
        source: whose form the rows have (see `dusk.data.sources`); else told from the fields of each row.
        rows: how many rows to keep at most, drawn by `seed`; "solar" is the number that SOLAR used of the
            source (table 1). All where none is given.
        seed: of the sample, and of the rejected answers that are drawn from scored ones.
        mask_pii: put marks in place of e-mail addresses and telephone numbers.
        skip_bad: leave bad rows out, counted by reason.
        license: of the data, where their folders do not state it.
        rejects: a file for the rows left out, each with its place and reason.
        workers: processes; as many as there are processors.
        spread: a way to make parts of the work on other machines (see `dusk.data.cluster`).

    Returns:
        What the card tells: rows, kept, left_out by reason, masked, licenses.

    Raises:
        DataError: files that cannot be read, or rows that cannot be used.
        SettingError: an unknown source, "solar" of a source that SOLAR did not use, or `out` exists.
    """
    files = data_files(data)
    most = _most(rows, source)
    settings = {"source": source, "rows": rows, "seed": seed, "mask_pii": mask_pii, "skip_bad": skip_bad}
    stated = license or (source_named(source).license if source else None) or None
    licenses = {file: stated for file in files if stated}
    with DataFolder(out, "data convert", files, settings, licenses=licenses, rejects=rejects) as folder:
        parts = run_pass(
            units(files),
            Converter(source, seed, mask_pii),
            folder.parts,
            workers=workers,
            skip_bad=skip_bad,
            spread=spread,
            progress=progress,
        )
        choice = _Choice(parts, most, skip_bad)
        tally = collect(parts, folder.rows, decide=choice.decide, rejects=folder.rejects)
        counted = sum((Counter(part.counts) for part in parts), Counter[str]())
        more = {"masked": dict(counted)} if mask_pii else {}
        return folder.finish(tally, **more)


@dataclass
class Converter(Judge):
    """Converts rows, and notes of each that is kept a key to draw it by and a hash of its id (0 for none)."""

    source: str | None
    seed: int
    mask_pii: bool
    arrays: ClassVar[Mapping[str, Any]] = {"keys": np.uint64, "ids": np.uint64}
    rewrites: ClassVar[bool] = True

    def judge(self, rows: Sequence[Entry], noted: dict[str, Any]) -> list[Verdict]:
        """See `Judge`."""
        keys: list[int] = []
        ids: list[int] = []
        counts: Counter[str] = Counter()
        verdicts = []
        for entry in rows:
            verdict = self._verdict(entry, counts)
            verdicts.append(verdict)
            if verdict.line is not None:
                keys.append(_hashed(b"%d:" % self.seed + verdict.line))
                ids.append(_id_hash(entry.fields))
        noted["keys"], noted["ids"] = np.array(keys, np.uint64), np.array(ids, np.uint64)
        noted["counts"] = counts
        return verdicts

    def _verdict(self, entry: Entry, counts: Counter[str]) -> Verdict:
        source = SOURCES[self.source] if self.source else source_of(entry.fields)
        try:
            made = converted(entry.fields, source, self.seed)
        except RowError as error:
            return Verdict(str(error), bad=True)
        except UnwantedError as error:
            return Verdict(str(error))
        row = masked(made, counts) if self.mask_pii else made
        return Verdict(line=json.dumps(row, ensure_ascii=False).encode() + b"\n")


def converted(fields: Mapping[str, Any], source: Source, seed: int = 0) -> dict[str, Any]:
    """A row of training, checked, with its id and the name of its source; raises `RowError`, `UnwantedError`."""
    row = source.convert(fields, seed)
    wrong = fault(row, KINDS)
    if wrong is not None:
        raise RowError(wrong)
    name = source.name if source.fields else fields.get("source")
    known = {"id": fields.get("id"), "source": name}
    return row | {key: value for key, value in known.items() if isinstance(value, str | int)}


def _most(rows: int | Literal["solar"] | None, source: str | None) -> int | None:
    if rows != "solar":
        return rows
    most = source_named(source).most if source else None
    if most is None:
        used = ", ".join(name for name, one in SOURCES.items() if one.most)
        raise SettingError(
            "rows: solar says how many only of a source that SOLAR used.", remedy=f"Give --source: {used}."
        )
    return most


class _Choice:
    """Which of the converted rows stay, once all are known: the first of an id, and of these a sample."""

    def __init__(self, parts: Sequence[Part], most: int | None, skip_bad: bool) -> None:
        ids = _together([part.array("ids") for part in parts])
        repeated = _repeats(ids)
        keys = _together([part.array("keys") for part in parts])
        beyond = _beyond(keys, ~repeated, most)
        ends = np.cumsum([int((part.codes == 0).sum()) for part in parts])[:-1]
        split = (np.split(mask, ends) for mask in (repeated, beyond))
        self.masks = {part.unit.number: masks for part, *masks in zip(parts, *split, strict=True)}
        if repeated.any() and not skip_bad:
            raise self._repeated_error(parts, int(repeated.sum()))

    def decide(self, part: Part) -> tuple[Codes, Sequence[str]]:
        """See `dusk.data.collect`."""
        codes, reasons = part.codes, list(part.reasons)
        kept = np.flatnonzero(codes == 0)
        for mask, reason in zip(self.masks[part.unit.number], (REPEATED_ID, SAMPLED_OUT), strict=True):
            if mask.any():
                codes, reasons = add_codes(codes, reasons, kept[mask], reason)
        return codes, reasons

    def _repeated_error(self, parts: Sequence[Part], count: int) -> DataError:
        places: list[str] = []
        for part in parts:
            repeated, _ = self.masks[part.unit.number]
            rows = set(np.flatnonzero(part.codes == 0)[repeated].tolist()) if len(places) < SHOWN else set()
            lines = [line for row, (line, _) in enumerate(part.unit.rows()) if row in rows] if rows else []
            places += [f"{part.unit.file}:{line}: {REPEATED_ID}" for line in lines]
        return bad_rows_error("ids", places[:SHOWN], count)


def _together(arrays: Sequence[Hashes]) -> Hashes:
    return np.concatenate(arrays) if arrays else np.empty(0, np.uint64)


def _repeats(ids: Hashes) -> Mask:
    """Which hashes stand further ahead too; 0 is no id."""
    repeated = np.ones(len(ids), np.bool_)
    repeated[np.unique(ids, return_index=True)[1]] = False
    mask: Mask = repeated & (ids != 0)
    return mask


def _beyond(keys: Hashes, among: Mask, most: int | None) -> Mask:
    """Which rows `among` these are not in a sample of `most`: those of the largest keys."""
    beyond = np.zeros(len(keys), np.bool_)
    if most is not None:
        rows = np.flatnonzero(among)
        beyond[rows[np.argsort(keys[rows], kind="stable")[most:]]] = True
    return beyond


def _id_hash(fields: Mapping[str, Any]) -> int:
    found = fields.get("id")
    return _hashed(f"{type(found).__name__}:{found}".encode()) or 1 if isinstance(found, str | int) else 0


def _hashed(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
