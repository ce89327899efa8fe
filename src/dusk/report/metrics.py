"""A stage's metrics.jsonl: its training rows, and its held-out measurements along the way."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dusk.report.reading import finite, mapping, read_rows


@dataclass(frozen=True)
class HeldOut:
    """One held-out measurement during training: bits a byte of all the text, and by domain."""

    step: int
    tokens: int
    bits_per_byte: float
    domains: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """Both kinds of rows, by step; sDPO steps are counted on from one to the next."""

    train: tuple[Mapping[str, float], ...] = ()
    held_out: tuple[HeldOut, ...] = ()

    def decay_tokens(self) -> float | None:
        """Tokens at the end of the constant-rate phase: None unless a fifth of the rows hold the top rate."""
        rows = [(row["tokens"], row["lr"]) for row in self.train if "tokens" in row and "lr" in row]
        top = max((rate for _, rate in rows), default=0.0)
        plateau = [tokens for tokens, rate in rows if rate >= 0.999 * top]
        if top <= 0 or len(plateau) < max(3, len(rows) // 5) or plateau[-1] == rows[-1][0]:
            return None
        return plateau[-1]


def read_metrics(path: Path) -> Metrics:
    """The rows of a metrics.jsonl, none where there is no file; a step written twice counts once, the later.

    Raises DataError for a line that is no JSON, the last one excepted.
    """
    train: dict[tuple[int, int], Mapping[str, float]] = {}
    held_out: dict[int, HeldOut] = {}
    for row in read_rows(path) if path.is_file() else ():
        step, part = int(row.get("step") or 0), int(row.get("sdpo_step") or 0)
        if row.get("kind") != "eval":
            train[part, step] = {
                key: number for key, value in row.items() if (number := finite(value)) is not None
            }
            continue
        bits = finite(row.get("bits_per_byte"))
        if bits is not None:
            domains = {
                name: number
                for name, value in mapping(row.get("domains")).items()
                if (number := finite(value))
            }
            held_out[step] = HeldOut(step, int(row.get("tokens") or 0), bits, domains)
    return Metrics(_counted_on(train), tuple(held_out[step] for step in sorted(held_out)))


def _counted_on(train: Mapping[tuple[int, int], Mapping[str, float]]) -> tuple[Mapping[str, float], ...]:
    """The rows in order; where a step of sDPO counts from zero again, its steps follow the last one's."""
    rows: list[Mapping[str, float]] = []
    offset, part_before = 0, None
    for part, step in sorted(train):
        last = int(rows[-1]["step"]) if rows else 0
        if part != part_before:
            offset = last if part_before is not None and step <= last else 0
            part_before = part
        rows.append({**train[part, step], "step": float(offset + step)})
    return tuple(rows)
