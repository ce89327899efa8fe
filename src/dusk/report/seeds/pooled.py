"""Over seeds: when the scaled model passed its base, and how far it ends from each control.

Everything is read off the held-out measurements of the trainings themselves. A difference is taken within
each seed, where both models saw the same data in the same order, and only then averaged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dusk.report.arms import Arm
from dusk.report.seeds.arms import final_bits
from dusk.report.seeds.runs import SeedRun, Seeds
from dusk.report.seeds.student import Estimate, estimate
from dusk.report.verdict import WITH_THE_SAME, Gain, Outcome, against, decay_note, scaled_and_base
from dusk.report.wording import count, listed


@dataclass(frozen=True)
class PooledGain:
    """What the scaled model saves against one control, in bits per byte: by seed, and over all."""

    control: Arm
    by_seed: Mapping[int, float]
    over: Estimate

    @property
    def gain(self) -> Gain:
        """The mean with its interval, for the words and the plot that one run has too."""
        return Gain(self.control, self.over.mean, self.over.low, self.over.high)


@dataclass(frozen=True)
class Pooled:
    """What is said over all seeds; `tokens` are those after which the seeds that recovered had done so."""

    sentence: str
    outcomes: Mapping[int, Outcome]
    tokens_by_seed: Mapping[int, float]
    tokens: Estimate | None
    gains: tuple[PooledGain, ...]
    notes: tuple[str, ...]


def pool(seeds: Seeds) -> Pooled:
    """Compute the sentence and what stands behind it."""
    outcomes = {each.seed: each.recovery.outcome for each in seeds.runs}
    tokens = {
        each.seed: each.recovery.tokens
        for each in seeds.runs
        if each.recovery.outcome is Outcome.RECOVERED and each.recovery.tokens is not None
    }
    over = estimate(list(tokens.values())) if tokens else None
    gains = pooled_gains(seeds)
    if seeds.first.arms.scaled is None:
        sentence = "These runs scale no model, so there is no recovery to report."
    else:
        told = against(seeds.first.arms, [gain.gain for gain in gains])
        sentence = f"{'; '.join([_recovered(seeds, outcomes, over), *told])}."
    return Pooled(sentence, outcomes, tokens, over, gains, tuple(_notes(seeds, gains)))


def pooled_gains(seeds: Seeds) -> tuple[PooledGain, ...]:
    """The differences to each control, over the seeds that have both."""
    gains = []
    for control in seeds.first.arms.controls:
        by_seed = {
            each.seed: difference for each in seeds.runs if (difference := _gain(each, control)) is not None
        }
        if by_seed:
            gains.append(PooledGain(control, by_seed, estimate(list(by_seed.values()))))
    return tuple(gains)


def _gain(each: SeedRun, like: Arm) -> float | None:
    control = next((arm for arm in each.arms.controls if arm.final.name == like.final.name), None)
    ours, theirs = final_bits(each.arms.recovery), final_bits(control)
    return None if ours is None or theirs is None else theirs - ours


def over_seeds(seeds: Seeds) -> str:
    """One seed, or 5 seeds."""
    return "one seed" if len(seeds.runs) == 1 else f"{len(seeds.runs)} seeds"


def _recovered(seeds: Seeds, outcomes: Mapping[int, Outcome], over: Estimate | None) -> str:
    """When it passed its base: one phrase where all seeds agree, else one for each outcome."""
    scaled, base = scaled_and_base(seeds.first.arms)
    counts = {outcome: list(outcomes.values()).count(outcome) for outcome in Outcome}
    counts = {outcome: number for outcome, number in counts.items() if number}
    trained = [each.recovery.trained for each in seeds.runs if each.recovery.trained is not None]
    phrases = {
        Outcome.RECOVERED: f"passed its {base} {_after(over)}",
        Outcome.NEVER_WORSE: f"was never measured worse than its {base}",
        Outcome.NOT_RECOVERED: f"has not recovered within {count(max(trained, default=None))} tokens",
    }
    if set(counts) == {Outcome.UNKNOWN}:
        return f"Whether the {scaled} recovered is not known over {over_seeds(seeds)}"
    if len(counts) == 1:
        return f"Over {over_seeds(seeds)} the {scaled} {phrases[next(iter(counts))]}"
    told = [f"{phrases[outcome]} in {number}" for outcome, number in counts.items() if outcome in phrases]
    if Outcome.UNKNOWN in counts:
        told.append(f"in {counts[Outcome.UNKNOWN]} it is not known")
    return f"Of {over_seeds(seeds)} the {scaled} {listed(told)}"


def _after(over: Estimate | None) -> str:
    if over is None:
        return ""
    if over.low is None:
        return f"after {count(over.mean)} tokens"
    course = f"{count(min(over.values))} to {count(max(over.values))}"
    interval = f"{count(max(0.0, over.low))} to {count(over.high)}"
    return f"after {count(over.mean)} tokens on average ({course}; 95 % interval {interval})"


def _notes(seeds: Seeds, gains: tuple[PooledGain, ...]) -> list[str]:
    notes = []
    in_decay = [each.name for each in seeds.runs if each.recovery.in_decay]
    if in_decay:
        notes.append(decay_note(f"In {listed(in_decay)} it"))
    for gain in gains:
        if len(gain.by_seed) < len(seeds.runs):
            told = f"{len(gain.by_seed)} of {over_seeds(seeds)}"
            notes.append(f"The difference to {gain.control.final.label} is over {told}.")
    if any(gain.over.low is not None for gain in gains):
        notes.append(
            "The intervals are Student's t over the seeds, each of which orders the training data anew; "
            "differences are taken within a seed. All seeds grow one and the same base and are measured on "
            "the same held-out text: what another base or other text would change is not in the intervals."
        )
    elif gains:
        notes.append("One seed has no interval: what another would change is not known.")
    return notes


def told_roles(gains: tuple[PooledGain, ...]) -> list[PooledGain]:
    """The gains that the sentence speaks of, in its order."""
    by_role = {gain.control.role: gain for gain in reversed(gains)}
    return [by_role[role] for role in WITH_THE_SAME if role in by_role]
