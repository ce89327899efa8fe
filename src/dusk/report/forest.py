"""The gains over the controls with their intervals, on one axis: worse left of zero, better right of it.

Where a gain is a mean over seeds, each seed has a dot of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dusk.report.chart import Tick, nice_ticks, tick_label
from dusk.report.plots import STYLES, control_label
from dusk.report.verdict import Gain
from dusk.report.wording import bits

_WIDTH, _PAD = 460.0, 20.0


@dataclass(frozen=True)
class Whisker:
    """One control: places along the axis, and the same in words."""

    label: str
    words: str
    at: float
    low: float | None
    high: float | None
    style: int
    dots: tuple[float, ...] = ()


@dataclass(frozen=True)
class Forest:
    """The plot; `zero` is the place of no difference."""

    rows: tuple[Whisker, ...]
    ticks: tuple[Tick, ...]
    zero: float
    width: float


def forest_of(gains: Sequence[Gain], each: Sequence[Sequence[float]] = ()) -> Forest | None:
    """Draw the gains that have intervals, `each` with its values by seed; None where none has one."""
    values = [*each, *([()] * (len(gains) - len(each)))]
    told = [
        (gain, own)
        for gain, own in zip(gains, values, strict=True)
        if gain.low is not None and gain.high is not None
    ]
    if not told:
        return None
    bounds = [0.0, *(bound for gain, _ in told for bound in (gain.low, gain.high) if bound is not None)]
    bounds += [value for _, own in told for value in own]
    low, high = min(bounds), max(bounds)
    room = (high - low) * 0.08 or 0.001
    low, high = low - room, high + room

    def across(value: float) -> float:
        return round(_PAD + (value - low) / (high - low) * (_WIDTH - 2 * _PAD), 2)

    ticks = [tick for tick in nice_ticks(low, high) if low <= tick <= high]
    return Forest(
        rows=tuple(_whisker(gain, own, across) for gain, own in told),
        ticks=tuple(Tick(across(tick), tick_label(tick, ticks)) for tick in ticks),
        zero=across(0.0),
        width=_WIDTH,
    )


def _whisker(gain: Gain, own: Sequence[float], across: Callable[[float], float]) -> Whisker:
    words = f"{bits(gain.value)} ({bits(gain.low)} to {bits(gain.high)})"
    return Whisker(
        label=control_label(gain.control),
        words=words,
        at=across(gain.value),
        low=None if gain.low is None else across(gain.low),
        high=None if gain.high is None else across(gain.high),
        style=STYLES.get(gain.control.role, 4),
        dots=tuple(across(value) for value in own),
    )
