"""AdamW with bf16 states against torch's in float32; what rounding would lose, and what stays."""

from pathlib import Path

import pytest
import torch

import dusk
from dusk.train.adamw16 import AdamW16, rounded_stochastically
from train_models import KillAfter, Killed, assert_same_weights, metrics, save_base, text_file, weights

TINY = 5e-7  # DPO's learning rate


def test_stochastic_rounding_is_right_in_the_mean_and_exact_where_it_can_be():
    source = torch.Generator().manual_seed(0)
    value = 1.0 + 1 / 1024  # between two neighbours in bf16, an eighth of the way
    rounded = rounded_stochastically(torch.full((100_000,), value), source)
    assert set(rounded.tolist()) == {1.0, 1.0078125}
    assert float(rounded.double().mean()) == pytest.approx(value, abs=1e-4)
    exact = torch.randn(1000, generator=source).to(torch.bfloat16)
    assert torch.equal(rounded_stochastically(exact.float(), source), exact)


def weights_after(steps: int, weight: torch.Tensor, gradients: torch.Tensor, kind: str) -> torch.Tensor:
    parameter = torch.nn.Parameter(weight.clone())
    if kind == "sixteen":
        optimizer: torch.optim.Optimizer = AdamW16([parameter], lr=TINY, betas=(0.9, 0.95), seed=0)
    else:
        optimizer = torch.optim.AdamW([parameter], lr=TINY, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(steps):
        parameter.grad = gradients[step].to(parameter.dtype)
        optimizer.step()
    return parameter.detach()


def test_at_the_rate_of_alignment_bf16_weights_move_in_the_mean_where_rounding_stops_them():
    """Of weights 0.02 wide plain bf16 changes 1 % in a step; stochastic rounding moves them as float32 does."""
    random = torch.Generator().manual_seed(0)
    weight = (torch.randn(200_000, generator=random) * 0.02).to(torch.bfloat16)
    gradients = torch.ones(20, 200_000)  # one direction: Adam moves each weight by the rate, 20 times
    exact = weights_after(20, weight.float(), gradients, "torch")
    nearest = weights_after(1, weight, gradients, "torch")
    changed = float((nearest != weight).float().mean())
    assert 0.002 < changed < 0.03
    kept = weights_after(20, weight, gradients, "sixteen")
    moved, expected = (kept.double() - weight.double()).mean(), (exact.double() - weight.double()).mean()
    assert float(expected) == pytest.approx(-20 * TINY, rel=1e-2)
    assert float(moved) == pytest.approx(float(expected), rel=0.05)


def test_in_float32_it_follows_adamw():
    random = torch.Generator().manual_seed(1)
    weight, gradients = torch.randn(2000, generator=random), torch.randn(30, 2000, generator=random)
    ours, theirs = (weights_after(30, weight, gradients, kind) - weight for kind in ("sixteen", "torch"))
    assert float((ours - theirs).norm() / theirs.norm()) < 0.02


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_a_run_continues_bit_equal(tmp_path: Path, kind: str):
    base = save_base(tmp_path / "base", model_type="llama", dtype="bfloat16")
    given = {"optimizer": "adamw-bf16", "weights": kind, "batch_tokens": 200, "tokens": 800, "threads": 1}
    data = text_file(tmp_path)
    dusk.pretrain(base, tmp_path / "whole", data=data, **given)
    with pytest.raises(Killed):
        dusk.pretrain(base, tmp_path / "out", data=data, **given, save_every_seconds=0, progress=KillAfter(3))
    dusk.pretrain(base, tmp_path / "out", data=data, **given)
    assert_same_weights(tmp_path / "out", tmp_path / "whole")
    assert metrics(tmp_path / "out") == metrics(tmp_path / "whole")


def test_a_result_in_float32_keeps_what_a_save_in_bf16_would_round_away(tmp_path: Path):
    base = save_base(tmp_path / "base", dtype="bfloat16")
    given = {"data": text_file(tmp_path), "learning_rate": TINY, "tokens": 300, "threads": 1}
    dusk.pretrain(base, tmp_path / "source", **given)
    dusk.pretrain(base, tmp_path / "wide", save_dtype="fp32", **given)
    before, narrow, wide = (weights(folder) for folder in (base, tmp_path / "source", tmp_path / "wide"))
    name = "model.layers.0.mlp.up_proj.weight"
    assert (narrow[name].dtype, wide[name].dtype) == (torch.bfloat16, torch.float32)
    assert float((narrow[name] != before[name]).float().mean()) < 0.2
    assert float((wide[name] != before[name].float()).float().mean()) > 0.95
    assert torch.equal(wide[name].to(torch.bfloat16), narrow[name])
