"""The recovery curves of all seeds: a thin line each, and their mean."""

from collections.abc import Callable, Sequence

from dusk.report.arms import GROWN, Arm, CurvePoint, base_level, other_levels
from dusk.report.chart import Axes, Chart, Level, Line, Moment, Ring, draw
from dusk.report.plots import BITS_TITLE, arm_label, arm_styles, flops_at
from dusk.report.seeds.runs import SeedRun, Seeds
from dusk.report.seeds.student import estimate
from dusk.report.verdict import Outcome, crossing
from dusk.report.wording import bits, count, flops

_APART = 0.02  # measurements of two seeds are at one place where their tokens differ by less of the whole

Across = Callable[[CurvePoint], float | None]


def recovery_charts(seeds: Seeds) -> tuple[Chart, ...]:
    """By tokens and by compute; nothing where no seed measured held-out loss on the way."""
    tokens = Axes("tokens since the base", BITS_TITLE, count, bits)
    compute = Axes("training FLOPs since the base", BITS_TITLE, flops, bits)
    charts = [_chart("By tokens", seeds, tokens, _tokens), _chart("By compute", seeds, compute, _flops)]
    return tuple(chart for chart in charts if chart is not None)


def mean_curve(curves: Sequence[Sequence[CurvePoint]]) -> tuple[CurvePoint, ...]:
    """The mean of curves measured at the same places; it ends where one was measured elsewhere."""
    points: list[CurvePoint] = []
    whole = max((curve[-1].tokens for curve in curves if curve), default=0.0)
    for at in zip(*curves, strict=False):
        tokens = [point.tokens for point in at]
        if max(tokens) - min(tokens) > _APART * whole:
            break
        spent = [point.flops for point in at if point.flops is not None]
        points.append(
            CurvePoint(
                _mean(tokens),
                _mean(spent) if len(spent) == len(at) else None,
                _mean([point.bits_per_byte for point in at]),
            )
        )
    return tuple(points)


def _chart(title: str, seeds: Seeds, axes: Axes, across: Across) -> Chart | None:
    thin: list[Line] = []
    means: list[Line] = []
    moments: list[Moment] = []
    by_compute = across is _flops
    for arm, style in arm_styles(seeds.first.arms):
        ours = [(each, found) for each in seeds.runs if (found := _same(each, arm)) is not None]
        if arm.role != GROWN:  # of more arms than these, thin lines hide each other
            thin += [
                Line(f"{arm_label(arm)}, {each.name}", style, _points(found.curve, across), faint=True)
                for each, found in ours
            ]
        mean = mean_curve([found.curve for _, found in ours if found.final.done])
        means.append(Line(arm_label(arm), style, _points(mean, across)))
        decay = arm.decay_tokens if not by_compute or arm.decay_tokens is None else _decay_flops(arm)
        moments += [Moment("decay", decay, style)] if decay is not None else []
    return draw(
        title,
        [*thin, *means],
        axes,
        levels=_levels(seeds),
        moments=moments,
        rings=_rings(seeds, by_compute=by_compute),
    )


def _same(each: SeedRun, like: Arm) -> Arm | None:
    return next((arm for arm in each.arms.lines if arm.final.name == like.final.name), None)


def _levels(seeds: Seeds) -> list[Level]:
    base = seeds.first.arms.base
    found = [level for each in seeds.runs if (level := base_level(each.arms)) is not None]
    levels = [Level(f"base, untouched ({base.label})", _mean(found))] if base is not None and found else []
    others = other_levels(seeds.first.run, seeds.first.arms)
    return levels + [Level(f"another base ({stage.label})", level) for stage, level in others]


def _rings(seeds: Seeds, *, by_compute: bool) -> list[Ring]:
    """Where the mean of the scaled model's curves passes its base's level, if every seed's does."""
    arms = [each.arms.recovery for each in seeds.runs if each.arms.recovery]
    done = [arm for arm in arms if arm.final.done and arm.curve]
    levels = [level for each in seeds.runs if (level := base_level(each.arms)) is not None]
    recovered = all(each.recovery.outcome is Outcome.RECOVERED for each in seeds.runs)
    if not recovered or not levels:
        return []
    level = _mean(levels)
    tokens = crossing(mean_curve([arm.curve for arm in done]), level)
    if not tokens:
        return []
    if not by_compute:
        return [Ring(f"mean passes at {count(tokens)}", tokens, level)]
    spent = flops_at(done[0], tokens)
    return [] if spent is None else [Ring(f"mean passes at {flops(spent)}", spent, level)]


def _decay_flops(arm: Arm) -> float | None:
    return None if arm.decay_tokens is None else flops_at(arm, arm.decay_tokens)


def _points(curve: Sequence[CurvePoint], across: Across) -> tuple[tuple[float, float], ...]:
    return tuple((x, point.bits_per_byte) for point in curve if (x := across(point)) is not None)


def _tokens(point: CurvePoint) -> float | None:
    return point.tokens


def _flops(point: CurvePoint) -> float | None:
    return point.flops


def _mean(values: Sequence[float]) -> float:
    return estimate(values).mean
