"""What was measured as a table: median, minimum and maximum of the rounds, and the ratio to a paired one."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bench.measure import Run


@dataclass(frozen=True)
class Way:
    """One way to do the work: a value a round, and what was run; no values where it was not measured."""

    name: str
    command: str
    values: tuple[float, ...] = ()
    peak_bytes: int | None = None
    processor_seconds: float | None = None
    missing: str = ""  # why there are no values

    @classmethod
    def timed(cls, name: str, command: Sequence[str], runs: Sequence[Run]) -> "Way":
        """Of the runs of a command: seconds, the largest peak, the median of processor time."""
        return cls(
            name,
            shlex.join(command),
            tuple(run.seconds for run in runs),
            max(run.peak_bytes for run in runs),
            median(run.processor_seconds for run in runs),
        )


@dataclass(frozen=True)
class Goal:
    """What is to be reached; `found` is None where it could not be measured."""

    text: str
    found: float | None
    met: bool | None

    def __str__(self) -> str:
        if self.found is None:
            return f"goal: {self.text}: not measured"
        return f"goal: {self.text}: {figure(self.found)}, {'met' if self.met else 'NOT met'}"


def at_most(text: str, found: float | None, bound: float) -> Goal:
    """A goal that is met by a small value."""
    return Goal(text, found, None if found is None else found <= bound)


def at_least(text: str, found: float | None, bound: float) -> Goal:
    """A goal that is met by a large value."""
    return Goal(text, found, None if found is None else found >= bound)


@dataclass(frozen=True)
class Table:
    """The ways of one bench; `beside` names the way that ratios are to."""

    title: str
    unit: str
    beside: str
    ways: tuple[Way, ...]
    megabytes: float | None = None  # what each way writes, for MB/s
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def way(self, name: str) -> Way:
        """The way of that name; raises KeyError."""
        for way in self.ways:
            if way.name == name:
                return way
        raise KeyError(name)

    def middle(self, name: str) -> float | None:
        """The median of a way; None where it was not measured."""
        values = self.way(name).values
        return median(values) if values else None

    def peak_mib(self, name: str) -> float | None:
        """The largest peak of a way's rounds, in MiB."""
        peak = self.way(name).peak_bytes
        return None if peak is None else peak / 2**20

    def ratio(self, name: str) -> float | None:
        """Median over the rounds of this way's value by the paired one's; None where either lacks."""
        return paired_ratio(self.way(name).values, self.way(self.beside).values)

    def speed_up(self, name: str, other: str) -> float | None:
        """How many times as fast a way is as another, in seconds; None where either lacks."""
        known = {way.name for way in self.ways}
        if other not in known:
            return None
        return paired_ratio(self.way(other).values, self.way(name).values)

    def __str__(self) -> str:
        """A Markdown table that reads as it is, then the commands, goals and notes."""
        lines = [f"## {self.title}", "", *aligned([self._head(), *map(self._row, self.ways)]), ""]
        lines += [f"- {way.name}: `{way.command}`{_because(way)}" for way in self.ways]
        lines += [f"- {goal}" for goal in self.goals]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines)

    def _head(self) -> list[str]:
        rate = ["MB/s"] if self.megabytes else []
        return ["way", self.unit, "min", "max", f"ratio to {self.beside}", *rate, "CPU s", "peak MiB"]

    def _row(self, way: Way) -> list[str]:
        if not way.values:
            return [way.name, "not measured", *([""] * (len(self._head()) - 2))]
        middle = median(way.values)
        ratio = self.ratio(way.name)
        return [
            way.name,
            *(figure(value) for value in (middle, min(way.values), max(way.values))),
            "" if ratio is None else f"{ratio:.2f}",
            *([f"{self.megabytes / middle:.0f}"] if self.megabytes else []),
            "" if way.processor_seconds is None else figure(way.processor_seconds),
            "" if way.peak_bytes is None else f"{way.peak_bytes / 2**20:.0f}",
        ]

    def to_json(self) -> dict[str, Any]:
        """All values, with the medians and ratios."""
        told = asdict(self)
        for way in told["ways"]:
            way["median"] = median(way["values"]) if way["values"] else None
            way["ratio"] = self.ratio(way["name"])
        return told


def paired_ratio(values: Sequence[float], others: Sequence[float]) -> float | None:
    """The median of the rounds' ratios, so that a slow minute of the machine falls on both."""
    if not values or not others:
        return None
    return median(value / other for value, other in zip(values, others, strict=True))


def figure(value: float) -> str:
    """A number in three digits, or as a whole one with its thousands parted."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with columns of one width; the first to the left, the others to the right."""
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    cells = [
        [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    rule = ["-" * width if not column else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return [f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]]]


def _because(way: Way) -> str:
    return f" ({way.missing})" if way.missing else ""
