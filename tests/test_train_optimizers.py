"""Optimizers against torch's own, and the count of operations against torch's counter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dusk.data.packing import TokenDocument, build_store
from dusk.train.attention import packed
from dusk.train.batch import PlannedBatches, packed_batch
from dusk.train.flops import unit_flops
from dusk.train.model import load_model
from dusk.train.objectives import NextToken
from dusk.train.optimizers import make_optimizer
from dusk.train.pretrain import pretrain
from dusk.train.settings import TrainSettings
from train_models import KillAfter, Killed, assert_same_weights, metrics, save_base, text_file

SETTINGS: dict[str, Any] = {"batch_tokens": 128, "sequence_length": 64, "learning_rate": 1e-2, "threads": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_norms_do_not_decay(base: Path, optimizer: Any):
    model = load_model(base)
    made = make_optimizer(model, TrainSettings(optimizer=optimizer, weight_decay=0.3))
    held = [parameter for group in made.param_groups for parameter in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    decays = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert {decays[id(p)] for p in model.parameters() if p.ndim < 2} == {0.0}
    assert {decays[id(p)] for p in model.model.layers.parameters() if p.ndim == 2} == {0.3}


def test_muon_steps_are_torchs_own_on_matrices_and_adamw_on_the_rest(base: Path):
    model, other = load_model(base), load_model(base)
    made = make_optimizer(model, TrainSettings(optimizer="muon", learning_rate=1e-2, weight_decay=0.1))
    matrices = [p for p in other.model.layers.parameters() if p.ndim == 2]
    rest = [p for p in other.parameters() if all(p is not q for q in matrices)]
    theirs = [
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1),
        torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    for _ in range(3):
        for network, optimizers in ((model, [made]), (other, theirs)):
            network(torch.arange(20)[None], labels=torch.arange(20)[None]).loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_muon_resumes_bit_equal(base: Path, tmp_path: Path):
    given = {"data": text_file(tmp_path), "optimizer": "muon", **SETTINGS}
    pretrain(base, tmp_path / "whole", **given)
    with pytest.raises(Killed):
        pretrain(base, tmp_path / "out", **given, save_every_seconds=0, progress=KillAfter(4))
    pretrain(base, tmp_path / "out", **given)
    assert_same_weights(tmp_path / "out", tmp_path / "whole")
    assert metrics(tmp_path / "out") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("per_unit", [1, 3])
def test_operations_are_those_that_torch_counts(base: Path, per_unit: int):
    model = load_model(base)
    lengths = (9, 30, 17, 5, 12, 8)
    documents = [TokenDocument(list(range(n)), [i >= n // 3 for i in range(n)]) for n in lengths]
    store = build_store(documents, documents_per_unit=per_unit)
    batches = PlannedBatches(store, [list(range(store.units))])
    counter = FlopCounterMode(display=False)
    with packed(model), counter:
        loss, _ = NextToken()(model, packed_batch(store, batches.plan[0]))
        loss.backward()
    products = sum(
        count
        for operation, count in counter.get_flop_counts()["Global"].items()
        if "attention" not in str(operation)
    )
    seen = sum(n * n for n in lengths)
    if per_unit == 3:  # the queries of a branch see all of its prefix
        seen += 2 * 9 * (30 + 17) + 2 * 5 * (12 + 8)
    attention = 6 * 2 * 32 * seen
    assert unit_flops(model, store).sum() == products + attention
