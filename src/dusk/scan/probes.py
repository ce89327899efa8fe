"""Short trainings of the best maps, by successive halving: which one recovers fastest?

Each round trains every map that is left for as long as all rounds before together, on the same data in the same
order, at a constant rate; the better half goes on. K. Jamieson and A. Talwalkar, Non-stochastic Best Arm
Identification and Hyperparameter Optimization (AISTATS 2016, arXiv 1502.07943), section 3.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dusk.errors import SettingError
from dusk.layers import LayerMap
from dusk.scale import scale
from dusk.train.pretrain import pretrain

Progress = Callable[[float, float | None, str], None]


def probe(
    base: Path,
    maps: Sequence[LayerMap],
    folder: Path,
    *,
    data: Sequence[Path],
    heldout: Sequence[Path],
    tokens: int,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Train the maps in rounds and tell each round: its tokens so far, and each map's held-out loss.

    maps: in the order of their loss before training, which breaks ties. tokens: of the first round. Models lie
    in `folder` while they are needed, and nothing is left there.

    Raises `SettingError` for tokens that are not above 0, and what `scale` and `pretrain` raise.
    """
    if tokens <= 0:
        raise SettingError(f"`probe_tokens` is {tokens}; it must be above 0.")
    total, done, spent = trainings(len(maps)), 0, 0
    left = {layer_map: folder / f"map-{number}" for number, layer_map in enumerate(maps)}
    for layer_map, model in left.items():
        scale(base, model, layers=layer_map)
    rounds: list[dict[str, Any]] = []
    while True:
        more = spent or tokens
        losses: dict[LayerMap, Mapping[str, Any]] = {}
        for layer_map, model in left.items():
            if progress is not None:
                progress(done, total, "probing")
            wanted = {"schedule": "constant", "seed": len(rounds), **(settings or {}), "tokens": more}
            losses[layer_map] = _trained(model, data=data, eval_data=heldout, **wanted)
            done += 1
        spent += more
        order = sorted(left, key=lambda layer_map: losses[layer_map]["loss"])
        kept = order[: max(1, len(order) // 2)]
        rounds.append({"tokens": spent, "maps": [_told(m, losses[m], m in kept) for m in order]})
        for layer_map in [m for m in left if m not in kept or len(kept) == 1]:
            shutil.rmtree(left.pop(layer_map))
        if not left:
            return rounds


def _trained(model: Path, **settings: Any) -> Mapping[str, Any]:
    """Train a model where it lies; its held-out loss behind that."""
    out = model.with_name(f"{model.name}-trained")
    report = pretrain(model, out, **settings)
    shutil.rmtree(model)
    out.rename(model)
    found: Mapping[str, Any] = report.results["heldout"]
    return found


def trainings(maps: int) -> int:
    """How many trainings the rounds take."""
    return maps + (trainings(maps // 2) if maps // 2 > 1 else 0)


def _told(layer_map: LayerMap, heldout: Mapping[str, Any], kept: bool) -> dict[str, Any]:
    return {
        "spec": layer_map.spec(),
        "loss": round(float(heldout["loss"]), 5),
        "bits_per_byte": round(float(heldout["bits_per_byte"]), 5),
        "kept": kept,
    }
