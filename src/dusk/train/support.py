"""Whether an architecture can be trained here, found out on a few tokens before anything is spent.

Architectures name their peculiarities differently and new ones come with every release, so what counts is
measured: packed documents must come out as each alone, and logits must be hidden states times the head.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dusk.errors import CheckpointError
from dusk.train.attention import packed, packing_of

_LENGTHS = (7, 3, 6)  # of the documents that are tried
_LARGE_LOGITS = 100.0  # where a soft cap shows
_TOLERANCE = 1e-3


@torch.no_grad()
def require_trainable(model: PreTrainedModel) -> None:
    """Raises `CheckpointError` with everything about `model` that this trainer would get wrong."""
    was_training = model.training
    model.eval()
    rows = min(model.get_input_embeddings().weight.shape[0], 1 << 15)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(rows, (sum(_LENGTHS),), generator=random).to(model.device)
    problems = [fault for fault in (_attention_fault(model, tokens), _head_fault(model, tokens)) if fault]
    model.train(was_training)
    if problems:
        raise CheckpointError(
            f"{type(model).__name__} cannot be trained by dusk yet:",
            problems=problems,
            remedy="Nothing was trained. Models of the Llama, Mistral and Qwen families can.",
        )


def _attention_fault(model: PreTrainedModel, tokens: Tensor) -> str | None:
    """What is wrong with attention over packed documents; None if nothing is."""
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        return "its attention goes by chunks, which packed attention does not know"
    positions = torch.cat([torch.arange(length, device=tokens.device) for length in _LENGTHS])
    packing = packing_of(torch.tensor([0, *_LENGTHS], device=tokens.device).cumsum(0))
    decoder = model.get_decoder()
    try:
        alone = [_states(decoder, some) for some in tokens.split(_LENGTHS)]
        with packed(model):
            together = _states(decoder, tokens, position_ids=positions[None], packing=packing)
    except (ValueError, CheckpointError, TypeError) as error:
        return f"packed attention fails: {error}"
    return None if _same(torch.cat(alone), together) else "documents packed together change one another"


def _states(decoder: PreTrainedModel, tokens: Tensor, **packing: Any) -> Tensor:
    states: Tensor = decoder(input_ids=tokens[None], use_cache=False, **packing).last_hidden_state[0]
    return states


def _head_fault(model: PreTrainedModel, tokens: Tensor) -> str | None:
    """What logits are besides hidden states times the head (a bias, a scale, a soft cap); None if nothing."""
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        return "its output head has a bias"
    grown: list[Tensor] = []

    def grow(_module: torch.nn.Module, _inputs: object, output: object) -> object:
        hidden = output.last_hidden_state  # type: ignore[attr-defined]
        largest = (hidden @ head.weight.T).abs().max().clamp(min=1e-12)
        output.last_hidden_state = hidden * (_LARGE_LOGITS / largest)  # type: ignore[attr-defined]
        grown.append(output.last_hidden_state)  # type: ignore[attr-defined]
        return output

    hook = model.get_decoder().register_forward_hook(grow)
    try:
        logits = model(input_ids=tokens[None], use_cache=False).logits
    finally:
        hook.remove()
    return None if _same(grown[0] @ head.weight.T, logits) else "it scales, caps or shifts its logits"


def _same(expected: Tensor, found: Tensor) -> bool:
    largest = float(expected.abs().max())
    return torch.allclose(expected.float(), found.float(), rtol=_TOLERANCE, atol=_TOLERANCE * largest)
