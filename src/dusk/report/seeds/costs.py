"""What all seeds cost together; a stage that one seed took from another is counted once."""

from dusk.report.arms import stage_tokens
from dusk.report.costs import Cost, Costs
from dusk.report.run_folder import Stage
from dusk.report.seeds.runs import Seeds
from dusk.report.wording import count, duration, memory


def costs_of_seeds(seeds: Seeds) -> Costs:
    """Seconds and tokens added up over the seeds, the highest peak of memory, the mean rate."""
    names = dict.fromkeys(
        stage.name for each in seeds.runs for stage in each.run.stages if stage.kind != "base"
    )
    made = {name: [stage for stage in _of(seeds, name) if not stage.taken_from] for name in names}
    total = sum(_seconds(stages) for stages in made.values())
    tokens = sum(_tokens(stages) for stages in made.values())
    return Costs(
        stages=tuple(_cost(name, _of(seeds, name), stages, total) for name, stages in made.items()),
        seconds=duration(total) if total else "",
        tokens=count(tokens) if tokens else "",
        memory=memory(max((peak for stages in made.values() for peak in _peaks(stages)), default=None)),
        wall="",
    )


def total_seconds(seeds: Seeds) -> float:
    """The seconds of every stage of every seed, added up."""
    return sum(
        stage.seconds or 0.0
        for each in seeds.runs
        for stage in each.run.stages
        if stage.kind != "base" and not stage.taken_from
    )


def total_tokens(seeds: Seeds) -> float:
    """The tokens that all seeds trained on."""
    return sum(_tokens([stage for stage in each.run.stages if stage.kind != "base"]) for each in seeds.runs)


def peak_memory_bytes(seeds: Seeds) -> float | None:
    """The most memory that one stage had."""
    return max((peak for each in seeds.runs for peak in _peaks(each.run.stages)), default=None)


def _cost(name: str, every: list[Stage], made: list[Stage], total: float) -> Cost:
    rates = [rate for stage in made if (rate := stage.number("tokens_per_second")) is not None]
    tokens = _tokens(made)
    return Cost(
        label=every[0].label if every else name,
        kind=every[0].kind,
        status="done" if all(stage.done for stage in every) else "not in every seed",
        seconds=duration(_seconds(made)) if made else "",
        tokens=count(tokens) if tokens else "",
        rate=count(sum(rates) / len(rates)) if rates else "",
        memory=memory(max(_peaks(made), default=None)),
        share=_seconds(made) / total if total else 0.0,
    )


def _of(seeds: Seeds, name: str) -> list[Stage]:
    found = (each.run.stage(name) for each in seeds.runs)
    return [stage for stage in found if stage is not None]


def _seconds(stages: list[Stage]) -> float:
    return sum(stage.seconds or 0.0 for stage in stages)


def _tokens(stages: list[Stage]) -> float:
    return sum(stage_tokens(stage) or 0.0 for stage in stages)


def _peaks(stages: list[Stage] | tuple[Stage, ...]) -> list[float]:
    return [peak for stage in stages if (peak := stage.number("peak_memory_bytes")) is not None]
