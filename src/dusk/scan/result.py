"""What a scan writes down: plain values, and a recommendation in words with its certainty."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dusk.checkpoint import Checkpoint
from dusk.layers import LayerMap
from dusk.scale.choice import target_parameters
from dusk.scan.candidates import Candidate
from dusk.scan.comparison import Comparison
from dusk.scan.similarity import Similarity

_SURE = 0.95
_PLACES = 5


def told(base: Checkpoint, found: Comparison, probes: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """Everything that was found out, as plain values."""
    target = found.maps[0].layer_map
    return {
        "base": {"name": base.name, "layers": base.layout.layers, "parameters": base.parameters},
        "target": {"layers": len(target), "parameters": target_parameters(base, target)},
        "maps": told_maps(found),
        "recommendation": recommend(found, probes),
        "probes": probes,
        "sizes": [
            size | {"parameters": target_parameters(base, layer_map)} for layer_map, size in told_sizes(found)
        ],
        "depths": told_depths(found.alike),
        "cost": told_cost(found),
    }


def told_maps(found: Comparison) -> list[dict[str, Any]]:
    """Every map; the measured ones first, the least loss first, then the others by their drift.

    `damage` is the loss above the base's before any training, in nats a token; `best` the share of resamples
    of the text in which no other measured map has a lower loss.
    """
    ranked = [_measured(found, row) for row in found.ranking.order]
    rest = [candidate for candidate in found.maps if candidate not in found.measured]
    rest.sort(key=lambda candidate: found.drift[candidate.layer_map])
    return [*ranked, *(_screened(found, candidate) for candidate in rest)]


def _screened(found: Comparison, candidate: Candidate) -> dict[str, Any]:
    layer_map = candidate.layer_map
    return {
        "spec": candidate.spec,
        "family": candidate.family,
        "papers": candidate.papers,
        "seams": [[seam.before, seam.after] for seam in layer_map.seams],
        "drift": _rounded(found.drift[layer_map]),
        "seam_angle": _rounded(found.alike.seam_angle(layer_map)),
    }


def _measured(found: Comparison, row: int) -> dict[str, Any]:
    candidate, ranking = found.measured[row], found.ranking
    nats = found.nats[candidate.layer_map]
    return _screened(found, candidate) | {
        "loss": _rounded(float(ranking.loss[row])),
        "bits_per_byte": _rounded(_bits_per_byte(found, float(nats.sum()))),
        "damage": _rounded(found.loss(nats) - found.loss(found.base_nats)),
        "error": _rounded(float(ranking.error[row])),
        "best": _rounded(float(ranking.best[row])),
    }


def told_sizes(found: Comparison) -> list[tuple[LayerMap, dict[str, Any]]]:
    """The paper's map at every depth that was measured, from the base itself on; no ranking."""
    papers = next(candidate.layer_map for candidate in found.measured if candidate.papers)
    base = LayerMap.of(range(papers.base_layers), papers.base_layers)
    nats = {base: found.base_nats, papers: found.nats[papers]} | {m: found.nats[m] for m in found.sizes}
    start = found.loss(found.base_nats)
    return [
        (m, {"layers": len(m), "spec": m.spec(), "damage": _rounded(found.loss(nats[m]) - start)})
        for m in sorted(nats, key=len)
    ]


def told_depths(alike: Similarity) -> dict[str, Any]:
    """The base's own states: between every two depths, and along it."""
    return {
        "cosine": _rows(alike.cosine),
        "angle": _rows(alike.angular),
        "linear_unexplained": None if alike.linear is None else _rows(alike.linear),
        "norm": [_rounded(float(norm)) for norm in alike.norms],
        "block_influence": [_rounded(float(value)) for value in alike.block_influence],
    }


def told_cost(found: Comparison) -> dict[str, Any]:
    """Layers run over the whole text, and how many that would have been map by map."""
    layers = found.alike.depths - 1
    return {
        "screened": len(found.maps),
        "screening_layers": layers,
        "screening_alone": sum(len(candidate.layer_map) for candidate in found.maps),
        "measured": len(found.measured),
        "measuring_layers": found.plan.layers_run,
        "measuring_alone": found.plan.layers_alone,
    }


def recommend(found: Comparison, probes: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """The map of least loss, against the second and the paper's, and how sure that is.

    Where maps were trained, `after_training` is the one that the rounds of probes left.
    """
    ranking = found.ranking
    first = ranking.order[0]
    candidate, share = found.measured[first], float(ranking.best[first])
    sure = share >= _SURE
    return {
        "spec": candidate.spec,
        "sure": sure,
        "best": _rounded(share),
        "lead": [_rounded(value) for value in (ranking.lead, ranking.lead_low, ranking.lead_high)],
        "tokens_needed": ranking.tokens_needed,
        "after_training": probes[-1]["maps"][0]["spec"] if probes else None,
        "words": " ".join([*_words(found, candidate, share, sure), _trained(probes)]),
    }


def _trained(probes: Sequence[Mapping[str, Any]] | None) -> str:
    if not probes:
        return "What recovers fastest in training is another question: probe it before much is spent."
    last = probes[-1]
    first, *others = last["maps"]
    told = f"After {last['tokens']:,} tokens of training {first['spec']} is first"
    told += f" at {first['loss']:.3f} nats a token"
    told += f", before {others[0]['spec']} at {others[0]['loss']:.3f}" if others else ""
    return f"{told}; one training each, so without an interval."


def _words(found: Comparison, candidate: Candidate, share: float, sure: bool) -> list[str]:
    ranking = found.ranking
    damage = float(ranking.loss[ranking.order[0]]) - found.loss(found.base_nats)
    whose = ", the paper's map," if candidate.papers else ""
    told = [
        f"{candidate.spec}{whose} does the least damage of the {len(found.measured)} maps measured: "
        f"{damage:.3f} nats a token above the base before any training."
    ]
    if len(ranking.order) > 1:
        second = found.measured[ranking.order[1]].spec
        told.append(
            f"It leads {second} by {ranking.lead:.3f} (95 % interval {ranking.lead_low:.3f} to "
            f"{ranking.lead_high:.3f}) and is the best in {share:.0%} of resamples of the text."
        )
    if not candidate.papers:
        row = next(i for i, other in enumerate(found.measured) if other.papers)
        papers = float(ranking.loss[row]) - found.loss(found.base_nats)
        told.append(f"The paper's map, {found.measured[row].spec}, does {papers:.3f}.")
    if not sure:
        more = (
            f" About {_thousands(ranking.tokens_needed)} tokens would tell the first two apart."
            if ranking.tokens_needed
            else ""
        )
        told.append(f"That is not sure.{more}")
    return told


def _thousands(number: int) -> str:
    return f"{math.ceil(number / 1000):,}k"


def _bits_per_byte(found: Comparison, nats: float) -> float:
    return nats / math.log(2) / max(1, found.text_bytes)


def _rounded(value: float) -> float:
    return round(value, _PLACES)


def _rows(matrix: Any) -> list[list[float]]:
    return [[_rounded(float(value)) for value in row] for row in matrix]
