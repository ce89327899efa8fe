"""Calling the library function of a kind: by its name, with the settings as keywords."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dusk.imports import imported


def call(
    function_name: str,
    settings: Mapping[str, Any],
    *,
    out: str | Path | None,
    progress: Callable[..., None],
    threads: int | None = None,
) -> Any:
    """Import `module:name` and call it; `progress` and `threads` go to a function that takes them.

    A parameter without a default that the settings leave out is None (`pretrain` from scratch has no model).
    """
    function = imported(function_name)
    parameters = inspect.signature(function).parameters
    named = {key: one for key, one in parameters.items() if one.kind is not one.VAR_KEYWORD}
    arguments = {**settings, "out": out}
    if "progress" in named:
        arguments["progress"] = progress
    if threads is not None and ("threads" in named or len(named) < len(parameters)):
        arguments.setdefault("threads", threads)
    left_out = {key: None for key, one in named.items() if one.default is one.empty}
    return function(**left_out | arguments)
