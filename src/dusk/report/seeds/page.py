"""The page of several seeds: what they say together, with a link to the report of each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from dusk.report.forest import forest_of
from dusk.report.page import Fact, rendered
from dusk.report.provenance import Provenance, provenance_of
from dusk.report.seeds.arms import final_bits
from dusk.report.seeds.arms_table import arms_table
from dusk.report.seeds.costs import costs_of_seeds
from dusk.report.seeds.plots import recovery_charts
from dusk.report.seeds.pooled import Pooled, PooledGain, over_seeds, pool, told_roles
from dusk.report.seeds.runs import SeedRun, Seeds
from dusk.report.seeds.table import pooled_scores, seeds_table
from dusk.report.verdict import WITH_THE_SAME, Outcome
from dusk.report.wording import bits, count


@dataclass(frozen=True)
class SeedRow:
    """One seed: when it passed its base, where it ended, what it saved against each control, its report."""

    name: str
    link: str
    recovered: str
    final: str
    gains: tuple[str, ...]


def render_seeds(seeds: Seeds, target: Path) -> str:
    """The whole page as HTML; links are relative to the file `target`."""
    pooled = pool(seeds)
    roles = told_roles(pooled.gains)
    return rendered(
        "seeds.html.jinja",
        run=seeds.first.run,
        count=len(seeds.runs),
        verdict=pooled,
        facts=_facts(seeds, pooled),
        forest=forest_of(
            [gain.gain for gain in pooled.gains], [list(gain.by_seed.values()) for gain in pooled.gains]
        ),
        missing=[*seeds.missing, *_no_controls(seeds)],
        controls=[WITH_THE_SAME[gain.control.role].removeprefix("the ") for gain in roles],
        rows=[_row(each, roles, target) for each in seeds.runs],
        arms=arms_table(seeds),
        tables=[seeds_table(seeds, scores) for scores in pooled_scores(seeds)],
        charts=recovery_charts(seeds),
        costs=costs_of_seeds(seeds),
        provenance=_provenance(seeds),
    )


def own_report(each: SeedRun) -> Path:
    """Where the report of one seed lies."""
    return each.run.folder / "report.html"


def _facts(seeds: Seeds, pooled: Pooled) -> list[Fact]:
    facts = []
    outcomes = list(pooled.outcomes.values())
    did, tried = outcomes.count(Outcome.RECOVERED), over_seeds(seeds)
    if pooled.tokens is not None:
        after, values = f"{count(pooled.tokens.mean)} tokens", pooled.tokens.values
        course = f"{count(min(values))} to {count(max(values))}" if did > 1 else ""
        if did == len(outcomes):
            facts.append(Fact("Recovered after", after, course or tried))
        else:
            words = f"after {after}{f' on average ({course})' if course else ''}"
            facts.append(Fact("Recovered", f"{did} of {tried}", words))
    elif Outcome.NOT_RECOVERED in outcomes:
        facts.append(Fact("Not recovered", f"{outcomes.count(Outcome.NOT_RECOVERED)} of {tried}", ""))
    facts += [_compared(gain) for gain in told_roles(pooled.gains)]
    return facts


def _compared(pooled: PooledGain) -> Fact:
    gain = pooled.gain
    figure = "no difference" if gain.word == "no different" else f"{bits(abs(gain.value))} {gain.side}"
    better = sum(value > 0 for value in pooled.by_seed.values())
    words = f"{gain.control.final.label}: better in {better} of {len(pooled.by_seed)} seeds"
    return Fact(f"Against the base given {WITH_THE_SAME[gain.control.role]}", figure, words)


def _row(each: SeedRun, roles: Sequence[PooledGain], target: Path) -> SeedRow:
    words = {
        Outcome.RECOVERED: count(each.recovery.tokens),
        Outcome.NEVER_WORSE: "never worse",
        Outcome.NOT_RECOVERED: f"not within {count(each.recovery.trained)}",
        Outcome.UNKNOWN: "not known",
    }
    gains = (gain.by_seed.get(each.seed) for gain in roles)
    return SeedRow(
        name=each.name,
        link=quote(os.path.relpath(own_report(each), target.parent)),
        recovered=words[each.recovery.outcome],
        final=bits(final_bits(each.arms.recovery)),
        gains=tuple(_signed(value) for value in gains),
    )


def _signed(value: float | None) -> str:
    """Bits per byte with their sign, unless they round to zero."""
    if value is None:
        return ""
    return f"+{bits(value)}" if value > 0 and bits(value) != bits(0.0) else bits(value)


def _provenance(seeds: Seeds) -> Provenance:
    """That of the first run, with the seeds of all."""
    found = provenance_of(seeds.first.run)
    numbers = ", ".join(str(each.seed) for each in seeds.runs)
    others = [(name, value) for name, value in found.facts if name != "Seed"]
    return replace(found, facts=(("Seeds", numbers), *others))


def _no_controls(seeds: Seeds) -> list[str]:
    arms = seeds.first.arms
    if arms.scaled is None or arms.controls:
        return []
    return ["The runs have no controls: no other pretraining starts from the base that was grown."]
