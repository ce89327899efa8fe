"""The paired bootstrap against closed forms."""

import math

import numpy as np
import pytest

from dusk.evaluate import PairedItems, bootstrap, paired_bootstrap, standard_error
from dusk.evaluate.bootstrap import resampled_differences, weighted_mean


def _pair(first, second, weights=None, share=1.0):
    first, second = np.asarray(first, float), np.asarray(second, float)
    weights = np.ones(len(first)) if weights is None else np.asarray(weights, float)
    return PairedItems(first, second, weights, share)


def test_the_interval_is_the_normal_one_for_many_items():
    rng = np.random.default_rng(1)
    first = rng.normal(size=2000)
    second = first + rng.normal(0.05, 1.0, size=2000)
    found = paired_bootstrap([_pair(first, second)])
    change = second - first
    error = change.std(ddof=1) / math.sqrt(2000)
    assert found.difference == pytest.approx(change.mean())
    assert found.low == pytest.approx(change.mean() - 1.96 * error, abs=0.06 * error)
    assert found.high == pytest.approx(change.mean() + 1.96 * error, abs=0.06 * error)
    two_sided = math.erfc(abs(change.mean()) / error / math.sqrt(2))
    assert found.p == pytest.approx(two_sided, abs=0.01)


def test_the_two_item_case_is_enumerated():
    found = resampled_differences([_pair([0, 0], [0, 1])], resamples=100_000)
    values, counts = np.unique(found, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / 100_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.006)


def test_pairing_removes_what_the_models_share():
    rng = np.random.default_rng(2)
    difficulty = rng.normal(0, 10, size=300)
    found = paired_bootstrap([_pair(difficulty, difficulty + 0.1 + rng.normal(0, 0.1, 300))])
    assert 0.08 < found.low < found.high < 0.12
    assert found.p == pytest.approx(2 / 10_001)


def test_equal_models_differ_by_nothing():
    values = np.random.default_rng(3).random(40)
    found = paired_bootstrap([_pair(values, values)])
    assert (found.difference, found.low, found.high, found.p, found.n) == (0.0, 0.0, 0.0, 1.0, 40)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(4)
    hits = 0
    for seed in range(300):
        change = rng.exponential(size=60) - 1.0  # skewed, mean 0
        found = paired_bootstrap([_pair(np.zeros(60), change)], resamples=600, seed=seed)
        hits += found.low <= 0 <= found.high
    assert 0.89 <= hits / 300 <= 0.98


def test_groups_count_alike_whatever_their_size():
    small, large = _pair(np.zeros(10), np.ones(10)), _pair(np.zeros(1000), np.zeros(1000))
    assert paired_bootstrap([small, large]).difference == pytest.approx(0.5)
    shared = [_pair(np.zeros(10), np.ones(10), share=3.0), large]
    found = paired_bootstrap(shared)
    assert (found.difference, found.low, found.high) == (0.75, 0.75, 0.75)


def test_weighted_means_are_ratios_of_sums():
    bits, sizes = np.array([10.0, 40.0, 9.0]), np.array([5.0, 20.0, 3.0])
    assert weighted_mean(bits / sizes, sizes) == pytest.approx(bits.sum() / sizes.sum())
    found = paired_bootstrap([_pair(np.zeros(3), bits / sizes, sizes)])
    assert found.difference == pytest.approx(59 / 28)
    assert found.low >= 2.0 - 1e-12
    assert found.high <= 3.0 + 1e-12


def test_the_standard_error_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(5).normal(size=50)
    expected = values.std(ddof=1) / math.sqrt(50)
    assert standard_error(values, np.ones(50)) == pytest.approx(expected)
    assert standard_error(values, np.full(50, 7.0)) == pytest.approx(expected)
    assert math.isnan(standard_error(values[:1], np.ones(1)))


def test_the_standard_error_of_a_ratio_is_near_the_jackknife():
    rng = np.random.default_rng(6)
    sizes = rng.integers(50, 800, size=200).astype(float)
    values = rng.normal(2.0, 0.4, size=200)
    left_out = [weighted_mean(np.delete(values, i), np.delete(sizes, i)) for i in range(200)]
    jackknife = math.sqrt(199 / 200 * np.sum((left_out - np.mean(left_out)) ** 2))
    assert standard_error(values, sizes) == pytest.approx(jackknife, rel=0.01)


def test_a_seed_gives_one_result_and_pieces_do_not_matter(monkeypatch):
    rng = np.random.default_rng(7)
    pair = _pair(rng.random(30), rng.random(30))
    assert paired_bootstrap([pair], seed=3) == paired_bootstrap([pair], seed=3)
    assert paired_bootstrap([pair], seed=3) != paired_bootstrap([pair], seed=4)
    whole = resampled_differences([pair], resamples=100)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 64)
    assert resampled_differences([pair], resamples=100) == pytest.approx(whole)


@pytest.mark.parametrize("groups", [[], [([], [])]])
def test_no_items_are_an_error(groups):
    with pytest.raises(ValueError, match="at least one item"):
        paired_bootstrap([_pair(*group) for group in groups])
