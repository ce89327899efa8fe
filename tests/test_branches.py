"""Pairs whose prompt is computed once: the same log-probabilities, losses and gradients as each answer alone.

Every backend of attention that runs here is held to transformers' own attention on whole documents, and to the
leak tests: what happens in one branch or pair leaves all others bit-equal.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from dusk.data.packing import TokenDocument, TokenStore, build_store
from dusk.train.attention import Backend, packed
from dusk.train.batch import packed_batch
from dusk.train.heldout import document_nats
from dusk.train.objectives import NextToken, hidden_states
from dusk.train.preference import Preference, answer_log_probabilities

ModelFolder = Callable[..., Path]

PAIRS = ((9, 6, 11), (1, 4, 3), (30, 5, 2), (0, 7, 8), (17, 20, 20))  # prompt, chosen, rejected
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("mistral", {"sliding_window": 8}),
    ("mistral", {"sliding_window": 1}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}),
]
IDS = [f"{name}-{config.get('sliding_window', 'full')}" for name, config in VARIANTS]
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
every_backend = pytest.mark.parametrize("backend", ["blocks", "flex"])
every_variant = pytest.mark.parametrize(("variant", "config"), VARIANTS, ids=IDS)


def pair_store(seed: int = 0) -> TokenStore:
    """Pairs as `dusk.data.stores.pair_store` lays them out; the prompt's last token begins each branch."""
    random = torch.Generator().manual_seed(seed)
    documents = []
    for prompt, chosen, rejected in PAIRS:
        shared = torch.randint(3, 96, (prompt + 1,), generator=random).tolist()
        documents.append(TokenDocument(shared[:-1], [False] * prompt))
        for length in (chosen, rejected):
            answer = torch.randint(3, 96, (length,), generator=random).tolist()
            documents.append(TokenDocument([shared[-1], *answer], [False] + [True] * length))
    return build_store(documents, documents_per_unit=3)


def loaded(model_folder: ModelFolder, variant: str, **config: Any) -> PreTrainedModel:
    folder = model_folder(variant, num_hidden_layers=3, **config)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def whole_documents(store: TokenStore) -> Iterator[tuple[torch.Tensor, int]]:
    """Each answer behind its prompt, and where the answer begins."""
    tokens = torch.from_numpy(store.tokens).long()
    parts = [tokens[a:b] for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)]
    for unit in range(store.units):
        prompt, *branches = parts[3 * unit : 3 * unit + 3]
        for branch in branches:
            yield torch.cat([prompt, branch])[None], len(prompt) + 1


def answer_logs(model: PreTrainedModel, store: TokenStore) -> torch.Tensor:
    """By transformers alone, (pairs, 2)."""
    found = []
    for document, begin in whole_documents(store):
        logs = model(document, use_cache=False).logits[0, :-1].log_softmax(-1)
        found.append(logs.gather(1, document[0, 1:, None])[begin - 1 :].sum())
    return torch.stack(found).reshape(-1, 2)


def gradients(loss: torch.Tensor, model: PreTrainedModel) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@every_variant
def test_the_preference_loss_and_its_gradients_are_those_of_whole_documents(
    model_folder: ModelFolder, variant: str, config: dict[str, Any]
):
    model, store = loaded(model_folder, variant, **config), pair_store()
    reference = np.random.default_rng(0).normal(-20, 3, (store.units, 2))
    logs = answer_logs(model, store)
    gains = logs - torch.from_numpy(reference).float()
    expected = -torch.nn.functional.logsigmoid(0.3 * (gains[:, 0] - gains[:, 1])).sum()
    wanted = gradients(expected, model)
    with packed(model):
        batch = packed_batch(store, range(store.units))
        loss, sums = Preference(reference, 0.3)(model, batch)
        found = gradients(loss, model)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sums["logps/chosen"], logs[:, 0].sum().detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sums["logps/rejected"], logs[:, 1].sum().detach(), rtol=1e-5, atol=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in wanted)
    for one, other, (name, _) in zip(found, wanted, model.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6 * largest, msg=name)


@every_backend
@every_variant
def test_the_reference_pass_gives_the_log_probabilities_of_whole_documents(
    model_folder: ModelFolder, variant: str, config: dict[str, Any], backend: Backend
):
    model, store = loaded(model_folder, variant, **config), pair_store()
    nats = document_nats(model, store, backend=backend).reshape(-1, 3)
    expected = -answer_logs(model, store).detach().numpy()
    np.testing.assert_allclose(nats[:, 1:], expected, rtol=1e-5, atol=1e-5)
    assert not nats[:, 0].any()


@pytest.mark.parametrize(
    ("backend", "training"), [("blocks", True), ("blocks", False), ("flex", False)], ids=str
)
@every_variant
def test_a_change_reaches_its_own_branches_alone(
    model_folder: ModelFolder, variant: str, config: dict[str, Any], backend: Backend, training: bool
):
    """In the prompt it reaches both answers, in an answer only what follows in it; all else stays bit-equal."""
    model, store = loaded(model_folder, variant, **config).train(training), pair_store()

    def states(tokens: np.ndarray) -> torch.Tensor:
        changed = TokenStore(**{**vars(store), "tokens": tokens})
        with packed(model, backend), torch.set_grad_enabled(training):
            return hidden_states(model, packed_batch(changed, range(store.units))).detach()

    before = states(store.tokens)
    for document in (1, 2, 6, 7, 8, 10, 13):
        begin, end = (int(at) for at in store.offsets[document : document + 2])
        tokens = store.tokens.copy()
        tokens[begin:end] = (tokens[begin:end] + 17) % 96
        unit = range(document // 3 * 3, document // 3 * 3 + 3)
        last = int(store.offsets[unit.stop]) if document == unit.start else end
        same = torch.ones(len(tokens), dtype=torch.bool)
        same[begin:last] = False
        after = states(tokens)
        assert torch.equal(before[same], after[same]), document
        assert not torch.equal(before[begin:end], after[begin:end])


@every_backend
def test_a_change_leaves_the_log_probabilities_of_other_pairs_bit_equal(
    model_folder: ModelFolder, backend: Backend
):
    """In the reference pass, and in training what a loss is made of."""
    model, store = loaded(model_folder, "mistral", sliding_window=8), pair_store()
    tokens = store.tokens.copy()
    begin, end = (int(at) for at in store.offsets[7:9])  # the chosen answer of the third pair
    tokens[begin:end] = (tokens[begin:end] + 5) % 96
    changed = TokenStore(**{**vars(store), "tokens": tokens})
    others = np.arange(store.documents) != 7
    one, other = (document_nats(model, some, backend=backend) for some in (store, changed))
    assert (one[others] == other[others]).all()
    assert one[7] != other[7]
    model.train()
    with packed(model, backend), torch.set_grad_enabled(backend == "blocks"):  # flex has no gradient on a CPU
        logs = [
            answer_log_probabilities(model, packed_batch(some, range(store.units))).detach()
            for some in (store, changed)
        ]
    kept = torch.from_numpy(
        others[store.offsets[1:] > store.offsets[:-1]]
    )  # the empty prompt is not in a batch
    assert torch.equal(logs[0][kept], logs[1][kept])


def test_no_gradient_comes_from_another_branch(model_folder: ModelFolder):
    model, store = loaded(model_folder, "llama"), pair_store()
    embedded: list[torch.Tensor] = []
    model.model.embed_tokens.register_forward_hook(
        lambda _module, _args, out: embedded.append(out.detach().requires_grad_()) or embedded[-1]
    )
    with packed(model):
        states = hidden_states(model, packed_batch(store, range(store.units)))
        states[int(store.offsets[8]) : int(store.offsets[9])].square().sum().backward()
    assert embedded[0].grad is not None
    reached = embedded[0].grad[0].abs().sum(1) > 0
    expected = torch.zeros(len(reached), dtype=torch.bool)
    for document in (6, 8):  # the third pair's prompt and rejected answer
        expected[int(store.offsets[document]) : int(store.offsets[document + 1])] = True
    assert torch.equal(reached, expected)


def test_gradient_checkpointing_changes_nothing(model_folder: ModelFolder):
    model, batch = loaded(model_folder, "mistral").train(), packed_batch(pair_store(), range(5))
    found = []
    for _ in range(2):
        with packed(model):
            loss, _ = NextToken()(model, batch)
            found.append((loss.detach(), gradients(loss, model)))
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("backend", "dtype"), [("flex", torch.float32), ("varlen", torch.bfloat16)])
@every_variant
def test_on_a_gpu_losses_and_gradients_are_those_of_padded_blocks(
    model_folder: ModelFolder, variant: str, config: dict[str, Any], backend: Backend, dtype: torch.dtype
):
    model = loaded(model_folder, variant, **config).cuda()
    batch = {name: value.cuda() for name, value in packed_batch(pair_store(), range(5)).items()}
    found = []
    for way in ("blocks", backend):
        with packed(model, way), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            loss, _ = NextToken()(model, batch)
        found.append((loss.detach(), gradients(loss, model)))
    close = 1e-4 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(found[0][0], found[1][0], rtol=close, atol=close)
    largest = max(float(gradient.abs().max()) for gradient in found[0][1])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=close, atol=close * largest)
