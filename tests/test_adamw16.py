"""AdamW with bf16 states against torch's in float32; what rounding would lose, and what stays."""

from pathlib import Path
from typing import Any

import pytest
import torch

import dusk
from dusk.errors import SettingError
from dusk.train.adamw16 import AdamW16, rounded_stochastically
from dusk.train.settings import TrainSettings
from train_models import (
    KillAfter,
    Killed,
    assert_same_weights,
    metrics,
    pair_file,
    save_base,
    text_file,
    weights,
)

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


ONE_PASS: dict[str, Any] = {
    "optimizer": "adamw-bf16",
    "batch_tokens": 200,
    "micro_batch_tokens": 200,
    "tokens": 800,
    "grad_clip": 0.0,
    "threads": 1,
}
AT_ONCE: dict[str, Any] = {**ONE_PASS, "update_in_backward": True}


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many gradients there were at each update of a parameter."""
    counts: list[int] = []
    update = AdamW16._update

    def counted(self: AdamW16, *given: Any) -> None:
        params = [p for group in self.param_groups for p in group["params"]]
        counts.append(sum(p.grad is not None for p in params))
        update(self, *given)

    monkeypatch.setattr(AdamW16, "_update", counted)
    return counts


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"weights": "bf16"},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "weights": "bf16"},
        {"gradient_checkpointing": True, "precision": "bf16"},
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_updates_in_the_backward_pass_are_the_same_and_hold_one_gradient(
    tmp_path: Path, living: list[int], more: dict[str, Any], tied: bool
):
    base = save_base(tmp_path / "base", model_type="llama", dtype="bfloat16", tie_word_embeddings=tied)
    data = text_file(tmp_path)
    dusk.pretrain(base, tmp_path / "after", data=data, **ONE_PASS, **more)
    assert max(living) == len(weights(tmp_path / "after"))
    living.clear()
    dusk.pretrain(base, tmp_path / "at-once", data=data, **AT_ONCE, **more)
    assert set(living) == {1}
    assert_same_weights(tmp_path / "at-once", tmp_path / "after")
    ours, theirs = (metrics(tmp_path / name) for name in ("at-once", "after"))
    for one, other in zip(ours, theirs, strict=True):
        assert one.get("grad_norm") == pytest.approx(
            other.get("grad_norm"), rel=1e-2
        )  # bf16 norms are rounded
        assert {**one, "grad_norm": 0} == {**other, "grad_norm": 0}


def test_a_run_with_updates_in_the_backward_pass_continues_bit_equal(tmp_path: Path):
    base, data = save_base(tmp_path / "base"), text_file(tmp_path)
    dusk.pretrain(base, tmp_path / "whole", data=data, **AT_ONCE)
    with pytest.raises(Killed):
        dusk.pretrain(
            base, tmp_path / "out", data=data, **AT_ONCE, save_every_seconds=0, progress=KillAfter(3)
        )
    dusk.pretrain(base, tmp_path / "out", data=data, **AT_ONCE)
    assert_same_weights(tmp_path / "out", tmp_path / "whole")
    assert metrics(tmp_path / "out") == metrics(tmp_path / "whole")


def test_each_step_of_an_alignment_has_hooks_of_its_own(tmp_path: Path):
    """Those of the step before would make its updates a second time."""
    base = save_base(tmp_path / "base")
    steps = [pair_file(tmp_path), pair_file(tmp_path, name="more.jsonl", seed=5)]
    given = {"batch_tokens": 4000, "micro_batch_tokens": 4000, "tokens": None, "learning_rate": 1e-3}
    dusk.align(base, tmp_path / "after", steps=steps, **{**ONE_PASS, **given})
    dusk.align(base, tmp_path / "at-once", steps=steps, **{**AT_ONCE, **given})
    assert_same_weights(tmp_path / "at-once", tmp_path / "after")


def test_what_updates_in_the_backward_pass_cannot_have_is_told_at_once(tmp_path: Path):
    with pytest.raises(SettingError) as refused:
        TrainSettings(update_in_backward=True, spike_guard=6.0)
    assert len(refused.value.problems) == 3
    base, data = save_base(tmp_path / "base"), text_file(tmp_path)
    with pytest.raises(SettingError, match="one pass") as refused:
        dusk.pretrain(base, tmp_path / "out", data=data, **{**AT_ONCE, "micro_batch_tokens": 100})
    assert refused.value.problems == ["an update has 2 passes, of 100 tokens"]
