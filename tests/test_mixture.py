"""Mixtures: each file has its share of the tokens in any stretch of a run; such runs continue bit-equal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dusk
from dusk.data.mixture import Mixture, split_shares
from dusk.data.packing import TokenDocument, TokenStore, build_store
from dusk.errors import SettingError
from train_models import KillAfter, Killed, assert_same_weights, metrics, save_base, text_file


def documents_of(lengths: list[int], domain: str, first: int = 0) -> list[TokenDocument]:
    documents = []
    for length in lengths:
        documents.append(TokenDocument(list(range(first, first + length)), [True] * length, length, domain))
        first += length
    return documents


@pytest.fixture
def two() -> tuple[TokenStore, Mixture]:
    random = np.random.default_rng(0)
    documents = [
        document
        for units, name, begin in ((300, "new", 0), (20, "old", 10**6))
        for document in documents_of(random.integers(5, 40, units).tolist(), name, begin)
    ]
    return build_store(documents), Mixture((300, 20), (0.9, 0.1))


def test_shares_hold_in_every_stretch_and_files_come_round_as_often_as_they_must(
    two: tuple[TokenStore, Mixture],
):
    store, mixture = two
    lengths = store.unit_lengths()
    plan = mixture.plan(store, capacity=256, seed=0, tokens=40_000)
    assert all(lengths[batch].sum() <= 256 for batch in plan)
    assert int(sum(lengths[batch].sum() for batch in plan)) == pytest.approx(40_000, abs=40)
    for begin in range(0, len(plan) - 40, 40):
        units = np.concatenate(plan[begin : begin + 40])
        share = lengths[units[units >= 300]].sum() / lengths[units].sum()
        assert share == pytest.approx(0.1, abs=0.02)
    seen = np.bincount(np.concatenate(plan), minlength=320)
    for part in (seen[:300], seen[300:]):
        assert part.max() - part.min() <= 1
    assert seen[300:].min() > 1.5 * seen[:300].max()


def test_the_plan_is_a_function_of_the_seed(two: tuple[TokenStore, Mixture]):
    store, mixture = two
    one, again, other = (mixture.plan(store, capacity=256, seed=seed, tokens=5000) for seed in (0, 0, 1))
    assert one == again != other


def test_a_share_of_zero_leaves_a_file_out(two: tuple[TokenStore, Mixture]):
    plan = Mixture((300, 20), (1.0, 0.0)).plan(two[0], capacity=256, seed=0, tokens=9000)
    assert max(unit for batch in plan for unit in batch) < 300


def test_a_run_with_replay_continues_bit_equal(tmp_path: Path):
    base = save_base(tmp_path / "base")
    files = [text_file(tmp_path, name="new.jsonl"), text_file(tmp_path, rows=5, name="old.jsonl", seed=90)]
    given: dict[str, Any] = {"data": files, "batch_tokens": 200, "tokens": 1000, "threads": 1}
    dusk.pretrain(base, tmp_path / "whole", shares=[0.7, 0.3], **given)
    assert json.loads((tmp_path / "whole" / "dusk.json").read_text())["settings"]["shares"] == [0.7, 0.3]
    with pytest.raises(Killed):
        dusk.pretrain(
            base, tmp_path / "out", shares=[0.7, 0.3], save_every_seconds=0, progress=KillAfter(2), **given
        )
    given["data"] = [f"{file}={share}" for file, share in zip(files, (0.7, 0.3), strict=True)]  # the same
    dusk.pretrain(base, tmp_path / "out", **given)
    assert_same_weights(tmp_path / "out", tmp_path / "whole")
    assert metrics(tmp_path / "out") == metrics(tmp_path / "whole")


def test_shares_behind_the_names_of_files(tmp_path: Path):
    odd = text_file(tmp_path, name="a=0.5")
    assert split_shares([str(odd), "b"]) == ([str(odd), "b"], None)
    assert split_shares(["x.jsonl=0.9", "y=1"]) == (["x.jsonl", "y"], [0.9, 1.0])
    with pytest.raises(SettingError, match="some files have a share and others none: y"):
        split_shares(["x.jsonl=0.9", "y"])


def test_shares_that_make_no_mixture(tmp_path: Path):
    data = text_file(tmp_path)
    with pytest.raises(SettingError, match=r"2 shares for 1 files(.|\n)*below 0(.|\n)*no share is above 0"):
        dusk.pretrain(save_base(tmp_path / "base"), tmp_path / "out", data=data, shares=[-1.0, 0.0])
