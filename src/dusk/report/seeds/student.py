"""A mean over seeds and its interval: Student's t for a handful of independent values.

The interval is mean ± t s / sqrt(n), with s the sample deviation (n - 1 below) and t the quantile of
Student's distribution with n - 1 degrees of freedom (Student, The Probable Error of a Mean, Biometrika 1908).
Differences between two models are taken seed by seed first, so that what a seed does to both falls out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
_HALVINGS = 80
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """Some values, their mean, sample deviation and interval; None for what one value alone cannot give."""

    values: tuple[float, ...]
    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def same(self) -> bool:
        """Whether all values are one and the same, but for rounding."""
        return self.deviation is None or self.deviation <= _ROUNDING * abs(self.mean)

    @property
    def holds_zero(self) -> bool | None:
        """Whether the interval holds zero; None where there is no interval."""
        return None if self.low is None or self.high is None else self.low <= 0 <= self.high

    @property
    def no_difference(self) -> bool | None:
        """Of differences: whether zero is in the interval. None where no seed can tell, as all give the same."""
        return None if self.same and self.mean != 0 else self.holds_zero

    def to_json(self) -> dict[str, float | int | None]:
        """The numbers by name, without the values."""
        numbers = {"mean": self.mean, "deviation": self.deviation, "low": self.low, "high": self.high}
        return {**numbers, "n": len(self.values)}


def estimate(values: Sequence[float], *, level: float = LEVEL) -> Estimate:
    """The mean of independent values with its t-interval. Raises ValueError where there is no value."""
    if not values:
        raise ValueError("a mean needs at least one value")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(tuple(values), mean)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1, level) * deviation / math.sqrt(n)
    return Estimate(tuple(values), mean, deviation, mean - half, mean + half)


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t that Student's distribution leaves between -t and t with probability `level`."""
    if freedom < 1 or not 0 < level < 1:
        raise ValueError(f"no quantile for {freedom} degrees of freedom at {level}")
    low, high = 0.0, 1.0
    while central_probability(high, freedom) < level:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if central_probability(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def central_probability(t: float, freedom: int) -> float:
    """P(-t < T < t) for whole degrees of freedom: Abramowitz and Stegun 1964, formulas 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * square
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
