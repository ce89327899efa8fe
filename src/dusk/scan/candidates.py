"""The maps of one depth: every way of reaching it that somebody has published or asked for.

Maps of different depth are never put side by side: what a map costs before training falls with every layer it
leaves out, all the way to the base itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dusk.errors import LayerMapError, SettingError
from dusk.layers import LayerMap
from dusk.scale.rules import in_place

TWO_COPIES = "two copies"
REPEATED_BLOCK = "block repeated"
IN_PLACE = "in place"
OWN = "your own"


@dataclass(frozen=True)
class Candidate:
    """A map and the family it belongs to.

    `papers` marks the symmetric map of SOLAR 10.7B, section 2; `asked` those that the user named.
    """

    layer_map: LayerMap
    family: str
    papers: bool = False
    asked: bool = False

    @property
    def spec(self) -> str:
        """The map as `dusk scale --layers` takes it."""
        return self.layer_map.spec()


def candidates(layers: int, target: int, own: Sequence[str] = ()) -> tuple[Candidate, ...]:
    """Every map from `layers` to `target` layers that is looked at, each once, the paper's first.

    - two copies: `0..n-1-a`, then `b..n-1`, for every a + b = 2n - target (the paper's has a = b);
    - a block repeated more than twice: `0..i+k-1`, the block `i..i+k-1` again r - 2 times, then `i..n-1`
      (repeating a block once more is one of the two copies);
    - layers copied in place: target - n of them, evenly spread or one behind the other;
    - `own`: specs as `LayerMap.parse` reads them, which must have `target` layers.

    Raises `LayerMapError` for a depth that two copies cannot reach, and for specs of another depth.
    """
    papers = LayerMap.to_depth(layers, target)
    found = [Candidate(papers, TWO_COPIES, papers=True)]
    found += [Candidate(layer_map, TWO_COPIES) for layer_map in _two_copies(layers, target)]
    found += [Candidate(layer_map, REPEATED_BLOCK) for layer_map in _repeated_blocks(layers, target)]
    found += [Candidate(layer_map, IN_PLACE) for layer_map in _in_place(layers, target)]
    asked = _own(layers, target, own)
    found += [Candidate(layer_map, OWN) for layer_map in asked]
    first: dict[LayerMap, Candidate] = {}
    for candidate in found:
        first.setdefault(candidate.layer_map, candidate)
    return tuple(replace(candidate, asked=candidate.layer_map in asked) for candidate in first.values())


def _two_copies(layers: int, target: int) -> Iterator[LayerMap]:
    dropped = 2 * layers - target
    for drop_first in range(dropped + 1):
        yield LayerMap.asymmetric(layers, dropped - drop_first, drop_first)


def _repeated_blocks(layers: int, target: int) -> Iterator[LayerMap]:
    added = target - layers
    for times in range(3, added + 2):
        if added % (times - 1):
            continue
        block = added // (times - 1)
        for begin in range(layers - block + 1):
            repeated = [*range(begin, begin + block)] * (times - 1)
            yield LayerMap.of([*range(begin + block), *repeated[block:], *range(begin, layers)], layers)


def _in_place(layers: int, target: int) -> Iterator[LayerMap]:
    yield in_place(layers, target)
    added = target - layers
    for begin in range(layers - added + 1):
        doubled = range(begin, begin + added)
        yield LayerMap.of([layer for layer in range(layers) for _ in range(1 + (layer in doubled))], layers)


def _own(layers: int, target: int, specs: Sequence[str]) -> list[LayerMap]:
    maps = [LayerMap.parse(spec, layers) for spec in specs]
    other = [
        f"`{layer_map.spec()}` has {len(layer_map)} layers" for layer_map in maps if len(layer_map) != target
    ]
    if other:
        raise LayerMapError(
            f"A scan compares maps of one depth, here {target} layers.",
            problems=other,
            remedy="Scan each depth by itself: fewer layers always look better before training.",
        )
    return maps


def depths_between(layers: int, target: int, number: int) -> tuple[int, ...]:
    """About `number` other depths from `layers` + 1 to twice `layers`, spread evenly, without `target`.

    Raises `SettingError` for a negative number.
    """
    if number < 0:
        raise SettingError(f"`sizes` is {number}; it must be at least 0.")
    reach = range(layers + 1, 2 * layers + 1)
    steps = max(1, min(number, len(reach)) - 1)
    chosen = {reach[i * (len(reach) - 1) // steps] for i in range(min(number, len(reach)))}
    return tuple(sorted(chosen - {target}))
