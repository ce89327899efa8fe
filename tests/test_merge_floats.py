"""Stored numbers of a merge: bfloat16 read, rounded once and paired, against torch and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dusk.merge import floats


def stored(values: np.ndarray, dtype: str = "BF16") -> np.ndarray:
    out = np.empty(values.shape, floats.STORED[dtype])
    with np.errstate(invalid="ignore"):  # NaNs that signal
        floats.encode(values.astype(np.float64), dtype, out)
    return out


def numbers(bits: np.ndarray) -> np.ndarray:
    out = np.empty(bits.shape, np.float32)
    floats.decode(bits, "BF16", out)
    return out


def same_numbers(ours: np.ndarray, theirs: torch.Tensor) -> None:
    np.testing.assert_array_equal(numbers(ours), theirs.to(torch.bfloat16).float().numpy())


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_bfloat16_rounds_as_torch_does(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    same_numbers(stored(array), torch.from_numpy(array.copy()))


@given(st.integers(0, 2**16 - 1), st.integers(-3, 3))
def test_float64_becomes_bfloat16_in_one_rounding(bits: int, steps: int) -> None:
    low, high = (float(numbers(np.array([b], np.uint16))[0]) for b in (bits, bits + 1 & 0xFFFF))
    if not (math.isfinite(low) and math.isfinite(high)) or (low < 0) != (high < 0):
        return
    middle = low / 2 + high / 2  # exact in float64; float32 would round a value beside it onto it
    value = middle + steps * np.spacing(middle) * (middle != 0)
    nearer = {0: low if bits % 2 == 0 else high}.get(int(np.sign(value - middle)))
    expected = nearer if nearer is not None else (low if abs(value - low) < abs(value - high) else high)
    assert numbers(stored(np.array([value])))[0] == np.float32(expected)


def test_every_bfloat16_survives_the_round_trip() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    number = ~np.isnan(numbers(every))
    np.testing.assert_array_equal(numbers(stored(numbers(every)))[number], numbers(every)[number])
    assert np.isnan(numbers(stored(numbers(every)))[~number]).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_pairs_are_the_same_numbers_rounded_alike(kind: type) -> None:
    every = np.random.default_rng(0).permutation(1 << 16).astype(np.uint16)
    values = np.empty((2, every.size // 2), np.float32)
    floats.decode_pairs(every.view(np.uint32), values)
    np.testing.assert_array_equal(values.T.ravel(), numbers(every))
    with np.errstate(all="ignore"):
        values *= np.float32(1.003)
        expected, out = stored(values.T.ravel()), np.empty(every.size // 2, np.uint32)
        wide = values.astype(kind)
        assert not floats.encode_pairs(wide, np.empty(wide.nbytes, np.uint8), out)
    np.testing.assert_array_equal(numbers(out.view(np.uint16)), numbers(expected))


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (3.3e38, True), (3.4e38, False), (np.inf, False)])
def test_what_is_not_finite_once_stored_is_seen(value: float, finite: bool) -> None:
    values = np.full((2, 50), 3.3e38, np.float32)  # their sum is infinite, they are not
    values[1, 7] = value
    for kind in (np.float32, np.float64):
        scratch, out = np.empty(100 * np.dtype(kind).itemsize, np.uint8), np.empty(50, np.uint32)
        assert floats.encode_pairs(values.astype(kind), scratch, out) == finite


def test_what_is_too_large_for_bfloat16_or_no_number() -> None:
    """Exponents beside those where the rounding's own constant leaves the range of float64."""
    large = [2.0**power for power in (127, 128, 977, 978, 979, 980, 1023)] + [math.inf]
    values = np.array([*large, *(-value for value in large), math.nan, 0.0, 2.0**-134, 2.0**-133])
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16)
    same_numbers(stored(values), expected)
