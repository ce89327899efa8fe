"""Imports at the time of need."""

import gc
import importlib
from typing import Any


def imported(where: str) -> Any:
    """What `module:name` names, imported now.

    Without the search for cyclic garbage meanwhile: modules make objects by the hundred thousand, and all stay. It
    is a fifth of the time that torch and transformers take.
    """
    module, name = where.split(":")
    searching = gc.isenabled()
    gc.disable()
    try:
        return getattr(importlib.import_module(module), name)
    finally:
        if searching:
            gc.enable()
