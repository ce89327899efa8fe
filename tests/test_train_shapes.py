"""In bf16 on a processor, packed rows are filled up to numbers that come again, and nothing else changes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from dusk.data.packing import TokenDocument, TokenStore, build_store
from dusk.train import objectives, shapes
from dusk.train.attention import packed
from dusk.train.batch import packed_batch
from dusk.train.objectives import NextToken
from dusk.train.preference import answer_log_probabilities

ModelFolder = Callable[..., Path]

LENGTHS = (41, 3, 77, 20, 129, 7)
PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}


class Shapes(TorchDispatchMode):
    """The sizes of all factors of products in bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in PRODUCTS:
            factors = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.dtype == torch.bfloat16]
            self.sizes |= {size for factor in factors for size in factor.shape[-2:]}
        return function(*args, **(kwargs or {}))


def random_store() -> TokenStore:
    random = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, 96, (length,), generator=random).tolist() for length in LENGTHS]
    return build_store([TokenDocument(one, [i >= 3 for i in range(len(one))], len(one)) for one in ids])


@contextmanager
def in_bf16(*, autocast: bool) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        yield


def step(folder: Path, objective: Callable[..., Any], *, autocast: bool) -> list[torch.Tensor]:
    """What a packed row gives, and the gradients of all weights."""
    dtype = torch.float32 if autocast else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).train()
    store = random_store()
    with packed(model), in_bf16(autocast=autocast):
        found = objective(model, packed_batch(store, range(store.units)))
    found.sum().backward()
    return [found.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]


def loss(model: Any, batch: Any) -> torch.Tensor:
    return NextToken()(model, batch)[0]


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("objective", [loss, answer_log_probabilities])
def test_products_have_rows_that_come_again(
    model_folder: ModelFolder, objective: Callable[..., Any], autocast: bool, monkeypatch: pytest.MonkeyPatch
):
    folder = model_folder(
        "llama", num_key_value_heads=2, hidden_size=64, vocab_size=96, intermediate_size=160
    )
    with Shapes() as filled:
        found = step(folder, objective, autocast=autocast)
    assert {size for size in filled.sizes if size % 32} <= {16}  # the size of a head
    for module in (shapes, objectives):
        monkeypatch.setattr(module, "rows_missing", lambda rows: 0)
    with Shapes() as ragged:
        expected = step(folder, objective, autocast=autocast)
    assert sum(LENGTHS) in ragged.sizes  # 277
    for one, other in zip(found, expected, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=0.01 * scale)


def test_at_most_a_32nd_is_filled_up_from_1024_rows_on():
    assert [rows + shapes.rows_missing(rows) for rows in (1, 32, 33, 1024, 1025)] == [32, 32, 64, 1024, 1056]
    assert [rows + shapes.rows_missing(rows) for rows in (2047, 2049, 4096, 4097)] == [2048, 2112, 4096, 4224]
    for power in range(10, 20):
        numbers = {rows + shapes.rows_missing(rows) for rows in range((1 << power) + 1, (2 << power) + 1)}
        assert len(numbers) == 32


def test_other_arithmetic_is_left_as_it_is():
    rows = torch.ones(2, 33, 5)
    assert shapes.filled(rows) is rows
    with in_bf16(autocast=True):
        assert torch.equal(shapes.filled(rows), torch.cat([rows, torch.zeros(2, 31, 5)], 1))
    assert shapes.filled(rows.bfloat16()).shape == (2, 64, 5)
    assert shapes.filled(rows[:, :32].bfloat16()).shape == (2, 32, 5)
    assert shapes.filled(rows.to("meta").bfloat16()).shape == rows.shape
