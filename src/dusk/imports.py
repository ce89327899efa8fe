"""Imports at the time of need."""

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def imported(where: str) -> Any:
    """What `module:name` names, imported now."""
    module, name = where.split(":")
    with loading():
        return getattr(importlib.import_module(module), name)


@contextmanager
def loading() -> Iterator[None]:
    """No search for cyclic garbage inside: modules make objects by the hundred thousand, and all stay.

    It is a fifth of the time that torch and transformers take.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()
