"""Loading a model for real: does transformers take every tensor, and does the KV cache change nothing?

The model runs layer by layer from the disk, so that memory is that of a layer and the embeddings.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from dusk import solar_pro
from dusk.checkpoint.folder import Checkpoint, open_checkpoint
from dusk.checkpoint.on_disk import Loading, layers_on_disk, load
from dusk.errors import CheckpointError

solar_pro.register()

_INPUT_TOKENS = 12
_PROMPT_TOKENS = 9  # then one by one, as text is generated; each pass reads every layer
_TOLERANCE = 1e-4  # of the largest logit, in float32


def model_class(config: Mapping[str, Any]) -> Any:
    """The transformers class that saved the model; where there is none, what its type generates with."""
    named = (getattr(transformers, name, None) for name in config.get("architectures") or ())
    return next(filter(None, named), transformers.AutoModelForCausalLM)


def forward_check(folder: Path) -> tuple[tuple[str, ...], float | None]:
    """The faults found by loading and running the model, and the difference that the cache makes.

    The model runs in float32 on the CPU, its layers on the disk; remote code is not run. A model that
    generates no text (an encoder, an image classifier) is loaded only, whole, and the difference is None.
    """
    checkpoint = open_checkpoint(folder)
    kind = model_class(checkpoint.config)
    try:
        if not getattr(kind, "can_generate", lambda: True)():
            return _unexpected(load(folder, kind)[1], checkpoint), None
        with layers_on_disk(folder, kind, torch.device("cpu")) as (model, loading):
            faults = _unexpected(loading, checkpoint)
            return (faults, None) if faults or not model.can_generate() else _run(model.eval(), checkpoint)
    except CheckpointError as error:
        return (str(error),), None


def _unexpected(loading: Loading, checkpoint: Checkpoint) -> tuple[str, ...]:
    """What transformers missed or had left over."""
    return tuple(
        f"{kind.replace('_', ' ')}: {name}"
        for kind in loading
        for name in sorted(map(str, loading[kind]))
        if not checkpoint.layout.is_behind(name)
    )


def _run(model: Any, checkpoint: Checkpoint) -> tuple[tuple[str, ...], float | None]:
    try:
        difference = cache_difference(model)
    except (ValueError, RuntimeError) as error:
        return _other_shapes(model, checkpoint) or (f"transformers does not run it: {error}",), None
    if not difference < _TOLERANCE:
        return (f"the logits with the KV cache differ by {difference:.1e} of the largest one",), difference
    return (), difference


def _other_shapes(model: Any, checkpoint: Checkpoint) -> tuple[str, ...]:
    """The tensors of other shapes; those of a layer on the disk are met only when it is called."""
    return tuple(
        f"{name} has shape {entry.shape}, the model asks for {tuple(parameter.shape)}"
        for name, parameter in model.named_parameters()
        if (entry := checkpoint.tensors.get(name)) and entry.shape != parameter.shape
    )


@torch.no_grad()
def cache_difference(model: Any) -> float:
    """The largest difference of the logits of one pass and of passes through the cache, over the largest logit.

    The cache gets a prompt, then token by token. An encoder-decoder encodes all tokens and takes them into its
    decoder so.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, _INPUT_TOKENS + 1).remainder(vocabulary)[None]  # (1, T)
    encoded = {"input_ids": ids} if model.config.is_encoder_decoder else {}
    key = "decoder_input_ids" if encoded else "input_ids"
    whole = model(**encoded, **{key: ids}, use_cache=False).logits  # (1, T, V)
    cache, steps = None, []
    for tokens in ids.split([_PROMPT_TOKENS] + [1] * (_INPUT_TOKENS - _PROMPT_TOKENS), dim=1):
        out = model(**encoded, **{key: tokens}, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits)
    largest = whole.abs().max().clamp_min(torch.finfo(whole.dtype).tiny)
    return float((torch.cat(steps, dim=1) - whole).abs().max() / largest)
