"""What each stage cost, and the share of the whole."""

from dataclasses import dataclass

from dusk.report.arms import stage_tokens
from dusk.report.reading import finite
from dusk.report.run_folder import Run, Stage
from dusk.report.wording import count, duration, memory


@dataclass(frozen=True)
class Cost:
    """One stage; numbers as words, empty where not measured. `share` of the seconds of all stages, 0 to 1."""

    label: str
    kind: str
    status: str
    seconds: str
    tokens: str
    rate: str
    memory: str
    share: float
    taken_from: str = ""


@dataclass(frozen=True)
class Costs:
    """All stages and their sums; `wall` is how long the run took, stages side by side."""

    stages: tuple[Cost, ...]
    seconds: str
    tokens: str
    memory: str
    wall: str


def costs_of(run: Run) -> Costs:
    """Add a run's costs up."""
    stages = [stage for stage in run.stages if stage.kind != "base" or stage.seconds]
    total = sum(stage.seconds or 0 for stage in stages)
    peaks = [peak for stage in stages if (peak := stage.number("peak_memory_bytes")) is not None]
    tokens = [made for stage in stages if (made := _trained(stage)) is not None]
    return Costs(
        stages=tuple(_cost(stage, total) for stage in stages),
        seconds=duration(total) if total else "",
        tokens=count(sum(tokens)) if tokens else "",
        memory=memory(max(peaks, default=None)),
        wall=duration(finite(run.facts.get("seconds"))),
    )


def _cost(stage: Stage, total: float) -> Cost:
    return Cost(
        label=stage.label,
        kind=stage.kind,
        status=stage.status,
        seconds=duration(stage.seconds),
        tokens=count(_trained(stage)),
        rate=count(stage.number("tokens_per_second")),
        memory=memory(stage.number("peak_memory_bytes")),
        share=(stage.seconds or 0) / total if total else 0.0,
        taken_from=stage.taken_from,
    )


def _trained(stage: Stage) -> float | None:
    return None if stage.kind == "base" else stage_tokens(stage)
