"""Every arm over the seeds: when a grown one passed its base, where each ends, what it saves against the others.

Two arms are compared within each seed, where both saw the same data in the same order, and only then averaged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dusk.report.arms import GROWN, SAME_COMPUTE, SAME_TOKENS, SCALED, Arm
from dusk.report.seeds.runs import SeedRun, Seeds
from dusk.report.seeds.student import Estimate, estimate
from dusk.report.verdict import recovery_of

_APART = 0.02  # two arms are measured at one place where their tokens differ by less of the whole


@dataclass(frozen=True)
class PooledArm:
    """One arm: seeds in which it ended, its last bits per byte, and (of a grown one) tokens to pass its base.

    `tokens` has the seeds in which it passed. `sooner` are the tokens by which it passed before the first grown
    arm, in the seeds in which both did; `saved` the bits per byte that it needs less than each arm it is held
    against, by that arm's stage. `along` (of a grown arm) is what it saves against the base given the same tokens
    at each place where both were measured: tokens, and the difference by seed.
    """

    arm: Arm
    final: Mapping[int, float]
    tokens: Mapping[int, float]
    sooner: Mapping[int, float]
    saved: Mapping[str, Mapping[int, float]]
    along: tuple[tuple[float, Mapping[int, float]], ...] = ()

    @property
    def name(self) -> str:
        """The stage that it ends with."""
        return self.arm.final.name

    @property
    def grown(self) -> bool:
        """Whether it starts from a scaled model."""
        return self.arm.role in (SCALED, GROWN)


def pooled_arms(seeds: Seeds) -> tuple[PooledArm, ...]:
    """All arms of the recipe, each held against the first grown one, a control of each role, and from scratch."""
    arms = seeds.first.arms.every
    finals = {arm.final.name: final_by_seed(seeds, arm) for arm in arms}
    tokens = {arm.final.name: _tokens(seeds, arm) for arm in arms if arm.role in (SCALED, GROWN)}
    against = [arm.final.name for arm in held_against(seeds)]
    first = against[0] if against else ""
    return tuple(
        PooledArm(
            arm,
            finals[name],
            tokens.get(name, {}),
            _less(tokens.get(name, {}), tokens.get(first, {})) if name != first else {},
            {other: _less(finals[name], finals[other]) for other in against if other != name},
            _along(seeds, arm) if name in tokens else (),
        )
        for arm in arms
        for name in [arm.final.name]
    )


def held_against(seeds: Seeds) -> list[Arm]:
    """The arms that all others are held against."""
    arms = seeds.first.arms
    controls = [arms.control(role) for role in (SAME_TOKENS, SAME_COMPUTE)]
    return [arm for arm in (arms.recovery, *controls, *arms.from_scratch[:1]) if arm is not None]


def final_by_seed(seeds: Seeds, like: Arm) -> dict[int, float]:
    """Held-out bits per byte at the end of an arm, by the seeds in which it ended."""
    found = {each.seed: final_bits(_same(each, like)) for each in seeds.runs}
    return {seed: value for seed, value in found.items() if value is not None}


def final_bits(arm: Arm | None) -> float | None:
    """Held-out bits per byte at the end of an arm whose training is done."""
    return arm.curve[-1].bits_per_byte if arm and arm.final.done and arm.curve else None


def over(by_seed: Mapping[int, float]) -> Estimate | None:
    """The estimate over the seeds; None where there is none."""
    return estimate(list(by_seed.values())) if by_seed else None


def _tokens(seeds: Seeds, like: Arm) -> dict[int, float]:
    """Tokens after which an arm had passed its base, by seed; 0 where it was never worse."""
    found: dict[int, float] = {}
    for each in seeds.runs:
        arm = _same(each, like)
        if arm is not None and arm.final.done:
            tokens = recovery_of(replace(each.arms, recovery=arm)).tokens
            found |= {} if tokens is None else {each.seed: tokens}
    return found


def _along(seeds: Seeds, like: Arm) -> tuple[tuple[float, Mapping[int, float]], ...]:
    """By place of measurement what an arm saves against the control of the same tokens, in each seed."""
    control = seeds.first.arms.control(SAME_TOKENS)
    places: dict[int, dict[int, tuple[float, float]]] = {}
    for each in seeds.runs if control is not None else ():
        ours, theirs = _same(each, like), _same(each, control) if control else None
        if ours is None or theirs is None or not (ours.final.done and theirs.final.done):
            continue
        for place, (mine, other) in enumerate(zip(ours.curve, theirs.curve, strict=False)):
            if abs(mine.tokens - other.tokens) > _APART * theirs.curve[-1].tokens:
                break
            saved = other.bits_per_byte - mine.bits_per_byte
            places.setdefault(place, {})[each.seed] = (mine.tokens, saved)
    return tuple(
        (sum(tokens for tokens, _ in at.values()) / len(at), {seed: saved for seed, (_, saved) in at.items()})
        for at in places.values()
    )


def _same(each: SeedRun, like: Arm) -> Arm | None:
    return next((arm for arm in each.arms.every if arm.final.name == like.final.name), None)


def _less(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    """By how much our value is the smaller one, in the seeds that have both."""
    return {seed: theirs[seed] - value for seed, value in ours.items() if seed in theirs}
