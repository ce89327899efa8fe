"""The report's leading sentence: whether the scaled model recovered, and whether it beats its controls.

Computed in every case and never better than what was measured: a difference without an interval is called
that, and a difference whose interval holds zero is called no difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from dusk.report.arms import SAME_COMPUTE, SAME_TOKENS, Arm, Arms, CurvePoint, base_level
from dusk.report.evaluations import Evaluation
from dusk.report.run_folder import Stage
from dusk.report.wording import bits, count

WITH_THE_SAME = {SAME_TOKENS: "the same tokens", SAME_COMPUTE: "the same compute"}


class Outcome(Enum):
    """What can be said of a recovery."""

    RECOVERED = "recovered"
    NEVER_WORSE = "never worse"
    NOT_RECOVERED = "not recovered"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Recovery:
    """When the scaled model's held-out loss passed its base's for good; `trained` are all its tokens."""

    outcome: Outcome
    tokens: float | None = None
    trained: float | None = None
    level: float | None = None
    start: float | None = None
    end: float | None = None
    in_decay: bool = False


@dataclass(frozen=True)
class Gain:
    """How many bits per byte fewer the scaled model needs than a control; below zero it needs more."""

    control: Arm
    value: float
    low: float | None = None
    high: float | None = None
    items: int = 0

    @property
    def side(self) -> str:
        """On which side of zero the measured difference lies."""
        return "better" if self.value > 0 else "worse"

    @property
    def amount(self) -> str:
        """The difference in words; it has no side where it rounds to zero."""
        words = f"{bits(abs(self.value))} bits per byte"
        return words if bits(self.value) == bits(0.0) else f"{words} {self.side}"

    @property
    def word(self) -> str:
        """better, worse, no different, or unknown where there is no interval."""
        if self.low is None or self.high is None:
            return "unknown"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no different"


@dataclass(frozen=True)
class Verdict:
    """The sentence, what it was made of, and what could not be said."""

    sentence: str
    recovery: Recovery
    gains: tuple[Gain, ...]
    notes: tuple[str, ...]


def crossing(curve: Sequence[CurvePoint], level: float) -> float | None:
    """The tokens after which a curve stays at or under a level, linear between measurements, or None.

    A curve that dips under and comes back has not crossed; one that never lay above crosses at its first point.
    """
    above = [index for index, point in enumerate(curve) if point.bits_per_byte > level]
    if not curve or (above and above[-1] == len(curve) - 1):
        return None
    if not above:
        return curve[0].tokens
    before, after = curve[above[-1]], curve[above[-1] + 1]
    share = (before.bits_per_byte - level) / (before.bits_per_byte - after.bits_per_byte)
    return before.tokens + share * (after.tokens - before.tokens)


def recovery_of(arms: Arms) -> Recovery:
    """Compare the scaled model's curve with the level of the base that it was grown from."""
    level, arm = base_level(arms), arms.recovery
    curve = arm.curve if arm else ()
    if arm is None or level is None or not curve:
        return Recovery(Outcome.UNKNOWN, level=level)
    tokens = crossing(curve, level)
    trained = arm.tokens if arm.tokens is not None else curve[-1].tokens
    decay, outcome = arm.decay_tokens, Outcome.RECOVERED
    if tokens is None:
        outcome = Outcome.NOT_RECOVERED
    elif all(point.bits_per_byte <= level for point in curve):
        outcome = Outcome.NEVER_WORSE
    return Recovery(
        outcome=outcome,
        tokens=tokens,
        trained=trained,
        level=level,
        start=curve[0].bits_per_byte,
        end=curve[-1].bits_per_byte,
        in_decay=outcome is Outcome.RECOVERED and decay is not None and tokens is not None and tokens > decay,
    )


def gains_of(arms: Arms, evaluations: Sequence[Evaluation]) -> tuple[Gain, ...]:
    """The scaled model against each control: over held-out items, else the last points of the curves."""
    found = (_gain(arms.recovery, control, evaluations) for control in arms.controls if arms.recovery)
    return tuple(gain for gain in found if gain is not None)


def _gain(recovery: Arm, control: Arm, evaluations: Sequence[Evaluation]) -> Gain | None:
    first, second = recovery.final.name, control.final.name
    for evaluation in evaluations:
        column = evaluation.held_out
        ours, theirs = evaluation.model(first), evaluation.model(second)
        if column is None or ours is None or theirs is None:
            continue
        found = evaluation.difference(first, second, column)
        if found is not None:
            return Gain(control, found.difference, found.low, found.high, found.n)
        if column.label in ours.cells and column.label in theirs.cells:
            return Gain(control, theirs.cells[column.label].value - ours.cells[column.label].value)
    if recovery.curve and control.curve and recovery.final.done and control.final.done:
        return Gain(control, control.curve[-1].bits_per_byte - recovery.curve[-1].bits_per_byte)
    return None


def verdict_of(arms: Arms, evaluations: Sequence[Evaluation]) -> Verdict:
    """The leading sentence, with what stands behind it."""
    if arms.scaled is None:
        none = Recovery(Outcome.UNKNOWN)
        return Verdict("This run scales no model, so there is no recovery to report.", none, (), ())
    recovery, gains = recovery_of(arms), gains_of(arms, evaluations)
    parts = [_recovered(arms, recovery), *against(arms, gains)]
    sentence = f"{'; '.join(parts)}."
    return Verdict(sentence, recovery, gains, tuple(_notes(arms, recovery, gains)))


def _recovered(arms: Arms, recovery: Recovery) -> str:
    scaled, base = scaled_and_base(arms)
    match recovery.outcome:
        case Outcome.RECOVERED:
            return f"The {scaled} passed its {base} after {count(recovery.tokens)} tokens"
        case Outcome.NEVER_WORSE:
            return f"The {scaled} was never measured worse than its {base}"
        case Outcome.NOT_RECOVERED:
            within = f"within {count(recovery.trained)} tokens"
            return f"The {scaled} has not recovered {within}: its {base} is still better"
    if arms.recovery is None:
        return f"The {scaled} was not trained after it was scaled, so there is no recovery to report"
    if not arms.recovery.curve:
        return f"Whether the {scaled} recovered is not known: its held-out loss was not measured"
    return f"Whether the {scaled} recovered is not known: the held-out loss of its {base} was not measured"


def against(arms: Arms, gains: Sequence[Gain]) -> list[str]:
    """The part of the sentence about each control, and which comparison is missing."""
    if arms.recovery is None:
        return []
    told = {gain.control.role: gain for gain in reversed(gains)}
    known = [
        f"against the base given {same} {_in_words(told[role])}"
        for role, same in WITH_THE_SAME.items()
        if role in told
    ]
    missing = [same for role, same in WITH_THE_SAME.items() if role not in told]
    if missing:
        known.append(f"it was not compared with the base given {' or '.join(missing)}")
    return known


def _in_words(gain: Gain) -> str:
    if gain.low is None or gain.high is None:
        return f"it measures {gain.amount}, with no interval to say whether that is noise"
    if gain.word == "no different":
        interval = f"{bits(gain.low)} to {bits(gain.high)}"
        return f"there is no difference within the noise ({gain.amount}; 95 % interval {interval})"
    low, high = sorted((abs(gain.low), abs(gain.high)))
    size = f"{bits(abs(gain.value))} bits per byte"
    return f"it is {gain.word} by {size} (95 % interval {bits(low)} to {bits(high)})"


def _notes(arms: Arms, recovery: Recovery, gains: Sequence[Gain]) -> list[str]:
    notes = []
    if recovery.in_decay:
        notes.append(decay_note("It"))
    if any(gain.low is not None for gain in gains):
        items = max(gain.items for gain in gains)
        notes.append(
            f"The intervals are a paired bootstrap over {items} held-out items of one training run each. "
            "They do not hold what another seed of the training would change."
        )
    return notes


def decay_note(who: str) -> str:
    """What is to be known of a recovery that came with the decay of the learning rate."""
    return (
        f"{who} passed its base while its own learning rate decayed, which lowers the loss by itself; "
        "the controls decay too, so the comparison with them is the fairer one."
    )


def scaled_and_base(arms: Arms) -> tuple[str, str]:
    """What the sentence calls the scaled model and its base."""
    return _named(arms.scaled, "scaled model"), _named(arms.base, "base")


def _named(stage: Stage | None, what: str) -> str:
    return f"{stage.layers}-layer {what}" if stage is not None and stage.layers else what
