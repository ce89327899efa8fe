"""Weighted sums of bfloat16 in float32: the same bits as float64 rounded once, for all that bfloat16 holds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dusk.checkpoint import read_header
from dusk.checkpoint.positioned import InputFiles
from dusk.merge import floats
from dusk.merge.linear import summed
from dusk.merge.method import Chosen
from dusk.merge.pieces import Lane
from dusk.merge.slerp import slerp_weights

Saved = Callable[..., list[Path]]

SLERP = slerp_weights(0.5, 0.1, 1.0, 1.0), slerp_weights(0.3, -0.2, 1.0, 2.0), slerp_weights(0.9, -0.99, 1, 1)
WEIGHTS = [(w.first, w.second) for w in SLERP] + [
    (0.4142135, 0.5857865),
    (1.7182818, -0.7182818),
    (-0.0031416, 1.0031416),
    (0.75, 1.0),
    (2.5, -2.5),
]
ALL = np.arange(1 << 16, dtype=np.uint16)


def numbers(bits: np.ndarray) -> np.ndarray:
    out = np.empty(bits.shape)
    with np.errstate(invalid="ignore"):  # NaNs that signal
        floats.decode(bits, "BF16", out)
    return out


def pairs(weights: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """bfloat16 bits: every one with a random one, with what all but cancels it, and with its neighbours."""
    random = np.random.default_rng(0)
    finite = ALL[np.isfinite(numbers(ALL))]
    first = np.concatenate([finite] * 4)
    with np.errstate(all="ignore"):
        opposite = -numbers(first) * weights[0] / weights[1]
    against = np.empty(first.shape, np.uint16)
    floats.encode(opposite, "BF16", against)
    moved = against + np.repeat(np.array([0, 1, 0, 65535], np.uint16), finite.size)
    second = np.where(np.repeat([0, 0, 1, 0], finite.size), random.permutation(first), moved).astype(
        np.uint16
    )
    return first, second


def merged(chosen: Chosen, files: list[Path], *, narrow: bool) -> tuple[np.ndarray, list[bool]]:
    """The bits of tensor `x`, and for every piece whether it is finite."""
    entries = [read_header(file).tensors["x"] for file in files]
    out, finite = np.empty(entries[0].elements, np.uint16), []
    with InputFiles() as opened, np.errstate(all="ignore"):
        lane = Lane(2, {entry.file: opened[entry.file] for entry in entries})
        for piece in lane.pieces(entries, 0, out.size, narrow=narrow):
            target = out[piece.begin : piece.begin + piece.count].view(np.uint8)
            finite.append(lane.merge(piece, chosen, "BF16", target))
    return out, finite


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    def save(*bits: np.ndarray) -> list[Path]:
        files = [tmp_path / f"{index}.safetensors" for index in range(len(bits))]
        for file, values in zip(files, bits, strict=True):
            save_file({"x": torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16)}, file)
        return files

    return save


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_sum_of_two_has_the_bits_of_float64(saved: Saved, weights: tuple[float, float]) -> None:
    first, second = pairs(weights)
    chosen = summed(weights)
    assert chosen.in_float32 is not None
    with np.errstate(all="ignore"):
        exact = numbers(first) * weights[0] + numbers(second) * weights[1]
        expected = np.empty(first.shape, np.uint16)
        floats.encode(exact, "BF16", expected)
    found, finite = merged(chosen, saved(first, second), narrow=True)
    number = ~np.isnan(numbers(expected))
    np.testing.assert_array_equal(numbers(found)[number], numbers(expected)[number])
    assert np.isnan(numbers(found)[~number]).all()
    assert all(finite) == np.isfinite(numbers(expected)).all()


def test_without_the_second_look_some_bits_differ(saved: Saved) -> None:
    """That it is needed: float32 alone rounds some values to the wrong side."""
    weights = WEIGHTS[3]
    chosen = summed(weights)
    files = saved(*pairs(weights))
    exact, _ = merged(Chosen(chosen.combine), files, narrow=False)
    assert chosen.in_float32 is not None
    alone = Chosen(chosen.combine, in_float32=type(chosen.in_float32)(chosen.in_float32.combine, doubt=0))
    assert 0 < (merged(alone, files, narrow=True)[0] != exact).sum() < 100
    np.testing.assert_array_equal(numbers(merged(chosen, files, narrow=True)[0]), numbers(exact))


@pytest.mark.parametrize(
    "weights", [(0.4, 0.6), (0.25, 0.75), (1e-6, 1.0), (20.0, 3.0), (0.2, 0.3, 0.5), (0.7, 0.2, 0.1)]
)
def test_what_may_cancel_too_far_stays_in_float64(weights: tuple[float, ...]) -> None:
    assert summed(weights).in_float32 is None
