"""The curves of several runs in one chart, where they were measured on the same held-out text."""

from collections.abc import Sequence

from dusk.report.arms import Arm, base_level, held_out_texts
from dusk.report.chart import Axes, Chart, Level, Line, draw
from dusk.report.compared.runs import OneRun
from dusk.report.plots import BITS_TITLE, by_flops, by_tokens
from dusk.report.wording import bits, count, flops

_STYLES = 7


def recovery_charts(runs: Sequence[OneRun]) -> tuple[Chart, ...]:
    """By tokens and by compute for each held-out text; a line is the scaled model of a run."""
    groups: dict[frozenset[str], list[tuple[OneRun, Arm]]] = {}
    for each in runs:
        arm = each.arms.recovery
        if arm is not None and arm.curve:
            groups.setdefault(held_out_texts(arm), []).append((each, arm))
    charts = [chart for group in groups.values() for chart in _charts(group, alone=len(groups) == 1)]
    return tuple(chart for chart in charts if chart is not None)


def _charts(group: Sequence[tuple[OneRun, Arm]], *, alone: bool) -> list[Chart | None]:
    of = "" if alone else f", {', '.join(each.name for each, _ in group)}"
    styles = [number % _STYLES + 1 for number in range(len(group))]
    names = [f"{arm.final.label} ({each.name})" for each, arm in group]
    tokens = [Line(n, s, by_tokens(arm)) for n, s, (_, arm) in zip(names, styles, group, strict=True)]
    compute = [Line(n, s, by_flops(arm)) for n, s, (_, arm) in zip(names, styles, group, strict=True)]
    levels = _levels(group)
    return [
        draw(f"By tokens{of}", tokens, Axes("tokens since the base", BITS_TITLE, count, bits), levels=levels),
        draw(
            f"By compute{of}",
            compute,
            Axes("training FLOPs since the base", BITS_TITLE, flops, bits),
            levels=levels,
        ),
    ]


def _levels(group: Sequence[tuple[OneRun, Arm]]) -> list[Level]:
    """The bases, untouched: one line where several runs have the same."""
    found: dict[str, tuple[float, list[str]]] = {}
    for each, _ in group:
        level = base_level(each.arms)
        if level is not None and each.arms.base is not None:
            found.setdefault(bits(level), (level, []))[1].append(each.name)
    same = len(found) == 1
    return [
        Level("base, untouched" if same else f"base, untouched ({', '.join(names)})", level)
        for level, names in found.values()
    ]
