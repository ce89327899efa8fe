"""summary.json: the numbers of several seeds for other programs, and for documents that quote them."""

from collections.abc import Mapping
from typing import Any

from dusk.report.arms import Arm
from dusk.report.scores import label_of
from dusk.report.seeds.costs import peak_memory_bytes, total_seconds, total_tokens
from dusk.report.seeds.pooled import Pooled, final_bits, pool
from dusk.report.seeds.runs import Seeds
from dusk.report.seeds.student import Estimate, estimate
from dusk.report.seeds.table import PooledScores, Score, pooled_scores

Json = dict[str, Any]


def summary_of(seeds: Seeds) -> Json:
    """The sentence and every number behind it: mean, deviation and interval, and each seed's own."""
    pooled = pool(seeds)
    return {
        "dusk": seeds.first.run.facts.get("dusk"),
        "name": seeds.first.run.name,
        "seeds": [each.seed for each in seeds.runs],
        "sentence": pooled.sentence,
        "missing": list(seeds.missing),
        "outcomes": {str(seed): outcome.value for seed, outcome in pooled.outcomes.items()},
        "recovered_after_tokens": _told(pooled.tokens, pooled.tokens_by_seed),
        "final_bits_per_byte": {arm.final.name: _final(seeds, arm) for arm in seeds.first.arms.lines},
        "bits_per_byte_saved": _gains(pooled),
        "scores": {scores.stage: _scores(seeds, scores) for scores in pooled_scores(seeds)},
        "cost": {
            "seconds": round(total_seconds(seeds), 3),
            "trained_tokens": total_tokens(seeds),
            "peak_memory_bytes": peak_memory_bytes(seeds),
        },
    }


def _told(over: Estimate | None, by_seed: Mapping[int, float]) -> Json | None:
    if over is None:
        return None
    return {**over.to_json(), "by_seed": {str(seed): value for seed, value in by_seed.items()}}


def _final(seeds: Seeds, like: Arm) -> Json | None:
    by_seed: dict[int, float] = {}
    for each in seeds.runs:
        arm = next((arm for arm in each.arms.lines if arm.final.name == like.final.name), None)
        value = final_bits(arm)
        if value is not None:
            by_seed[each.seed] = value
    return _told(estimate(list(by_seed.values())) if by_seed else None, by_seed)


def _gains(pooled: Pooled) -> Json:
    return {
        gain.control.final.name: {
            "role": gain.control.role,
            "verdict": gain.gain.word,
            **(_told(gain.over, gain.by_seed) or {}),
        }
        for gain in pooled.gains
    }


def _scores(seeds: Seeds, scores: PooledScores) -> Json:
    return {
        "reference": scores.reference,
        "columns": [
            {"label": column.label, "higher_is_better": column.higher_is_better} for column in scores.columns
        ],
        "models": {
            name: {
                "label": label_of(seeds.first.run, name),
                "scores": {label: _score(score) for label, score in cells.items()},
            }
            for name, cells in scores.scores.items()
        },
    }


def _score(score: Score) -> Json:
    found = score.difference
    return {
        **(_told(score.over, score.by_seed) or {}),
        "from_reference": None if found is None else {**found.to_json(), "noise": found.no_difference},
    }
