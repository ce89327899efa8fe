"""What is plotted: the recovery against tokens and against compute, training losses, the steps of sDPO."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dusk.report.arms import CONTROL, SAME_COMPUTE, SAME_TOKENS, SCALED, Arm, Arms, base_level, other_levels
from dusk.report.chart import Axes, Chart, Level, Line, Moment, Point, Ring, draw
from dusk.report.run_folder import Run, Stage
from dusk.report.verdict import crossing
from dusk.report.wording import bits, count, flops, signed

STYLES = {SCALED: 1, SAME_TOKENS: 2, SAME_COMPUTE: 3}
_ROLE_WORDS = {SAME_TOKENS: "base, same tokens", SAME_COMPUTE: "base, same compute"}
_STYLES_ALL = 7
BITS_TITLE = "held-out bits per byte"


@dataclass(frozen=True)
class Plots:
    """All charts of a report, by what they are about; empty where nothing was measured."""

    recovery: tuple[Chart, ...]
    losses: tuple[Chart, ...]
    alignment: tuple[Chart, ...]


def plots_of(run: Run, arms: Arms) -> Plots:
    """Draw everything that a run has measured along the way."""
    return Plots(_present(_recovery(run, arms)), _present(_losses(run)), _present(_alignment(run)))


def arm_label(arm: Arm) -> str:
    """The stage's name, or the role of a control."""
    return control_label(arm) if arm.role in (*_ROLE_WORDS, CONTROL) else arm.final.label


def control_label(arm: Arm) -> str:
    """What a control is, with its stage's name where that does not say it."""
    words, label = _ROLE_WORDS.get(arm.role, "control"), arm.final.label
    return label if label.lower() == words else f"{words} ({label})"


def _recovery(run: Run, arms: Arms) -> list[Chart | None]:
    styles = arm_styles(arms)
    level = base_level(arms)
    levels = (
        [Level(f"base, untouched ({arms.base.label})", level)]
        if arms.base is not None and level is not None
        else []
    )
    levels += [Level(f"another base ({stage.label})", value) for stage, value in other_levels(run, arms)]
    on_tokens = [Line(arm_label(arm), style, by_tokens(arm)) for arm, style in styles]
    on_flops = [Line(arm_label(arm), style, by_flops(arm)) for arm, style in styles]
    decays = [Moment("decay", at, style) for arm, style in styles if (at := arm.decay_tokens) is not None]
    in_flops = [Moment("decay", at, style) for arm, style in styles if (at := _decay_flops(arm)) is not None]
    tokens = Axes("tokens since the base", BITS_TITLE, count, bits)
    compute = Axes("training FLOPs since the base", BITS_TITLE, flops, bits)
    return [
        draw("By tokens", on_tokens, tokens, levels=levels, moments=decays, rings=_rings(arms, level)),
        draw(
            "By compute",
            on_flops,
            compute,
            levels=levels,
            moments=in_flops,
            rings=_rings(arms, level, compute=True),
        ),
    ]


def _rings(arms: Arms, level: float | None, *, compute: bool = False) -> list[Ring]:
    """Where the scaled model's curve passes the level of its base for good."""
    arm = arms.recovery
    tokens = crossing(arm.curve, level) if arm is not None and level is not None else None
    if arm is None or level is None or not tokens:
        return []
    if not compute:
        return [Ring(f"passed at {count(tokens)}", tokens, level)]
    spent = flops_at(arm, tokens)
    return [] if spent is None else [Ring(f"passed at {flops(spent)}", spent, level)]


def by_tokens(arm: Arm) -> tuple[Point, ...]:
    """The held-out curve of an arm on the axis of tokens."""
    return tuple((point.tokens, point.bits_per_byte) for point in arm.curve)


def by_flops(arm: Arm) -> tuple[Point, ...]:
    """The held-out curve of an arm on the axis of compute; points without it are left out."""
    return tuple((point.flops, point.bits_per_byte) for point in arm.curve if point.flops is not None)


def arm_styles(arms: Arms) -> list[tuple[Arm, int]]:
    """A style for each line of the recovery, fixed for the roles that every report has."""
    styles, spare = [], len(STYLES) + 1
    taken: set[int] = set()
    for arm in arms.lines:
        style = STYLES.get(arm.role, 0)
        if not style or style in taken:
            style, spare = (spare - 1) % _STYLES_ALL + 1, spare + 1
        taken.add(style)
        styles.append((arm, style))
    return styles


def _decay_flops(arm: Arm) -> float | None:
    return None if arm.decay_tokens is None else flops_at(arm, arm.decay_tokens)


def flops_at(arm: Arm, tokens: float) -> float | None:
    """Compute after so many tokens; an arm's stages are all of one model, so it is in proportion."""
    total, compute = arm.tokens, arm.flops
    return tokens * compute / total if total and compute is not None else None


def _losses(run: Run) -> list[Chart | None]:
    titles = {"pretrain": "Pretraining loss", "sft": "Instruction-tuning loss", "align": "Preference loss"}
    return [
        _of_stages(title, [stage for stage in run.stages if stage.kind == kind], "loss", "loss in nats")
        for kind, title in titles.items()
    ]


def _of_stages(title: str, stages: Sequence[Stage], key: str, y_title: str) -> Chart | None:
    lines: list[Line] = []
    for stage in stages:
        points = _points(stage, key)
        if points:
            lines.append(Line(stage.label, len(lines) % _STYLES_ALL + 1, points, marked=False))
    by_tokens = all("tokens" in row for stage in stages for row in stage.metrics.train)
    return draw(title, lines, Axes("tokens" if by_tokens else "step", y_title, count, _three))


def _points(stage: Stage, key: str) -> tuple[Point, ...]:
    rows = stage.metrics.train
    across = "tokens" if key == "loss" and all("tokens" in row for row in rows) else "step"
    return tuple((row[across], row[key]) for row in rows if key in row and across in row)


def _alignment(run: Run) -> list[Chart | None]:
    stages = [stage for stage in run.stages if stage.kind == "align"]
    shown: Mapping[str, tuple[str, str, Callable[[float], str]]] = {
        "rewards/margins": ("Reward margin", "chosen less rejected, nats", _three),
        "rewards/accuracies": ("Reward accuracy", "share of pairs ranked right", _share),
    }
    charts = []
    for key, (title, y_title, y_words) in shown.items():
        lines = [
            Line(stage.label, number % _STYLES_ALL + 1, _points(stage, key), marked=False)
            for number, stage in enumerate(stages)
        ]
        steps = _sdpo_steps(stages)
        moments = [Moment(f"step {part}", at, number % _STYLES_ALL + 1) for number, part, at in steps]
        charts.append(draw(title, lines, Axes("update", y_title, count, y_words), moments=moments))
    return charts


def _sdpo_steps(stages: Sequence[Stage]) -> list[tuple[int, int, float]]:
    """(number of the stage, step of sDPO, first update of it) for every step after a stage's first."""
    found = []
    for number, stage in enumerate(stages):
        rows = [row for row in stage.metrics.train if "sdpo_step" in row]
        for before, row in pairwise(rows):
            if row["sdpo_step"] != before["sdpo_step"]:
                found.append((number, int(row["sdpo_step"]), row["step"]))
    return found


def _present(charts: Sequence[Chart | None]) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart is not None)


def _three(value: float) -> str:
    return signed(f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}")


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"
