"""Which stage is which: the scaled model, the base it was grown from, and the controls beside it.

Read off the graph of stages. The first `scale` stage S is the scaled model; the pretraining that starts from S is
its recovery; every other pretraining that starts from S's own base is a control. A control has the role that its
settings name, else the one that its tokens or its compute show. What else is pretrained from scaled models
of that base are other grown arms; what is pretrained from scratch is an arm without a base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dusk.report.metrics import HeldOut
from dusk.report.reading import finite, mapping
from dusk.report.run_folder import Run, Stage

SAME_TOKENS, SAME_COMPUTE, CONTROL, SCALED = "same-tokens", "same-compute", "control", "scaled"
GROWN, FROM_SCRATCH = "grown", "from-scratch"
FLOPS_PER_PARAMETER_TOKEN = 6  # forward and backward: Kaplan et al. 2020, section 2.1
EQUAL = 0.03  # tokens or compute that differ by less count as the same


@dataclass(frozen=True)
class CurvePoint:
    """One held-out measurement on an arm's own axes: tokens and compute since the base."""

    tokens: float
    flops: float | None
    bits_per_byte: float


@dataclass(frozen=True)
class Arm:
    """One line of pretraining from one start: a stage, or stages that continue each other."""

    role: str
    chain: tuple[Stage, ...]

    @property
    def final(self) -> Stage:
        """The stage whose model the arm ends with."""
        return self.chain[-1]

    @property
    def tokens(self) -> float | None:
        """Tokens of all its stages; None where one does not say."""
        return _sum([stage_tokens(stage) for stage in self.chain])

    @property
    def flops(self) -> float | None:
        """Compute of all its stages; None where one does not say."""
        return _sum([stage_flops(stage) for stage in self.chain])

    @property
    def curve(self) -> tuple[CurvePoint, ...]:
        """Every held-out measurement, on axes that run on from stage to stage."""
        points: list[CurvePoint] = []
        tokens, flops = 0.0, 0.0
        for stage in self.chain:
            rate = flops_per_token(stage)
            points += [_point(row, tokens, flops, rate) for row in stage.metrics.held_out]
            tokens += stage_tokens(stage) or 0
            flops += stage_flops(stage) or 0
        return tuple(points)

    @property
    def decay_tokens(self) -> float | None:
        """Where the learning rate leaves its plateau; None without one."""
        tokens, found = 0.0, None
        for stage in self.chain:
            start = stage.metrics.decay_tokens()
            found = tokens + start if start is not None else found
            tokens += stage_tokens(stage) or 0
        return found


@dataclass(frozen=True)
class Arms:
    """What the verdict and the recovery curve speak of; None for what the run does not have."""

    base: Stage | None = None
    scaled: Stage | None = None
    recovery: Arm | None = None
    controls: tuple[Arm, ...] = ()
    grown: tuple[Arm, ...] = ()
    from_scratch: tuple[Arm, ...] = ()

    def control(self, role: str) -> Arm | None:
        """The first control of that role."""
        return next((arm for arm in self.controls if arm.role == role), None)

    @property
    def lines(self) -> tuple[Arm, ...]:
        """The recovery, the controls and the other grown arms: the lines of the plot."""
        return (*((self.recovery,) if self.recovery else ()), *self.controls, *self.grown)

    @property
    def every(self) -> tuple[Arm, ...]:
        """All arms: the grown ones, the controls, and what began without a base."""
        recovery = (self.recovery,) if self.recovery else ()
        return (*recovery, *self.grown, *self.controls, *self.from_scratch)


def find_arms(run: Run) -> Arms:
    """The first scaled model of the run, its base, its recovery, its controls, and the arms beside it."""
    grown = [stage for stage in run.stages if stage.kind == "scale"]
    if not grown:
        return Arms()
    scaled = grown[0]
    base = run.stage(scaled.parents[0]) if scaled.parents else None
    trained = [stage for stage in run.stages if stage.kind == "pretrain"]
    starts = [stage for stage in trained if stage.parents and not stage.settings.get("from_scratch")]
    first = next((stage for stage in starts if stage.parents[0] == scaled.name), None)
    recovery = Arm(SCALED, _chain(first, starts)) if first else None
    controls = [
        _control(_chain(stage, starts), recovery)
        for stage in starts
        if base is not None and stage.parents[0] == base.name
    ]
    siblings = {stage.name for stage in grown if stage.parents == scaled.parents}
    others = [
        Arm(GROWN, _chain(stage, starts))
        for stage in starts
        if stage is not first and stage.parents[0] in siblings
    ]
    scratch = [
        Arm(FROM_SCRATCH, _chain(stage, starts)) for stage in trained if stage.settings.get("from_scratch")
    ]
    return Arms(base, scaled, recovery, tuple(controls), tuple(others), tuple(scratch))


def base_level(arms: Arms) -> float | None:
    """Held-out bits per byte of the base that was grown, on the set of the curves; None if not measured.

    A control measures it before its first step; else the base itself may have been measured.
    """
    starts = [arm.curve[0] for arm in arms.controls if arm.curve]
    measured = next((point.bits_per_byte for point in starts if point.tokens == 0), None)
    return measured if measured is not None or arms.base is None else held_out_of(arms.base, arms)


def other_levels(run: Run, arms: Arms) -> list[tuple[Stage, float]]:
    """The run's other bases (the decayed form of the one grown) that were measured on the same set."""
    bases = [stage for stage in run.stages if stage.kind == "base" and stage is not arms.base]
    levels = [(stage, held_out_of(stage, arms)) for stage in bases]
    return [(stage, level) for stage, level in levels if level is not None]


def held_out_of(base: Stage, arms: Arms) -> float | None:
    """A base's bits per byte: as its stage measured it, or as its own training did on the very same texts."""
    told = base.number("bits_per_byte")
    if told is not None or arms.recovery is None:
        return told
    texts = _held_out_digests(arms.recovery.chain[0])
    if not texts or not texts <= _digests(base):
        return None
    return finite(mapping(mapping(base.manifest.get("results")).get("heldout")).get("bits_per_byte"))


def stage_tokens(stage: Stage) -> float | None:
    """Tokens that a stage trained on: as reported, else as its last metrics row says."""
    told = stage.number("tokens")
    rows = [row["tokens"] for row in stage.metrics.train if "tokens" in row]
    return told if told is not None else max(rows, default=None)


def flops_per_token(stage: Stage) -> float | None:
    """As measured; else six for every parameter that is multiplied by (an embedding is only looked up)."""
    flops, tokens = stage.number("flops"), stage_tokens(stage)
    if flops and tokens:
        return flops / tokens
    if stage.parameters is None:
        return None
    return float(FLOPS_PER_PARAMETER_TOKEN * (stage.parameters - stage.looked_up))


def stage_flops(stage: Stage) -> float | None:
    """The compute of a whole stage."""
    tokens, rate = stage_tokens(stage), flops_per_token(stage)
    return None if tokens is None or rate is None else tokens * rate


def _sum(counts: Sequence[float | None]) -> float | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _point(row: HeldOut, tokens: float, flops: float, rate: float | None) -> CurvePoint:
    compute = None if rate is None else flops + row.tokens * rate
    return CurvePoint(tokens + row.tokens, compute, row.bits_per_byte)


def _chain(first: Stage, starts: Sequence[Stage]) -> tuple[Stage, ...]:
    chain = [first]
    while True:
        following = next((s for s in starts if s.parents[0] == chain[-1].name and s not in chain), None)
        if following is None:
            return tuple(chain)
        chain.append(following)


def _control(chain: tuple[Stage, ...], recovery: Arm | None) -> Arm:
    arm = Arm(CONTROL, chain)
    told = next((role for stage in reversed(chain) if (role := _named_role(stage))), None)
    if told is not None:
        return Arm(told, chain)
    if recovery and _equal(arm.tokens, recovery.tokens):
        return Arm(SAME_TOKENS, chain)
    if recovery and _equal(arm.flops, recovery.flops):
        return Arm(SAME_COMPUTE, chain)
    return arm


def _named_role(stage: Stage) -> str | None:
    """The role in the settings (`role: same-tokens`), else in the stage's name (`base_same_tokens`)."""
    told = str(stage.settings.get("role") or stage.name).replace("_", "-").lower()
    return next((role for role in (SAME_TOKENS, SAME_COMPUTE) if role in told), None)


def _equal(one: float | None, other: float | None) -> bool:
    return bool(one and other and abs(one - other) <= EQUAL * other)


def held_out_texts(arm: Arm) -> frozenset[str]:
    """What tells the held-out text of a curve: digests of its files, or their names where there are none."""
    stage = arm.chain[0]
    names = (Path(str(file)).name for file in stage.settings.get("eval_data") or ())
    return frozenset(_held_out_digests(stage) or names)


def _held_out_digests(stage: Stage) -> set[str]:
    names = {Path(str(file)).name for file in stage.settings.get("eval_data") or ()}
    inputs = [mapping(row) for row in stage.manifest.get("inputs") or ()]
    return {str(row.get("digest")) for row in inputs if row.get("name") in names}


def _digests(stage: Stage) -> set[str]:
    return {str(mapping(row).get("digest")) for row in stage.manifest.get("inputs") or ()}
