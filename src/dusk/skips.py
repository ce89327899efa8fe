"""Block skip connections: at which layers a hidden state is stored, and into which it is blended again.

Solar Pro Preview has two slots. Before layer i runs, in this order: a layer of `bskcn_1` stores the hidden
state in slot 1, one of `bskcn_2` in slot 2; one of `bskcn_3` turns it into w * slot 1 + (1 - w) * itself,
one of `bskcn_4` does so with slot 2. The weight w is `bskcn_tv[0]` in training, `bskcn_tv[1]` in inference.

Pure, and of the standard library alone: a model folder with remote code carries this file as it is. Layers are
counted from 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

SLOTS = (1, 2)
STORE_KEYS = ("bskcn_1", "bskcn_2")
USE_KEYS = ("bskcn_3", "bskcn_4")
LAYER_KEYS = (*STORE_KEYS, *USE_KEYS)
WEIGHTS_KEY = "bskcn_tv"
PUBLISHED_LAYERS = 64
PUBLISHED_WEIGHTS = (0.9, 0.8)


@dataclass(frozen=True, order=True)
class Connection:
    """The state that enters layer `store` is held in `slot` and blended into the one that enters `use`."""

    store: int
    use: int
    slot: int


@dataclass(frozen=True)
class Skips:
    """The four lists of a config: the layers that store in slot 1 and 2, and those that use them."""

    stores: tuple[tuple[int, ...], tuple[int, ...]]
    uses: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """The skips of a config without `config_problems`; a missing list is the published one."""
        first, second, third, fourth = (tuple(_given(config, key)) for key in LAYER_KEYS)
        return cls((first, second), (third, fourth))

    @classmethod
    def joining(cls, connections: Iterable[Connection]) -> Self:
        """The lists that make these connections."""
        made = sorted(set(connections))
        stores, uses = (
            tuple(tuple(sorted({getattr(c, end) for c in made if c.slot == slot})) for slot in SLOTS)
            for end in ("store", "use")
        )
        return cls((stores[0], stores[1]), (uses[0], uses[1]))

    @classmethod
    def parse(cls, spec: str, layers: int) -> Self:
        """Skips by hand, for a model of `layers` layers: pairs store-use, as in `12-16,20-24,20-28`.

        `published` is Solar Pro's, at another depth by `scaled`. A pair takes the first slot that is free.
        Raises ValueError with every faulty part.
        """
        if spec.strip() == "published":
            lists = PUBLISHED.scaled(PUBLISHED_LAYERS, layers)
            return cls(lists.stores, lists.uses)
        pairs, problems = [], []
        for part in spec.split(","):
            ends = part.strip().split("-")
            if len(ends) != 2 or not all(end.isdecimal() and end.isascii() for end in ends):
                problems.append(f"`{part.strip()}` is no pair store-use such as 12-16")
                continue
            store, use = map(int, ends)
            if store >= use:
                problems.append(f"{part.strip()}: the use must come after the store")
            elif use >= layers:
                problems.append(f"{part.strip()}: the layers are 0-{layers - 1}")
            pairs.append((store, use))
        if not problems:
            connections, problems = _assigned(pairs)
        if problems:
            raise ValueError("; ".join(problems))
        return cls.joining(connections)

    def connections(self) -> tuple[Connection, ...]:
        """Each use with the store that it reads, the last one at or before it, in the order of stores."""
        return tuple(
            sorted(
                Connection(max(before), use, slot)
                for slot, stores, uses in zip(SLOTS, self.stores, self.uses, strict=True)
                for use in uses
                if (before := [store for store in stores if store <= use])
            )
        )

    def held(self, boundary: int) -> tuple[int, ...]:
        """The slots that are read in layer `boundary` or later and were filled before it.

        They travel with the hidden state where a pipeline stage begins with layer `boundary`.
        """
        return tuple(sorted({c.slot for c in self.connections() if c.store < boundary <= c.use}))

    def scaled(self, layers: int, target: int) -> Self:
        """The same skips in a model of another depth: layer i becomes i * target / layers, halves up.

        Raises ValueError where two layers of the lists would become one, because what is stored and what is
        blended would then change places.
        """
        named = sorted({layer for indices in (*self.stores, *self.uses) for layer in indices})
        place = {layer: (2 * layer * target + layers) // (2 * layers) for layer in named}
        met = [pair for pair in pairwise(named) if place[pair[0]] == place[pair[1]]]
        if met:
            least = next(depth for depth in range(target + 1, layers + 1) if _parts(named, layers, depth))
            raise ValueError(
                f"the skips of {layers} layers do not fit {target}: layers {met[0][0]} and {met[0][1]} would "
                f"both be layer {place[met[0][0]]}; they fit from {least} layers on"
            )
        moved = [Connection(place[c.store], place[c.use], c.slot) for c in self.connections()]
        return type(self).joining(moved)

    def remapped(self, source: Sequence[int]) -> tuple[Self, list[Connection]]:
        """The skips of a model whose layer i is the old layer source[i], and the connections that are lost.

        A connection lives wherever its two layers still follow each other with nothing of the old order
        turned back in between: in each stretch of rising source layers, from the first occurrence of its
        store to the first occurrence of its use. One that a seam cuts has no counterpart.
        """
        kept = []
        for places in _stretches(source):
            kept += [
                (c, Connection(places[c.store], places[c.use], c.slot))
                for c in self.connections()
                if c.store in places and c.use in places
            ]
        found = {old for old, _ in kept}
        lost = [c for c in self.connections() if c not in found]
        return type(self).joining(new for _, new in kept), lost

    def to_config(self) -> dict[str, list[int]]:
        """The four lists as config.json has them."""
        return dict(zip(LAYER_KEYS, map(list, (*self.stores, *self.uses)), strict=True))

    def spec(self) -> str:
        """The connections as `parse` reads them."""
        return ",".join(f"{c.store}-{c.use}" for c in self.connections())


PUBLISHED = Skips(((12, 20, 32, 44), (20, 32)), ((16, 24, 36, 48), (28, 40)))
"""Of upstage/solar-pro-preview-instruct, for 64 layers; also the defaults of its config's class."""


def config_problems(config: Mapping[str, Any], layers: int | None = None) -> list[str]:
    """What is wrong with the skips of a config, one sentence each.

    Layers beyond the last are never reached and allowed (the published class has them); with `layers`, the
    depth of the model, they are told, too.
    """
    found = [problem for key in LAYER_KEYS for problem in _list_problems(key, _given(config, key), layers)]
    if not found:
        found = _pairing_problems(Skips.of(config))
    return found + _weight_problems(config.get(WEIGHTS_KEY))


def _given(config: Mapping[str, Any], key: str) -> Any:
    value = config.get(key)
    return PUBLISHED.to_config()[key] if value is None else value


def _list_problems(key: str, value: Any, layers: int | None) -> list[str]:
    if not isinstance(value, list | tuple) or not all(type(layer) is int for layer in value):
        return [f"{key} is {value!r}; it is a list of layers"]
    found = [f"{key} names layer {layer}; layers are counted from 0" for layer in value if layer < 0]
    if layers is not None:
        beyond = ", ".join(str(layer) for layer in value if layer >= layers)
        found += [f"{key} names layer {beyond}; the last is {layers - 1}"] if beyond else []
    if any(second <= first for first, second in pairwise(value)):
        found.append(f"{key} is out of order: {list(value)}; its layers ascend and none occurs twice")
    return found


def _pairing_problems(skips: Skips) -> list[str]:
    found = []
    for slot, stores, uses in zip(SLOTS, skips.stores, skips.uses, strict=True):
        store_key, use_key = STORE_KEYS[slot - 1], USE_KEYS[slot - 1]
        found += [
            f"{use_key} uses slot {slot} at layer {use} before {store_key} stores anything in it"
            for use in uses
            if not any(store <= use for store in stores)
        ]
        read = {c.store for c in skips.connections() if c.slot == slot}
        found += [
            f"{store_key} stores at layer {store} what {use_key} never uses"
            for store in stores
            if store not in read
        ]
    return found


def _weight_problems(value: Any) -> list[str]:
    if value is None:
        return []
    numbers = isinstance(value, list | tuple) and all(type(number) in (int, float) for number in value)
    if not numbers or len(value) != 2:
        return [f"{WEIGHTS_KEY} is {value!r}; it is two numbers, the weight in training and in inference"]
    return [f"{WEIGHTS_KEY} has {number}; a weight is 0 to 1" for number in value if not 0 <= number <= 1]


def _parts(named: Sequence[int], layers: int, depth: int) -> bool:
    """Whether these layers stay apart at another depth."""
    return len({(2 * layer * depth + layers) // (2 * layers) for layer in named}) == len(named)


def _assigned(pairs: Sequence[tuple[int, int]]) -> tuple[list[Connection], list[str]]:
    """Each pair in a slot that holds nothing else from its store to its use."""
    connections: list[Connection] = []
    until: dict[int, tuple[int, int]] = {}  # slot: what it holds, and the last layer that reads it
    problems = []
    for store, use in sorted(set(pairs)):
        free = [
            slot for slot in SLOTS if slot not in until or until[slot][0] == store or until[slot][1] < store
        ]
        same = [slot for slot in free if slot in until and until[slot][0] == store]
        if not free:
            problems.append(f"{store}-{use}: two other states are held at layer {store}, and no third can be")
            continue
        slot = (same or free)[0]
        until[slot] = (store, max(use, until[slot][1]) if same else use)
        connections.append(Connection(store, use, slot))
    return connections, problems


def _stretches(source: Sequence[int]) -> list[dict[int, int]]:
    """Each stretch in which the source layers rise, as the first place of each source layer in it."""
    stretches: list[dict[int, int]] = []
    for place, layer in enumerate(source):
        if place == 0 or layer < source[place - 1]:
            stretches.append({})
        stretches[-1].setdefault(layer, place)
    return stretches
