"""The layer map: which source layer fills each layer of the deeper model, and how.

Pure: no files, no tensors. Everything that depends on depth is derived from it: weights, per-layer
lists of the config, which layers are new, where the seams lie, the model card.

Layers are counted from 0; ranges in a spec are inclusive, as in `0-23,8-31`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self, TypeVar

from dusk.errors import LayerMapError

T = TypeVar("T")

_SPEC_PART = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?(i?)", re.ASCII)


@dataclass(frozen=True)
class Seam:
    """A place where the next layer is not the source's next layer.

    `target` is the index of the first layer after the seam, `before` and `after` the source layers on
    its two sides, `jump` their distance in layers (SOLAR, section 2: "layer distance at the seam").
    """

    target: int
    before: int
    after: int
    jump: int


@dataclass(frozen=True)
class LayerMap:
    """For each target layer the source layer that fills it, and whether it starts as the identity.

    `fresh[i]` true means: the layer is a copy whose residual outputs are zeroed, so that the block
    passes its input through unchanged until it is trained.

    Raises `LayerMapError` for a map that no model of `base_layers` layers can have.
    """

    source: tuple[int, ...]
    fresh: tuple[bool, ...]
    base_layers: int

    def __post_init__(self) -> None:
        problems = []
        if self.base_layers < 1:
            problems.append(f"the base has {self.base_layers} layers")
        if not self.source:
            problems.append("the map has no layers")
        if len(self.fresh) != len(self.source):
            problems.append(f"{len(self.source)} source layers but {len(self.fresh)} `fresh` flags")
        beyond = sorted({layer for layer in self.source if not 0 <= layer < self.base_layers})
        if beyond and self.base_layers > 0:
            shown = ", ".join(str(layer) for layer in beyond[:8]) + (", ..." if len(beyond) > 8 else "")
            problems.append(f"source layers {shown} are not in 0-{self.base_layers - 1}")
        if problems:
            raise LayerMapError(
                "This layer map fits no model.",
                problems=problems,
                remedy="Name source layers by their index, counted from 0, as in `0-23,8-31`.",
            )

    # Builders

    @classmethod
    def of(cls, source: Sequence[int], layers: int) -> Self:
        """The map with these source layers, all of them plain copies."""
        return cls(tuple(source), (False,) * len(source), layers)

    @classmethod
    def depthwise(cls, layers: int, drop: int | None = None) -> Self:
        """Depth up-scaling: the base without its last `drop` layers, then the base without its first.

        Source layers `0..n-m-1`, then `m..n-1`; the target has `2(n-m)` layers (SOLAR 10.7B,
        arXiv 2312.15166, section 2, figure 1: n = 32, m = 8). `drop` is a quarter of the layers
        unless told. Zero is allowed: the base stacked on itself, with the largest seam there is.

        Raises `LayerMapError` for a negative drop, or one of half the layers or more.
        """
        count = layers // 4 if drop is None else drop
        if count < 0 or 2 * count >= layers:
            raise LayerMapError(
                f"Dropping {count} of {layers} layers leaves no deeper model: "
                f"{layers} - {count} layers twice are {2 * (layers - count)}.",
                remedy=f"Choose a drop of at least 0 and below {layers / 2:g}, half the layers; "
                f"a quarter ({layers // 4}) is the paper's choice.",
            )
        return cls.asymmetric(layers, count, count)

    @classmethod
    def asymmetric(cls, layers: int, drop_last: int, drop_first: int) -> Self:
        """The base without its last `drop_last` layers, then without its first `drop_first`.

        The target has `2n - drop_last - drop_first` layers (the trainer of Bielik, allamo's
        depth_up_scaling.py, drops different numbers on the two sides to reach 50 layers).

        Raises `LayerMapError` for a negative number, or a sum of all layers or more.
        """
        if min(drop_last, drop_first) < 0 or drop_last + drop_first >= layers:
            raise LayerMapError(
                f"Dropping {drop_last} last and {drop_first} first layers of {layers} "
                "leaves no deeper model.",
                remedy=f"Both must be at least 0, and their sum below {layers}.",
            )
        return cls.of([*range(layers - drop_last), *range(drop_first, layers)], layers)

    @classmethod
    def to_depth(cls, layers: int, target: int) -> Self:
        """The depthwise map with `target` layers; for an odd number the duplicate loses one more.

        The duplicate rather than the original, because the first layers are the ones that bear a
        second occurrence worst (arcee-ai/mergekit#198).

        Raises `LayerMapError` for a target that is not above `layers` or more than twice that.
        """
        if not layers < target <= 2 * layers:
            raise LayerMapError(
                f"Two copies of {layers} layers cannot make {target} layers.",
                remedy=f"Choose {layers + 1} to {2 * layers} layers, "
                "or name the layers of any other map by hand.",
            )
        dropped = 2 * layers - target
        return cls.asymmetric(layers, dropped // 2, dropped - dropped // 2)

    @classmethod
    def stack(cls, layers: int, times: int = 2) -> Self:
        """The whole base `times` times on itself (G_stack, arXiv 2405.15319)."""
        return cls.of([*range(layers)] * _at_least("times", times, 1), layers)

    @classmethod
    def repeat(cls, layers: int, times: int = 2) -> Self:
        """Each layer `times` times in place: 0, 0, 1, 1, ... (interposition, arXiv 2510.08008)."""
        _at_least("times", times, 1)
        return cls.of([layer for layer in range(layers) for _ in range(times)], layers)

    @classmethod
    def interleave_identity(cls, layers: int, groups: int) -> Self:
        """After each of `groups` equal groups, its last layer again as an identity block.

        LLaMA Pro, arXiv 2401.02415, section 3.2 with P = 1; the new model computes what the base does.

        Raises `LayerMapError` where the layers do not divide into the groups.
        """
        _at_least("groups", groups, 1)
        if layers % groups:
            raise LayerMapError(
                f"{layers} layers do not divide into {groups} equal groups.",
                remedy=f"Choose a divisor of {layers}.",
            )
        size = layers // groups
        source, fresh = [], []
        for layer in range(layers):
            closes_group = (layer + 1) % size == 0
            source += [layer] * (1 + closes_group)
            fresh += [False, True][: 1 + closes_group]
        return cls(tuple(source), tuple(fresh), layers)

    @classmethod
    def parse(cls, spec: str, layers: int) -> Self:
        """A map written by hand: `0-23,8-31`; an `i` behind a layer or range makes it an identity block.

        Ranges are inclusive and ascending. Raises `LayerMapError` that lists every faulty part.
        """
        source: list[int] = []
        fresh: list[bool] = []
        problems = []
        for part in spec.split(","):
            try:
                indices, is_fresh = _parse_part(part.strip(), layers)
            except ValueError as error:
                problems.append(str(error))
                continue
            source += indices
            fresh += [is_fresh] * len(indices)
        if problems:
            raise LayerMapError(
                f"The layer map `{spec}` cannot be read.",
                problems=problems,
                remedy=f"Ranges are inclusive, counted from 0 to {layers - 1}, as in `0-5,2-7`.",
            )
        return cls(tuple(source), tuple(fresh), layers)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The map that `to_json` wrote; raises `LayerMapError` when it is none."""
        try:
            source, base_layers = list(data["source"]), data["base_layers"]
            fresh = [bool(flag) for flag in data.get("fresh", [False] * len(source))]
        except (KeyError, TypeError) as error:
            raise LayerMapError(f"This is no layer map: {error!r}.") from error
        if not all(type(number) is int for number in [base_layers, *source]):
            raise LayerMapError("This is no layer map: its layers are not whole numbers.")
        return cls(tuple(source), tuple(fresh), base_layers)

    def with_identity_copies(self) -> Self:
        """The same map with every later occurrence of a source layer as an identity block."""
        copies = set(self.copies)
        fresh = tuple(flag or i in copies for i, flag in enumerate(self.fresh))
        return type(self)(self.source, fresh, self.base_layers)

    # Answers

    def __len__(self) -> int:
        return len(self.source)

    @property
    def seams(self) -> tuple[Seam, ...]:
        """Where the source index does not go up by one, identity blocks passed over."""
        live = [(i, layer) for i, layer in enumerate(self.source) if not self.fresh[i]]
        return tuple(
            Seam(target, before, after, abs(after - before))
            for (_, before), (target, after) in pairwise(live)
            if after != before + 1
        )

    @property
    def copies(self) -> tuple[int, ...]:
        """The target layers whose source layer has occurred before: the new layers."""
        seen: set[int] = set()
        later = []
        for i, layer in enumerate(self.source):
            if layer in seen:
                later.append(i)
            seen.add(layer)
        return tuple(later)

    @property
    def dropped(self) -> tuple[int, ...]:
        """The source layers that fill no target layer."""
        return tuple(sorted(set(range(self.base_layers)) - set(self.source)))

    def remap(self, values: Sequence[T]) -> list[T]:
        """A per-layer list of the base, (base_layers,), as the list of the target, (len(self),).

        Raises `LayerMapError` for a list of another length.
        """
        if len(values) != self.base_layers:
            raise LayerMapError(
                f"A per-layer list has {len(values)} entries, the base has {self.base_layers} layers."
            )
        return [values[layer] for layer in self.source]

    def leading(self, k: int) -> tuple[int, bool]:
        """How many target layers come from the first `k` before any other; whether none comes later."""
        of_first = [layer < k for layer in self.source]
        leading = of_first.index(False) if False in of_first else len(of_first)
        return leading, not any(of_first[leading:])

    def keeps_phase(self, period: int) -> bool:
        """Whether every layer keeps its place in a pattern of attention that repeats every `period`.

        For `depthwise(n, m)` this is `n = 2m (mod period)`.
        """
        return all(layer % period == i % period for i, layer in enumerate(self.source))

    def spec(self) -> str:
        """The map as `parse` reads it; the shortest such string."""
        runs: list[tuple[int, int, bool]] = []
        for layer, flag in zip(self.source, self.fresh, strict=True):
            if runs and runs[-1][1:] == (layer - 1, flag):
                runs[-1] = (runs[-1][0], layer, flag)
            else:
                runs.append((layer, layer, flag))
        return ",".join(
            (f"{first}" if first == last else f"{first}-{last}") + "i" * flag for first, last, flag in runs
        )

    def to_json(self) -> dict[str, Any]:
        """The map as JSON values; `spec` is there for the reader, `source` and `fresh` count."""
        return {
            "base_layers": self.base_layers,
            "layers": len(self),
            "spec": self.spec(),
            "source": list(self.source),
            "fresh": list(self.fresh),
        }

    def warnings(self) -> list[str]:
        """What is allowed but seldom meant, one sentence each."""
        found = []
        if self.source == tuple(range(self.base_layers)):
            found.append("The map is the base itself: nothing is added.")
        elif len(self) <= self.base_layers:
            found.append(f"The map makes {len(self)} layers of {self.base_layers}: no deeper model.")
        largest = max((seam.jump for seam in self.seams), default=0)
        if largest == self.base_layers - 1 > 1:
            found.append(
                f"The last layer is followed by the first: a jump of {largest} layers, the largest there "
                "is. Dropping layers on both sides of the seam makes it smaller."
            )
        if self.dropped:
            shown = ", ".join(map(str, self.dropped))
            found.append(f"Source layers {shown} are in no layer of the result.")
        return found


def drops_in_phase(layers: int, period: int) -> list[int]:
    """The drops of a depthwise map that keep a pattern of this period: `n = 2m (mod period)`."""
    return [drop for drop in range((layers + 1) // 2) if (layers - 2 * drop) % period == 0]


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise LayerMapError(f"`{name}` is {value}; it must be at least {least}.")
    return value


def _parse_part(part: str, layers: int) -> tuple[range, bool]:
    match = _SPEC_PART.fullmatch(part)
    if match is None:
        message = f"`{part}` is neither a layer nor a range of layers" if part else "a part is empty"
        raise ValueError(message)
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        raise ValueError(f"`{part}` runs backwards; write single layers for that")
    if last >= layers:
        raise ValueError(f"`{part}` reaches beyond the last layer, {layers - 1}")
    return range(first, last + 1), bool(match[3])
