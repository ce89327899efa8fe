"""bfloat16 in a merge: read, rounded once, summed and multiplied, against torch and by hand."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dusk.merge import floats, kernels
from dusk.merge.slerp import slerp_weights

ALL = np.arange(1 << 16, dtype=np.uint16)
SLERP = slerp_weights(0.5, 0.1, 1.0, 1.0), slerp_weights(0.3, -0.2, 1.0, 2.0), slerp_weights(0.9, -0.99, 1, 1)
WEIGHTS = [(w.first, w.second) for w in SLERP] + [
    (0.5, 0.5),
    (0.4, 0.6),
    (0.4142135, 0.5857865),
    (1.7182818, -0.7182818),
    (2.5, -2.5),
    (1e-30, 1e30),
    (1.0,),
    (0.2, 0.3, 0.5),
    (0.7, -0.2, 0.1, 0.4, 1 / 3),
]


def stored(values: np.ndarray) -> np.ndarray:
    out = np.empty(values.shape, np.uint16)
    floats.encode(values.astype(np.float64), "BF16", out)
    return out


def numbers(bits: np.ndarray) -> np.ndarray:
    out = np.empty(bits.shape)
    floats.decode(bits, "BF16", out)
    return out


def same_numbers(ours: np.ndarray, theirs: torch.Tensor) -> None:
    np.testing.assert_array_equal(numbers(ours), theirs.to(torch.bfloat16).double().numpy())


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_bfloat16_rounds_as_torch_does(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    same_numbers(stored(array), torch.from_numpy(array.copy()))


def between(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every two neighbours of one sign, both finite, and what lies midway, exact in float64."""
    low, high = numbers(bits[:-1]), numbers(bits[1:])
    usable = np.isfinite(low) & np.isfinite(high) & (np.signbit(low) == np.signbit(high))
    low, high = low[usable], high[usable]
    return low, high, low / 2 + high / 2


@pytest.mark.parametrize("steps", [-3, -1, 0, 1, 3])
def test_float64_becomes_bfloat16_in_one_rounding(steps: int) -> None:
    """Beside the middle of any two neighbours, where float32 would round a value onto it."""
    low, high, middle = between(ALL)
    assert middle.size == 2 * (0x7F80 - 1)
    value = middle + steps * np.spacing(middle)
    even = np.where(stored(low) % 2 == 0, low, high)
    expected = even if steps == 0 else np.where(np.abs(value - low) < np.abs(value - high), low, high)
    np.testing.assert_array_equal(numbers(stored(value)), expected)


def test_every_bfloat16_survives_the_round_trip() -> None:
    values = numbers(ALL)
    np.testing.assert_array_equal(numbers(stored(values)), values)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(stored(values)[number], ALL[number])


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (3.3e38, True), (3.4e38, False), (np.nan, False)])
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_what_is_not_finite_once_stored_is_seen(value: float, finite: bool, dtype: str) -> None:
    value = value * 10 if dtype == "F32" and not finite else value  # beyond its range, too
    values = np.full(3000, 3.3e38)  # their sum in float32 is infinite, they are not
    values[1007] = value
    assert floats.encode(values, dtype, np.empty(3000, floats.STORED[dtype])) == finite


def test_what_is_too_large_for_bfloat16_or_no_number() -> None:
    large = [2.0**power for power in (127, 128, 977, 978, 979, 980, 1023)] + [math.inf]
    values = np.array([*large, *(-value for value in large), math.nan, 0.0, 2.0**-134, 2.0**-133])
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16)
    same_numbers(stored(values), expected)


def cases(weights: tuple[float, ...]) -> np.ndarray:
    """Bits (models, elements): finite numbers with random ones, with what all but cancels them, and beside it."""
    random = np.random.default_rng(0)
    finite = ALL[np.isfinite(numbers(ALL))]
    first = np.concatenate([finite] * 4)
    others = [random.permutation(first) for _ in weights[1:]]
    if others:
        with np.errstate(all="ignore"):
            against = stored(-numbers(first) * weights[0] / weights[1])
        moved = against + np.repeat(np.array([0, 1, 0, 65535], np.uint16), finite.size)
        others[0] = np.where(np.repeat([0, 0, 1, 1], finite.size), others[0], moved)
    return np.array([first, *others], np.uint16)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_sum_is_the_one_in_float64_rounded_once(weights: tuple[float, ...]) -> None:
    bits = cases(weights)
    found = np.empty(bits.shape[1], np.uint16)
    finite = kernels.weighted_sum(bits, np.array(weights), found)
    with np.errstate(all="ignore"):
        exact = sum(weight * numbers(row) for weight, row in zip(weights, bits, strict=True))
    same_numbers(found, rounded_by_torch(exact))
    assert finite == np.isfinite(numbers(found)).all()


def rounded_by_torch(values: np.ndarray) -> torch.Tensor:
    """By way of a float32 that is cut, so that torch's own rounding is the only one."""
    with np.errstate(over="ignore", invalid="ignore"):
        near = values.astype(np.float32)
        beyond = np.abs(near.astype(np.float64)) > np.abs(values)
        cut = np.where(beyond, np.nextafter(near, np.float32(0)), near)
    inexact = cut.astype(np.float64) != values
    bits = cut.view(np.uint32) | (inexact & np.isfinite(values)).astype(np.uint32)
    return torch.from_numpy(bits.view(np.float32))


@pytest.mark.parametrize("elements", [1, 1023, 1024, 3001])
@pytest.mark.parametrize("models", [1, 2, 3])
def test_dot_products_are_those_of_float64(models: int, elements: int) -> None:
    random = np.random.default_rng(elements)
    bits = stored(random.standard_normal(models * elements)).reshape(models, elements)
    wide = numbers(bits.ravel()).reshape(bits.shape)
    exact = [[math.fsum(x * y) for y in wide] for x in wide]
    np.testing.assert_allclose(kernels.gram_of_bits(bits), exact, rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(kernels.gram(wide), exact, rtol=1e-13, atol=1e-12)


def test_where_nothing_can_be_kept_the_loops_are_compiled_all_the_same() -> None:
    """As in a package folder and a home that cannot be written."""
    code = """
import numba.core.caching as caching, numpy as np
caching.CacheImpl._locator_classes = []
from importlib import import_module
kernels = import_module("dusk.merge.kernels")
out = np.empty(1, np.uint16)
assert kernels.weighted_sum(np.array([[0x3F80], [0x4040]], np.uint16), np.array([0.5, 0.5]), out)
print(hex(out[0]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0x4000"  # (1 + 3) / 2
