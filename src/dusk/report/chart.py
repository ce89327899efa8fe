"""The geometry of a line chart: scales, ticks and paths in the units of its SVG view box.

Drawing is the template's; here every number is decided, so that it can be tested.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 8, 46
_TICKS = 5
_ROUNDING = 1e-9  # of a value
Point = tuple[float, float]
_POINTS_MOST = 240  # a line of more is averaged into as many


@dataclass(frozen=True)
class Axes:
    """What the axes are called, and how a value of each is said."""

    x_title: str
    y_title: str
    x_words: Callable[[float], str]
    y_words: Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """One line of values: `style` is a number that chooses colour, dash and marker alike.

    A faint line is one of several that another stands for: thin, without markers, not in the legend.
    """

    label: str
    style: int
    points: tuple[Point, ...]
    marked: bool = True
    faint: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line."""

    label: str
    value: float


@dataclass(frozen=True)
class Moment:
    """A vertical line."""

    label: str
    value: float
    style: int


@dataclass(frozen=True)
class Ring:
    """A point that is pointed out."""

    label: str
    x: float
    y: float


@dataclass(frozen=True)
class Tick:
    """A tick: its place in the view box and its label."""

    place: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A measured point: its place, and its values as words."""

    x: float
    y: float
    x_words: str
    y_words: str


@dataclass(frozen=True)
class DrawnLine:
    """A line ready to be drawn."""

    label: str
    style: int
    path: str
    dots: tuple[Dot, ...]
    marked: bool
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart ready to be drawn."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[DrawnLine, ...]
    levels: tuple[Tick, ...]
    moments: tuple[tuple[Tick, int], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    rings: tuple[Ring, ...]
    spoken: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw(
    title: str,
    lines: Sequence[Line],
    axes: Axes,
    *,
    levels: Sequence[Level] = (),
    moments: Sequence[Moment] = (),
    rings: Sequence[Ring] = (),
) -> Chart | None:
    """Lay a chart out; None where there is no line with a finite point."""
    kept = [replace(line, points=_finite(line.points)) for line in lines]
    kept = [line for line in kept if line.points]
    if not kept:
        return None
    xs = [x for line in kept for x, _ in line.points]
    ys = [y for line in kept for _, y in line.points] + [level.value for level in levels]
    (x_low, x_high), (y_low, y_high) = _extent(xs), _extent(ys)
    x_ticks, y_ticks = nice_ticks(x_low, x_high), nice_ticks(y_low, y_high)
    x_high = x_high if x_high > x_low else x_low + 1
    y_low, y_high = _padded(y_low, y_high)

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 2)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 2)

    return Chart(
        title=title,
        x_title=axes.x_title,
        y_title=axes.y_title,
        lines=tuple(_drawn(line, across, down, axes) for line in kept),
        levels=tuple(Tick(down(level.value), level.label) for level in levels),
        moments=tuple(
            (Tick(across(moment.value), moment.label), moment.style)
            for moment in moments
            if x_low <= moment.value <= x_high
        ),
        x_ticks=tuple(Tick(across(x), axes.x_words(x)) for x in x_ticks if x_low <= x <= x_high),
        y_ticks=tuple(Tick(down(y), tick_label(y, y_ticks)) for y in y_ticks if y_low <= y <= y_high),
        rings=tuple(Ring(ring.label, across(ring.x), down(ring.y)) for ring in rings),
        spoken=_spoken(kept, axes),
    )


def _extent(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest; values that differ by rounding alone are one value."""
    low, high = min(values), max(values)
    return (low, high) if high - low > _ROUNDING * max(abs(low), abs(high)) else (low, low)


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers 1, 2 or 5 times a power of ten apart that cover low to high with about five steps."""
    if high <= low:
        return [low]
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if raw <= factor * power)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def tick_label(value: float, ticks: Sequence[float]) -> str:
    """As many places as the step between ticks needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{places}f}".replace("-", "\u2212")


def averaged(points: Sequence[Point], most: int = _POINTS_MOST) -> tuple[Point, ...]:
    """At most so many points, each the mean of its neighbours; every point where there are few."""
    if len(points) <= most:
        return tuple(points)
    edges = [len(points) * number // most for number in range(most + 1)]
    groups = [points[begin:end] for begin, end in pairwise(edges)]
    return tuple((_mean([x for x, _ in group]), _mean([y for _, y in group])) for group in groups)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _finite(points: Sequence[Point]) -> tuple[Point, ...]:
    return averaged([(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)])


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


def _drawn(
    line: Line,
    across: Callable[[float], float],
    down: Callable[[float], float],
    axes: Axes,
) -> DrawnLine:
    dots = tuple(Dot(across(x), down(y), axes.x_words(x), axes.y_words(y)) for x, y in line.points)
    path = "M" + "L".join(f"{dot.x:g} {dot.y:g}" for dot in dots)
    return DrawnLine(line.label, line.style, path, dots, line.marked, line.faint)


def _spoken(lines: Sequence[Line], axes: Axes) -> str:
    ends = (
        f"{line.label}: from {axes.y_words(line.points[0][1])} to {axes.y_words(line.points[-1][1])}"
        f" at {axes.x_words(line.points[-1][0])}"
        for line in lines
        if not line.faint
    )
    return "; ".join(ends)
