"""dusk, the depth up-scaling kit: scale a language model depthwise, recover it, tune, align, merge, evaluate.

This is the front door. Each name is imported when it is first used, so that `import dusk` costs nothing.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dusk.imports import imported

__version__ = "0.1.0"

_DOORS = {
    "LayerMap": "dusk.layers:LayerMap",
    "align": "dusk.train.align:align",
    "contamination": "dusk.evaluate.contamination:contamination",
    "evaluate": "dusk.evaluate:evaluate",
    "inspect": "dusk.checkpoint:inspect_checkpoint",
    "load_scaled": "dusk.scale:load_scaled",
    "merge": "dusk.merge:merge",
    "pretrain": "dusk.train.pretrain:pretrain",
    "report": "dusk.report:report",
    "run": "dusk.recipe:run",
    "scale": "dusk.scale:scale",
    "scan": "dusk.scan:scan",
    "sft": "dusk.train.sft:sft",
    "verify": "dusk.checkpoint:verify",
}

__all__ = [
    "LayerMap",
    "__version__",
    "align",
    "contamination",
    "evaluate",
    "inspect",
    "load_scaled",
    "merge",
    "pretrain",
    "report",
    "run",
    "scale",
    "scan",
    "sft",
    "verify",
]

if TYPE_CHECKING:
    from .layers import LayerMap as LayerMap
    from .recipe import run as run


class _FrontDoor(ModuleType):
    """A package whose functions come first where a room has the same name (`scale`, `merge`, `report`).

    Importing the room `dusk.scale` would otherwise put the module in the place of the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _DOORS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _DOORS:
            raise AttributeError(f"module 'dusk' has no attribute {name!r}")
        found = imported(_DOORS[name])
        super().__setattr__(name, found)
        return found

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_DOORS})


sys.modules[__name__].__class__ = _FrontDoor
