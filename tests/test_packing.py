"""Stores, cutting, packing and plans: every token in its place, none lost and none twice."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dusk.data.packing import TokenDocument, TokenStore, best_fit, build_store, cut, plan_batches
from dusk.errors import DataError

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=120)


def store_of(lengths: list[int], per_unit: int = 1) -> TokenStore:
    ids = iter(range(10**6))
    documents = [TokenDocument([next(ids) for _ in range(n)], [True] * n, 3 * n) for n in lengths]
    return build_store(documents, documents_per_unit=per_unit)


def test_a_store_holds_documents_one_behind_the_other():
    store = build_store(
        [TokenDocument([5, 6, 7], [False, True, True], 9, "b"), TokenDocument([8], [True], 2, "a")]
    )
    assert store.tokens.tolist() == [5, 6, 7, 8]
    assert store.trained.tolist() == [False, True, True, True]
    assert store.offsets.tolist() == [0, 3, 4]
    assert [store.domains[i] for i in store.domain] == ["b", "a"]
    assert store.text_bytes.tolist() == [9, 2]


def test_a_unit_of_pairs_is_both_documents():
    store = store_of([3, 4, 1, 2], per_unit=2)
    assert store.units == 2
    assert store.unit_lengths().tolist() == [7, 3]
    assert list(store.unit_documents(1)) == [2, 3]


def test_an_empty_store_is_refused():
    with pytest.raises(DataError, match="no document"):
        build_store([])


@given(length=st.integers(1, 300), longest=st.integers(2, 70), size=st.integers(0, 999))
def test_cut_keeps_every_prediction_once_with_the_right_context(length: int, longest: int, size: int):
    document = TokenDocument(list(range(length)), [i % 3 != 0 for i in range(length)], size, "d")
    pieces = cut(document, longest)
    assert all(len(piece.ids) <= longest for piece in pieces)
    predictions = [
        (piece.ids[i], piece.ids[i + 1])
        for piece in pieces
        for i in range(len(piece.ids) - 1)
        if piece.trained[i + 1]
    ]
    assert predictions == [(i, i + 1) for i in range(length - 1) if document.trained[i + 1]]
    assert sum(piece.text_bytes for piece in pieces) == size
    assert all(not piece.trained[0] for piece in pieces[1:])


@given(lengths=LENGTHS, capacity=st.integers(1, 80), seed=st.integers(0, 5))
def test_best_fit_places_every_unit_once_and_overfills_no_bin(lengths: list[int], capacity: int, seed: int):
    array = np.array(lengths, np.int64)
    bins = best_fit(array, capacity, np.random.default_rng(seed).permutation(len(lengths)))
    assert sorted(unit for bin_ in bins for unit in bin_) == list(range(len(lengths)))
    assert all(array[bin_].sum() <= capacity or len(bin_) == 1 for bin_ in bins)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_no_two_bins_could_have_been_one(lengths: list[int]):
    """What best-fit guarantees while no bin is closed: at most one bin is less than half full."""
    array = np.array(lengths, np.int64)
    fills = sorted(int(array[bin_].sum()) for bin_ in best_fit(array, 40, np.arange(len(lengths))))
    assert all(first + second > 40 for first, second in pairwise(fills))


def test_bins_of_a_real_distribution_are_nearly_full():
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(5, 0.8, 5000), 8, 1024).astype(np.int64)
    bins = best_fit(lengths, 4096, random.permutation(len(lengths)))
    assert lengths.sum() / (len(bins) * 4096) > 0.98


@settings(max_examples=30)
@given(lengths=LENGTHS, seed=st.integers(0, 3), epochs=st.integers(1, 3))
def test_a_plan_goes_over_the_data_once_an_epoch_and_repeats_itself(
    lengths: list[int], seed: int, epochs: int
):
    store = store_of(lengths)
    plan = plan_batches(store, capacity=64, seed=seed, epochs=epochs)
    assert plan == plan_batches(store, capacity=64, seed=seed, epochs=epochs)
    counts = np.bincount([unit for batch in plan for unit in batch], minlength=len(lengths))
    assert counts.tolist() == [epochs] * len(lengths)


@settings(max_examples=30)
@given(lengths=LENGTHS, tokens=st.integers(1, 5000))
def test_a_plan_for_so_many_tokens_stops_with_the_batch_that_reaches_them(lengths: list[int], tokens: int):
    store = store_of(lengths)
    sizes = [
        int(store.unit_lengths()[batch].sum())
        for batch in plan_batches(store, capacity=64, seed=0, tokens=tokens)
    ]
    assert sum(sizes) >= tokens > sum(sizes[:-1])


def test_the_seed_and_the_epoch_decide_the_order():
    store = store_of([10] * 50)
    one, two = (plan_batches(store, capacity=20, seed=seed, epochs=2) for seed in (1, 2))
    assert one != two
    assert one[:25] != one[25:]


def test_the_digest_is_of_what_training_sees():
    same, other = store_of([3, 4]), store_of([4, 3])
    assert same.digest() == store_of([3, 4]).digest() != other.digest()


@settings(max_examples=30)
@given(
    pairs=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=80),
    most=st.integers(1, 900),
)
def test_a_thinned_store_is_of_whole_units_from_all_over(pairs: list[tuple[int, int]], most: int):
    store = store_of([length for pair in pairs for length in pair], per_unit=2)
    thinned = store.thinned(most)
    whole = [tuple(store.tokens[store.offsets[d] : store.offsets[d + 1]]) for d in range(store.documents)]
    found = [
        tuple(thinned.tokens[thinned.offsets[d] : thinned.offsets[d + 1]]) for d in range(thinned.documents)
    ]
    every = -(-store.tokens.size // most)
    assert found == [whole[d] for unit in range(0, store.units, every) for d in store.unit_documents(unit)]
    assert thinned.documents_per_unit == 2
    assert len(thinned.text_bytes) == len(thinned.domain) == thinned.documents
