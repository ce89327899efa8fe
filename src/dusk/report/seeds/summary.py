"""summary.json: the numbers of several seeds for other programs, and for documents that quote them."""

from collections.abc import Mapping
from typing import Any

from dusk.report.arms import Arm
from dusk.report.plots import arm_label
from dusk.report.scores import label_of
from dusk.report.seeds.arms import PooledArm, final_by_seed, over, pooled_arms
from dusk.report.seeds.costs import peak_memory_bytes, total_seconds, total_tokens
from dusk.report.seeds.pooled import Pooled, pool
from dusk.report.seeds.runs import Seeds
from dusk.report.seeds.student import Estimate
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
        "arms": {found.name: _arm(found) for found in pooled_arms(seeds)},
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
    by_seed = final_by_seed(seeds, like)
    return _told(over(by_seed), by_seed)


def _arm(found: PooledArm) -> Json:
    return {
        "label": arm_label(found.arm),
        "role": found.arm.role,
        "layers": found.arm.final.layers,
        "tokens": found.arm.tokens,
        "flops": found.arm.flops,
        "recovered_after_tokens": _told(over(found.tokens), found.tokens),
        "sooner_tokens": _told(over(found.sooner), found.sooner),
        "final_bits_per_byte": _told(over(found.final), found.final),
        "bits_per_byte_saved": {name: _told(over(by_seed), by_seed) for name, by_seed in found.saved.items()},
        "saved_along_the_way": [
            {"tokens": tokens, **(_told(over(by_seed), by_seed) or {})} for tokens, by_seed in found.along
        ],
    }


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
