"""Where a model keeps its layers: found from the tensor names and the config, not from a list of models.

A stack of layers is a prefix whose tensors are numbered 0..n-1 (`model.layers.7.mlp...`). The stack to
scale is the one whose n the config states under one of the usual keys, at its top or in a nested config.
Of several the text tower goes before a tower of images or sound, a decoder before its encoder.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dusk.checkpoint.header import TensorEntry
from dusk.errors import CheckpointError

COUNT_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# The decoder of an encoder-decoder model, which counts its layers apart.
DECODER_COUNT_KEYS = ("num_decoder_layers", "decoder_layers")
# Layers behind those that are counted, which predict tokens further ahead (DeepSeek-V3, GLM-4.5).
_TRAILING_KEY = "num_nextn_predict_layers"
_OTHER_TOWERS = ("vision", "visual", "image", "vit", "audio", "speech", "qformer")
# What a stack's first layer computes for all of them (T5); the others have no place for it.
_FIRST_LAYER_ONLY = "relative_attention_bias.weight"
# Numbers as transformers writes them: others (07, other scripts' digits) name no layer.
_NUMBER = r"(0|[1-9]\d{0,8})"
_NUMBERED = re.compile(rf"(.+?)\.{_NUMBER}\.(.+)", re.ASCII)
_BEGINS_NUMBERED = re.compile(rf"\.{_NUMBER}\.(.+)", re.ASCII)


@dataclass(frozen=True)
class Layout:
    """The stack of layers: tensors are called `{prefix}.{layer}.{rest}`.

    `count_key` states `layers` in the config, or in the part of it that `config_path` leads to. Numbers
    from `layers` on belong to layers behind the stack that the config counts apart.
    """

    prefix: str
    layers: int
    count_key: str
    config_path: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[int, str] | None:
        """The layer of a tensor and its name within the layer; None for a tensor of no layer."""
        number, rest = self._number(name)
        return None if number is None or number >= self.layers else (number, rest)

    def outside(self, name: str, layers: int) -> str:
        """The name of a tensor of no layer in a model of so many layers: those behind the stack move."""
        number, rest = self._number(name)
        return name if number is None else self.name(number - self.layers + layers, rest)

    def is_behind(self, name: str) -> bool:
        """Whether a tensor belongs to a layer behind the stack; transformers loads none of them."""
        number, _ = self._number(name)
        return number is not None and number >= self.layers

    def has_place(self, layer: int, rest: str) -> bool:
        """Whether a tensor of a layer may stand in the layer of this index."""
        return layer == 0 or not rest.endswith(_FIRST_LAYER_ONLY)

    def _number(self, name: str) -> tuple[int | None, str]:
        found = name.startswith(self.prefix) and _BEGINS_NUMBERED.fullmatch(name, len(self.prefix))
        return (int(found[1]), found[2]) if found else (None, name)

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
    """The stack of layers that the config counts; of several text towers, the one with the most bytes.

    Raises `CheckpointError` when the config counts no layers, or no stack has as many as it says.
    """
    found = stacks(tensors)
    counts = list(_counts(config))
    if not counts:
        raise CheckpointError(
            "The config does not say how many layers the model has.",
            remedy=f"It needs one of {', '.join(COUNT_KEYS)}, at its top or in a nested config.",
        )
    fitting = [
        Layout(prefix, count.layers, count.key, count.path)
        for count in counts
        for prefix, numbers in found.items()
        if count.fits(prefix, numbers)
    ]
    if not fitting:
        raise CheckpointError(
            "The weights do not fit the config: no stack has as many layers as it says.",
            problems=[f"the config says {count.key} = {count.layers}" for count in counts]
            + [f"the tensors have {_numbers(prefix, numbers)}" for prefix, numbers in found.items()][:8],
            remedy="The checkpoint is incomplete, or its config belongs to another model.",
        )
    return max(fitting, key=lambda layout: (_rank(layout), _stack_bytes(layout, tensors)))


@dataclass(frozen=True)
class _Count:
    """A number of layers that the config states, and how many more lie behind them."""

    path: tuple[str, ...]
    key: str
    layers: int
    trailing: int

    def fits(self, prefix: str, numbers: set[int]) -> bool:
        if self.key in DECODER_COUNT_KEYS and "decoder" not in prefix:
            return False
        whole = max(numbers) == len(numbers) - 1  # not by a set of as many as the config claims
        return whole and len(numbers) in (self.layers, self.layers + self.trailing)


def _counts(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[_Count]:
    """Every count at the top and in nested configs."""
    trailing = config.get(_TRAILING_KEY)
    for key in (*DECODER_COUNT_KEYS, *COUNT_KEYS):
        if type(config.get(key)) is int:
            yield _Count(path, key, config[key], trailing if type(trailing) is int and trailing > 0 else 0)
    for key, value in config.items():
        if isinstance(value, Mapping) and len(path) < 3:
            yield from _counts(value, (*path, key))


def _rank(layout: Layout) -> tuple[bool, bool]:
    """Text towers before others, decoders before what else the same config counts."""
    words = ".".join((*layout.config_path, layout.prefix)).lower()
    return not any(tower in words for tower in _OTHER_TOWERS), layout.count_key in DECODER_COUNT_KEYS


def _numbers(prefix: str, numbers: set[int]) -> str:
    missing = sorted(set(range(max(numbers) + 1 if max(numbers) < 10_000 else 0)) - numbers)
    gaps = f" without {', '.join(map(str, missing[:8]))}" if missing else ""
    return f"{prefix}.0 to {prefix}.{max(numbers)}{gaps}"


def _stack_bytes(layout: Layout, tensors: Mapping[str, TensorEntry]) -> int:
    return sum(entry.bytes for name, entry in tensors.items() if layout.split(name) is not None)
