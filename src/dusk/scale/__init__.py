"""Depth up-scaling: a checkpoint in, a deeper checkpoint out. `load_scaled` alone needs torch."""

from typing import TYPE_CHECKING, Any

from dusk.scale.choice import choose_map, nearest_map, parse_size, target_parameters
from dusk.scale.run import ScaleReport, deeper_tensors, scale

if TYPE_CHECKING:
    from dusk.scale.memory import load_scaled

__all__ = [
    "ScaleReport",
    "choose_map",
    "deeper_tensors",
    "load_scaled",
    "nearest_map",
    "parse_size",
    "scale",
    "target_parameters",
]


def __getattr__(name: str) -> Any:
    if name == "load_scaled":  # lazy: torch and transformers take seconds that `scale` does not need
        from dusk.scale.memory import load_scaled

        return load_scaled
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
