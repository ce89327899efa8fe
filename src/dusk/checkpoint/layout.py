"""Where a model keeps its layers: found from the tensor names and the config, not from a list of models.

A stack of layers is a prefix whose tensors are numbered 0..n-1 (`model.layers.7.mlp...`). The stack to
scale is the one whose n the config states under one of the usual keys, at its top or in a nested text
config.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dusk.checkpoint.header import TensorEntry
from dusk.errors import CheckpointError

COUNT_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_TEXT_CONFIGS = ("text_config", "language_config", "llm_config", "text_model", "llm")
_NUMBERED = re.compile(r"(.+?)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Layout:
    """The stack of layers: tensors are called `{prefix}.{layer}.{rest}`.

    `count_key` states `layers` in the config, or in the part of it that `config_path` leads to.
    """

    prefix: str
    layers: int
    count_key: str
    config_path: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[int, str] | None:
        """The layer of a tensor and its name within the layer; None for a tensor of no layer."""
        match = _NUMBERED.fullmatch(name)
        if match is None or match[1] != self.prefix:
            return None
        return int(match[2]), match[3]

    def name(self, layer: int, rest: str) -> str:
        """The inverse of `split`."""
        return f"{self.prefix}.{layer}.{rest}"

    def scope(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The part of the config that describes these layers."""
        scope = dict(config)
        for key in self.config_path:
            scope = dict(scope[key])
        return scope


def stacks(names: Iterable[str]) -> dict[str, set[int]]:
    """Every numbered prefix and its numbers; only the outermost number of a name counts."""
    found: dict[str, set[int]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is not None:
            found.setdefault(match[1], set()).add(int(match[2]))
    return found


def find_layout(config: Mapping[str, Any], tensors: Mapping[str, TensorEntry]) -> Layout:
    """The stack of layers that the config counts; of several, the one with the most bytes.

    Raises `CheckpointError` when the config counts no layers, or no stack has as many as it says.
    """
    found = stacks(tensors)
    counts = list(_counts(config))
    if not counts:
        raise CheckpointError(
            "The config does not say how many layers the model has.",
            remedy=f"It needs one of {', '.join(COUNT_KEYS)}, at its top or in {_TEXT_CONFIGS[0]}.",
        )
    fitting = [
        Layout(prefix, count, key, path)
        for path, key, count in counts
        for prefix, numbers in found.items()
        if numbers == set(range(count))
    ]
    if not fitting:
        raise CheckpointError(
            "The weights do not fit the config: no stack has as many layers as it says.",
            problems=[f"the config says {key} = {count}" for _, key, count in counts]
            + [f"the tensors have {_numbers(prefix, numbers)}" for prefix, numbers in found.items()][:8],
            remedy="The checkpoint is incomplete, or its config belongs to another model.",
        )
    return max(fitting, key=lambda layout: _stack_bytes(layout, tensors))


def _counts(config: Mapping[str, Any]) -> Iterable[tuple[tuple[str, ...], str, int]]:
    for path in ((), *((key,) for key in _TEXT_CONFIGS)):
        scope: Any = config[path[0]] if path and path[0] in config else config if not path else None
        if isinstance(scope, Mapping):
            for key in COUNT_KEYS:
                if type(scope.get(key)) is int:
                    yield path, key, scope[key]


def _numbers(prefix: str, numbers: set[int]) -> str:
    missing = sorted(set(range(max(numbers) + 1 if max(numbers) < 10_000 else 0)) - numbers)
    gaps = f" without {', '.join(map(str, missing[:8]))}" if missing else ""
    return f"{prefix}.0 to {prefix}.{max(numbers)}{gaps}"


def _stack_bytes(layout: Layout, tensors: Mapping[str, TensorEntry]) -> int:
    return sum(entry.bytes for name, entry in tensors.items() if layout.split(name) is not None)
