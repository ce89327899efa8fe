"""The growth rules: from the depth of the base n and that of the result s to the layer map, one file each."""

from collections.abc import Callable

from dusk.layers import LayerMap
from dusk.scale.rules.depthwise import depthwise
from dusk.scale.rules.in_place import in_place
from dusk.scale.rules.llama_pro import llama_pro
from dusk.scale.rules.stack import stack

RULES: dict[str, Callable[[int, int], LayerMap]] = {
    "depthwise": depthwise,
    "stack": stack,
    "in-place": in_place,
    "llama-pro": llama_pro,
}

__all__ = ["RULES", "depthwise", "in_place", "llama_pro", "stack"]
