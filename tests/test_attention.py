"""Packed attention against transformers' own on each document alone; nothing leaks between documents."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from dusk.data.packing import TokenDocument, TokenStore, build_store
from dusk.errors import CheckpointError
from dusk.train import products
from dusk.train.attention import packed
from dusk.train.batch import packed_batch
from dusk.train.blocks import Blocks
from dusk.train.heldout import document_nats
from dusk.train.objectives import NextToken, hidden_states
from dusk.train.products import attention_by_products, causal_sdpa
from dusk.train.support import require_trainable

ModelFolder = Callable[..., Path]

LENGTHS = (11, 1, 37, 2, 5, 37, 20, 1, 64)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"num_key_value_heads": 4}),
    ("llama", {"num_key_value_heads": 2}),
    ("mistral", {"sliding_window": 8}),
    ("mistral", {"sliding_window": 1}),
    ("qwen2", {}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}),
]
IDS = [f"{name}-{'-'.join(map(str, config.values()))}" for name, config in VARIANTS]


def loaded(model_folder: ModelFolder, variant: str, **config: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(model_folder(variant, **config), dtype=torch.float32).eval()


def random_store(lengths: tuple[int, ...] = LENGTHS, *, seed: int = 0, prompts: bool = False) -> TokenStore:
    random = torch.Generator().manual_seed(seed)
    documents = []
    for length in lengths:
        ids = torch.randint(3, 96, (length,), generator=random).tolist()
        trained = [not prompts or i >= length // 2 for i in range(length)]
        documents.append(TokenDocument(ids, trained, length))
    return build_store(documents)


def states(model: PreTrainedModel, store: TokenStore, units: list[int] | None = None) -> torch.Tensor:
    with packed(model):
        return hidden_states(model, packed_batch(store, units or range(store.units)))


def documents_of(store: TokenStore) -> list[torch.Tensor]:
    tokens = torch.from_numpy(store.tokens).long()
    return [tokens[a:b][None] for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)]


@pytest.mark.parametrize(("variant", "config"), VARIANTS, ids=IDS)
def test_packed_states_are_those_of_each_document_alone(
    model_folder: ModelFolder, variant: str, config: dict[str, Any]
):
    model, store = loaded(model_folder, variant, **config), random_store()
    alone = [model.model(document, use_cache=False).last_hidden_state[0] for document in documents_of(store)]
    torch.testing.assert_close(states(model, store), torch.cat(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("variant", "config"), VARIANTS, ids=IDS)
def test_packed_loss_and_gradients_are_those_of_each_document_alone(
    model_folder: ModelFolder, variant: str, config: dict[str, Any]
):
    model, store = loaded(model_folder, variant, **config), random_store(prompts=True)
    expected = torch.zeros(())
    begin = 0
    for document in documents_of(store):
        length = document.shape[1]
        labels = document.masked_fill(~torch.from_numpy(store.trained[begin : begin + length]), -100)
        begin += length
        logits = model(document, use_cache=False).logits[0, :-1].float()
        expected = expected + torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum")
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    with packed(model):
        found, _ = NextToken()(model, packed_batch(store, range(store.units)))
    gradients = torch.autograd.grad(found, list(model.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in wanted)
    for one, other, (name, _) in zip(gradients, wanted, model.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * largest, msg=name)


@pytest.mark.parametrize(("variant", "config"), VARIANTS, ids=IDS)
def test_a_change_in_one_document_leaves_the_others_bit_equal(
    model_folder: ModelFolder, variant: str, config: dict[str, Any]
):
    model, store = loaded(model_folder, variant, **config).train(), random_store()
    before = states(model, store)
    for changed in (0, 2, 4):
        begin, end = store.offsets[changed : changed + 2]
        tokens = store.tokens.copy()
        tokens[begin:end] = (tokens[begin:end] + 17) % 96
        after = states(model, TokenStore(**{**vars(store), "tokens": tokens}))
        others = torch.ones(len(tokens), dtype=torch.bool)
        others[begin:end] = False
        assert torch.equal(before[others], after[others])
        assert not torch.equal(before[begin:end], after[begin:end])


def test_not_even_infinities_reach_another_document(model_folder: ModelFolder):
    """Padding is of the document's own tokens: zero times infinity would be no number."""
    model, store = loaded(model_folder, "llama"), random_store((20, 24, 22))
    before = states(model, store)
    store.tokens[:20] = 0
    with torch.no_grad():
        model.model.embed_tokens.weight[0] = float("inf")
    assert torch.equal(before[20:], states(model, store)[20:])


def test_gradients_of_one_document_do_not_depend_on_the_others(model_folder: ModelFolder):
    model, store = loaded(model_folder, "mistral"), random_store((9, 13, 9))
    embedded: list[torch.Tensor] = []
    model.model.embed_tokens.register_forward_hook(
        lambda _module, _args, out: embedded.append(out.detach().requires_grad_()) or embedded[-1]
    )
    states(model, store)[9:22].square().sum().backward()
    assert embedded[0].grad is not None
    reached = embedded[0].grad[0].abs().sum(1) > 0
    assert reached.tolist() == [False] * 9 + [True] * 13 + [False] * 9


def test_held_out_and_reference_passes_do_not_depend_on_the_packing(model_folder: ModelFolder):
    model, store = loaded(model_folder, "mistral"), random_store(prompts=True)
    together = document_nats(model, store)
    for unit in range(store.units):
        begin, end = store.offsets[unit : unit + 2]
        alone = build_store(
            [TokenDocument(store.tokens[begin:end].tolist(), store.trained[begin:end].tolist())]
        )
        assert document_nats(model, alone)[0] == pytest.approx(together[unit], rel=1e-5, abs=1e-5)


def test_gradient_checkpointing_changes_nothing(model_folder: ModelFolder):
    model, batch = loaded(model_folder, "mistral").train(), packed_batch(random_store(), range(9))
    found = []
    for _ in range(2):
        with packed(model):
            loss, _ = NextToken()(model, batch)
            found.append((loss.detach(), torch.autograd.grad(loss, list(model.parameters()))))
        enable = (
            getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        )
        enable()
    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_packing_pads_little_and_places_every_token():
    boundaries = torch.tensor([0, *LENGTHS]).cumsum(0)
    packing = Blocks.of(boundaries)
    assert torch.equal(packing.slots[packing.places], torch.arange(sum(LENGTHS)))
    assert sum(documents * length for documents, length in packing.blocks) == len(packing.slots)
    long = Blocks.of(
        torch.randint(100, 1000, (200,), generator=torch.Generator().manual_seed(0)).cumsum(0) - 100
    )
    assert len(long.slots) < 1.15 * len(long.places)


def test_attention_without_a_packing_is_refused_and_the_models_own_comes_back(model_folder: ModelFolder):
    model = loaded(model_folder, "llama")
    before = model.config._attn_implementation
    ids = torch.arange(6)[None]
    expected = model(ids).logits
    with packed(model), pytest.raises(ValueError, match="without a packing"):
        model(ids)
    assert model.config._attn_implementation == before
    assert torch.equal(model(ids).logits, expected)


class TestSupport:
    """What this trainer would get wrong is refused before anything is spent."""

    @pytest.mark.parametrize(("variant", "config"), VARIANTS, ids=IDS)
    def test_supported(self, model_folder: ModelFolder, variant: str, config: dict[str, Any]):
        require_trainable(loaded(model_folder, variant, **config))

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            ({"model_type": "gemma2", "attn_logit_softcapping": 50.0}, "soft cap"),
            ({"model_type": "gemma2", "final_logit_softcapping": 30.0}, "scales, caps or shifts"),
            ({"model_type": "granite", "logits_scaling": 4.0}, "scales, caps or shifts"),
            ({"model_type": "cohere", "logit_scale": 0.25}, "scales, caps or shifts"),
            ({"model_type": "phi"}, "head has a bias"),
            ({"model_type": "bloom"}, "attention of its own"),
            ({"model_type": "llama4_text"}, "its decoder from its output head"),
        ],
        ids=["capped-attention", "capped-logits", "granite", "cohere", "head-bias", "alibi", "no-decoder"],
    )
    def test_refused(self, config: dict[str, Any], reason: str):
        from transformers import AutoConfig

        sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "n_head": 4, "n_layer": 2}
        named = {"pad_token_id": 0, "eos_token_id": 2}
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**{**sizes, **heads, **named, **config})
        )
        with pytest.raises(CheckpointError, match=reason):
            require_trainable(model.float())

    def test_a_model_that_ignores_the_packing_is_refused(self, model_folder: ModelFolder):
        model = loaded(model_folder, "llama")
        forward = model.model.layers[1].self_attn.forward

        def leaking(*args: Any, packing: Blocks, **kwargs: Any) -> Any:
            whole = torch.tensor([0, len(packing.places)])
            return forward(*args, packing=Blocks.of(whole), **kwargs)

        model.model.layers[1].self_attn.forward = lambda *args, **kwargs: (
            leaking(*args, **kwargs) if "packing" in kwargs else forward(*args, **kwargs)
        )
        with pytest.raises(CheckpointError, match="change one another"):
            require_trainable(model)


@pytest.mark.parametrize("length", [9, 300])
@pytest.mark.parametrize("window", [None, 1, 5, 130, 290])
@pytest.mark.parametrize("tiles", [False, True])
def test_products_are_sdpa_forward_and_backward(
    length: int, window: int | None, tiles: bool, monkeypatch: pytest.MonkeyPatch
):
    """What bf16 on a processor takes, over one chunk of queries and three; here in float64, gradients too."""
    monkeypatch.setattr(products, "_has_tile_unit", lambda: tiles)
    random = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, length, 8, generator=random, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    )
    distance = torch.arange(length)[:, None] - torch.arange(length)
    band = (distance >= 0) & (distance < (window or length))
    found = attention_by_products(q, k, v, window=window, scale=0.3)
    keys, values = (states.repeat_interleave(2, 1) for states in (k, v))
    scores = (0.3 * q @ keys.mT).masked_fill(~band, float("-inf"))
    expected = scores.softmax(-1) @ values
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=random, dtype=torch.float64)
    for one, other in zip(
        *(torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_in_bf16_products_are_near_float64(monkeypatch: pytest.MonkeyPatch):
    """Gradients as near as SDPA's; the output within twice its distance, since the scores are rounded to bf16."""
    monkeypatch.setattr(products, "_has_tile_unit", lambda: False)
    random = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, heads, 300, 32, generator=random, dtype=torch.float64) for heads in (4, 2, 2)]
    weight = torch.randn(exact[0].shape, generator=random, dtype=torch.float64)

    def found(function: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        given = [states.to(dtype).requires_grad_() for states in exact]
        out = function(*given, window=None, scale=None)
        gradients = torch.autograd.grad((out * weight.to(dtype)).sum(), given)
        return [out.detach().double(), *(gradient.double() for gradient in gradients)]

    wanted = found(causal_sdpa, torch.float64)
    by_products, by_sdpa = (
        [float((one - other).norm()) for one, other in zip(found(f, torch.bfloat16), wanted, strict=True)]
        for f in (attention_by_products, causal_sdpa)
    )
    assert 0 < by_products[0] < 2 * by_sdpa[0]
    assert 0 < math.hypot(*by_products[1:]) < 1.2 * math.hypot(*by_sdpa[1:])
