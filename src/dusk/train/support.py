"""Whether an architecture can be trained here, found out on a few tokens before anything is spent.

Architectures name their peculiarities differently and new ones come with every release, so what counts is
measured: packed documents must come out as each alone, and logits must be hidden states times the head.
"""

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
    """Raises `CheckpointError` with everything about `model` that this trainer would get wrong.

    Two passes through the model, whose layers may lie on the disk.
    """
    was_training = model.training
    model.eval()
    vocabulary = min(model.get_input_embeddings().weight.shape[0], 1 << 15)
    random = torch.Generator().manual_seed(0)
    rows = torch.randint(vocabulary, (len(_LENGTHS), max(_LENGTHS)), generator=random).to(model.device)
    if model.get_decoder() is model:
        problems = ["transformers does not tell its decoder from its output head"]
    else:
        alone, head_fault = _alone(model, rows)
        problems = [fault for fault in (_attention_fault(model, rows, alone), head_fault) if fault]
    model.train(was_training)
    if problems:
        raise CheckpointError(
            f"{type(model).__name__} cannot be trained by dusk yet:",
            problems=problems,
            remedy="Nothing was trained. Models of the Llama, Mistral and Qwen families can.",
        )


def _alone(model: PreTrainedModel, rows: Tensor) -> tuple[Tensor, str | None]:
    """Hidden states of each row by itself, by the model's own attention.

    And what logits are besides hidden states times the head (a bias, a scale, a soft cap); None if nothing.
    """
    head = model.get_output_embeddings()
    states: list[Tensor] = []

    def grow(_module: torch.nn.Module, _inputs: object, output: object) -> object:
        hidden = output.last_hidden_state  # type: ignore[attr-defined]
        largest = (hidden @ head.weight.T).abs().max().clamp(min=1e-12)
        output.last_hidden_state = hidden * (_LARGE_LOGITS / largest)  # type: ignore[attr-defined]
        states.extend((hidden, output.last_hidden_state))  # type: ignore[attr-defined]
        return output

    hook = model.get_decoder().register_forward_hook(grow)
    try:
        logits = model(input_ids=rows, use_cache=False).logits
    finally:
        hook.remove()
    alone, grown = states
    if getattr(head, "bias", None) is not None:
        return alone, "its output head has a bias"
    return alone, None if _same(grown @ head.weight.T, logits) else "it scales, caps or shifts its logits"


def _attention_fault(model: PreTrainedModel, rows: Tensor, alone: Tensor) -> str | None:
    """What is wrong with attention over packed documents, the beginnings of rows; None if nothing is."""
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        return "its attention goes by chunks, which packed attention does not know"
    tokens = _beginnings(rows)
    positions = torch.cat([torch.arange(length, device=tokens.device) for length in _LENGTHS])
    packing = packing_of(torch.tensor([0, *_LENGTHS], device=tokens.device).cumsum(0))
    try:
        with packed(model):
            together = model.get_decoder()(
                input_ids=tokens[None], position_ids=positions[None], use_cache=False, packing=packing
            ).last_hidden_state[0]
    except (ValueError, CheckpointError, TypeError) as error:
        return f"packed attention fails: {error}"
    return None if _same(_beginnings(alone), together) else "documents packed together change one another"


def _beginnings(rows: Tensor) -> Tensor:
    return torch.cat([row[:length] for row, length in zip(rows, _LENGTHS, strict=True)])


def _same(expected: Tensor, found: Tensor) -> bool:
    largest = float(expected.abs().max())
    return torch.allclose(expected.float(), found.float(), rtol=_TOLERANCE, atol=_TOLERANCE * largest)
