"""Solar Pro in transformers against the published rule, written out by hand in solar_reference.py."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from dusk.skips import PUBLISHED
from dusk.solar_pro import SolarConfig, SolarForCausalLM, skip_weight
from dusk.train.attention import packed, packing_of
from dusk.train.support import require_trainable
from solar_models import SIZES, difference, plain, random_skips, reference, solar_model, tokens_of
from solar_reference import logits_of

SHAPES = {  # every slot used, nested, adjacent, both at once, absent, past the last layer
    "none": "",
    "nested": "1-6,2-4",
    "adjacent": "1-2,2-3,3-4",
    "shared store": "1-3,1-5,4-7",
    "both at once": "0-4,2-4",
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("seed", range(10))
def test_logits_are_those_of_the_rule(seed: int, attention: str) -> None:
    layers = 5 + seed
    window = [None, 5, 2047][seed % 3]
    model = solar_model(
        random_skips(seed, layers), layers, seed, sliding_window=window, attn_implementation=attention
    )
    assert model.config._attn_implementation == attention
    row = tokens_of(model, 12, seed=seed)
    for training in (False, True):
        found = model.train(training)(row[None], use_cache=False).logits[0]
        assert difference(found, reference(model, row, training=training)) < 1e-6


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_shapes_of_skips(spec: str, attention: str) -> None:
    how: dict[str, Any] = {"sliding_window": 5, "attn_implementation": attention}
    lists = {f"bskcn_{i}": [] for i in range(1, 5)}
    model = (
        solar_model(spec, seed=3, **how)
        if spec
        else SolarForCausalLM(SolarConfig(**SIZES, num_hidden_layers=8, **lists, **how)).eval()
    )
    row = tokens_of(model, 9)
    expected = reference(model, row)
    assert difference(model(row[None]).logits[0], expected) < 1e-6
    first = model(row[None, :6], use_cache=True)
    second = model(row[None, 6:], past_key_values=first.past_key_values, use_cache=True)
    assert difference(torch.cat([first.logits, second.logits], dim=1)[0], expected) < 1e-6


def test_the_published_lists_and_those_past_the_last_layer() -> None:
    for layers in (64, 32, 22):  # 22: stored at 20, never used
        model = solar_model(PUBLISHED, layers, hidden_size=16, intermediate_size=24)
        row = tokens_of(model, 6)
        assert difference(model(row[None]).logits[0], reference(model, row)) < 1e-6


def test_the_tests_would_see_another_rule() -> None:
    model = solar_model("1-4,2-6")
    row = tokens_of(model, 9)
    found = model(row[None]).logits[0]
    for change in ({"bskcn_tv": [0.9, 0.81]}, {"bskcn_3": [5]}, {"bskcn_2": []} | {"bskcn_4": []}):
        other = logits_of(row, model.state_dict(), {**plain(model.config), **change})
        assert difference(found, other) > 1e-4


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_gradients_are_those_of_the_rule_with_checkpointing_and_without(reentrant: bool | None) -> None:
    model = solar_model("1-4,2-6,5-7", sliding_window=5).train()
    row = tokens_of(model, 9)
    weights = {name: tensor.double().requires_grad_() for name, tensor in model.state_dict().items()}
    expected = logits_of(row, weights, plain(model.config), training=True)
    torch.nn.functional.cross_entropy(expected[:-1], row[1:]).backward()
    if reentrant is not None:
        enable = (
            getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        )
        enable({"use_reentrant": reentrant})
        assert all(layer.gradient_checkpointing for layer in model.model.layers)
    model(row[None], labels=row[None], use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        wanted = weights[name].grad
        assert wanted is not None
        assert parameter.grad is not None
        scale = max(float(wanted.abs().max()), 1e-3)
        assert float((parameter.grad - wanted).abs().max()) < 2e-6 * scale, name


def test_packed_documents_do_not_see_each_other() -> None:
    model = solar_model("1-4,2-6", sliding_window=5)
    lengths = (7, 3, 8)
    row = tokens_of(model, sum(lengths))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packing = packing_of(torch.tensor([0, *lengths]).cumsum(0))
    with packed(model):
        states = model.model(row[None], position_ids=positions, use_cache=False, packing=packing)
    found = model.lm_head(states.last_hidden_state[0]).split(lengths)
    for logits, document in zip(found, row.split(lengths), strict=True):
        assert difference(logits, reference(model, document)) < 1e-6
    require_trainable(model)


def test_the_weight_of_the_skips_can_be_fixed() -> None:
    model = solar_model("1-4,2-6")
    row = tokens_of(model, 9)
    inference, training = reference(model, row), reference(model, row, training=True)
    assert difference(training, inference) > 1e-3
    with skip_weight(model, "training"):
        assert difference(model.eval()(row[None]).logits[0], training) < 1e-6
        with skip_weight(model, "inference"):
            assert difference(model.train()(row[None]).logits[0], inference) < 1e-6
        assert difference(model(row[None]).logits[0], training) < 1e-6
    assert difference(model.eval()(row[None]).logits[0], inference) < 1e-6
    assert difference(model.train()(row[None]).logits[0], training) < 1e-6
    with pytest.raises(ValueError, match="it is auto, training or inference"), skip_weight(model, "eval"):  # type: ignore[arg-type]
        pass


class Operations(TorchDispatchMode):
    """Counts what is computed, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_the_skips_are_six_operations_and_nothing_else() -> None:
    """The published lists: six blends, where the issue of cost allows twelve element-wise operations."""
    sizes = {**SIZES, "num_hidden_layers": 64, "hidden_size": 16, "intermediate_size": 16}
    solar = SolarForCausalLM(SolarConfig(**sizes, **PUBLISHED.to_config(), sliding_window=None)).eval()
    llama = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    row = tokens_of(solar, 1, 5)
    counted = []
    for model in (solar, llama):
        with Operations() as operations, torch.no_grad():
            model(row)
        counted.append(operations.counts)
    assert counted[0] - counted[1] == {"aten.lerp.Scalar": 6}
    assert counted[1] - counted[0] == {}
