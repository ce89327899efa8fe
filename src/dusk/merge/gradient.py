"""Settings that change with depth: a list of values stands at equal distances from the first layer to the last.

    g(p) = (1 - f) v_i + f v_{i+1},    i + f = p (k - 1)    for k values and a place p from 0 to 1

A tensor outside the layers (embeddings, the last norm, the output head) has place 0, and so has the first
value, as in mergekit; so has everything where one value is given.
"""

from collections.abc import Sequence

from dusk.checkpoint import Layout

Gradient = tuple[float, ...]


def at(values: Gradient, place: float) -> float:
    """The value at a place; values between two neighbours lie on the straight line."""
    if len(values) == 1:
        return values[0]
    scaled = place * (len(values) - 1)
    index = min(int(scaled), len(values) - 2)
    share = scaled - index
    return (1 - share) * values[index] + share * values[index + 1]


def place_of(tensor: str, layout: Layout) -> float:
    """Where a tensor's layer is: 0 for the first, 1 for the last or for one alone; 0 outside the layers."""
    found = layout.split(tensor)
    if found is None:
        return 0.0
    return found[0] / (layout.layers - 1) if layout.layers > 1 else 1.0


def told(values: Gradient) -> float | list[float]:
    """As it is written down: one number, or the values over the depth."""
    return values[0] if len(values) == 1 else list(values)


def gradient(given: float | Sequence[float]) -> Gradient:
    """One value or several as a gradient."""
    return (float(given),) if isinstance(given, (int, float)) else tuple(map(float, given))
