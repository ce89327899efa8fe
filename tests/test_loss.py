"""The chunked losses against torch.nn.functional in float64, values and gradients; DPO's formula by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from dusk.train import loss as losses
from dusk.train.loss import IGNORED, log_probabilities, summed_cross_entropy
from dusk.train.preference import preference_losses

ROWS, SIZE, VOCABULARY = 300, 8, 50


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", 64 * VOCABULARY)  # five chunks, the last one short


def problem(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, SIZE, generator=random, dtype=torch.float64) * scale
    head = torch.randn(VOCABULARY, SIZE, generator=random, dtype=torch.float64)
    labels = torch.randint(VOCABULARY, (ROWS,), generator=random)
    return hidden.to(dtype).requires_grad_(), head.to(dtype).requires_grad_(), labels


def expected_sum(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(hidden.double() @ head.double().T, labels, ignore_index=IGNORED, reduction="sum")


def expected_logs(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return log_softmax(hidden.double() @ head.double().T, 1).gather(1, labels[:, None])[:, 0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(summed_cross_entropy, expected_sum), (log_probabilities, expected_logs)]
)
def test_values_and_gradients(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], dtype: torch.dtype, tolerance: float
):
    hidden, head, labels = problem(dtype)
    weights = torch.linspace(-1, 2, ROWS, dtype=torch.float64)
    found, expected = ours(hidden, head, labels), theirs(hidden, head, labels)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    factor = weights if found.ndim else torch.tensor(0.37, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * factor).sum(), [hidden, head])
    for one, other in zip(torch.autograd.grad((found * factor).sum(), [hidden, head]), wanted, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("ours", [summed_cross_entropy, log_probabilities])
def test_gradcheck(ours: Callable[..., Tensor]):
    hidden, head, labels = problem()
    few = hidden.detach()[:7].requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: ours(h, w, labels[:7]), (few, head))


def test_ignored_rows_count_nothing():
    hidden, head, labels = problem()
    labels[::3] = IGNORED
    torch.testing.assert_close(summed_cross_entropy(hidden, head, labels), expected_sum(hidden, head, labels))
    nothing = summed_cross_entropy(hidden, head, torch.full_like(labels, IGNORED))
    nothing.backward()
    assert nothing.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


@pytest.mark.parametrize("ours", [summed_cross_entropy, log_probabilities])
def test_large_logits_stay_finite(ours: Callable[..., Tensor]):
    hidden, head, labels = problem(torch.float32, scale=1e4)
    ours(hidden, head, labels).sum().backward()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("ours", [summed_cross_entropy, log_probabilities])
def test_a_frozen_head_gets_no_gradient(ours: Callable[..., Tensor]):
    hidden, head, labels = problem(torch.float32)
    frozen = head.detach()
    (expected,) = torch.autograd.grad(ours(hidden, head, labels).sum(), [hidden])
    (found,) = torch.autograd.grad(ours(hidden, frozen, labels).sum(), [hidden])
    assert torch.equal(expected, found)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(summed_cross_entropy, expected_sum), (log_probabilities, expected_logs)]
)
def test_under_autocast_products_are_bf16_and_sums_float32(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor]
):
    hidden, head, labels = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(hidden, head, labels)
    assert found.dtype == torch.float32
    rounded = (
        hidden.detach().bfloat16().float().requires_grad_(),
        head.detach().bfloat16().float().requires_grad_(),
    )
    expected = theirs(*rounded, labels)
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=0.05)
    wanted = torch.autograd.grad(expected.sum(), rounded)
    for one, other in zip(torch.autograd.grad(found.sum(), [hidden, head]), wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 * float(other.abs().max()))


def test_preference_losses_by_hand():
    chosen, rejected = torch.tensor([0.0, 3.0, -2.0]), torch.tensor([0.0, 1.0, 4.0])
    by_hand = [math.log(1 + math.exp(-0.1 * (c - r))) for c, r in zip(chosen, rejected, strict=True)]
    assert preference_losses(chosen, rejected, 0.1).tolist() == pytest.approx(by_hand, rel=1e-6)
    assert by_hand[0] == pytest.approx(math.log(2))
