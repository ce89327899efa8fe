"""Loading a model for real: does transformers take every tensor, and does the KV cache change nothing?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from dusk import solar_pro
from dusk.checkpoint.folder import open_checkpoint

solar_pro.register()

_INPUT_TOKENS = 12
_TOLERANCE = 1e-4  # of the largest logit, in float32


def model_class(config: Mapping[str, Any]) -> Any:
    """The transformers class that saved the model; where there is none, what its type generates with."""
    named = (getattr(transformers, name, None) for name in config.get("architectures") or ())
    return next(filter(None, named), transformers.AutoModelForCausalLM)


def forward_check(folder: Path) -> tuple[tuple[str, ...], float | None]:
    """The faults found by loading and running the model, and the difference that the cache makes.

    The model runs in float32 on the CPU; remote code is not run. A model that generates no text (an
    encoder, an image classifier) is loaded only, and the difference is None.
    """
    checkpoint = open_checkpoint(folder)
    try:
        model, loading = model_class(checkpoint.config).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        return (f"transformers does not load it: {error}",), None
    faults = [
        f"{kind.replace('_', ' ')}: {name}"
        for kind in loading
        for name in sorted(map(str, loading[kind]))
        if not checkpoint.layout.is_behind(name)
    ]
    if faults or not model.can_generate():
        return tuple(faults), None
    difference = cache_difference(model.eval())
    if not difference < _TOLERANCE:
        return (f"the logits with the KV cache differ by {difference:.1e} of the largest one",), difference
    return (), difference


@torch.no_grad()
def cache_difference(model: Any) -> float:
    """The largest difference of the logits of one pass and of token by token, over the largest logit.

    An encoder-decoder encodes the tokens and takes them token by token into its decoder.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, _INPUT_TOKENS + 1).remainder(vocabulary)[None]  # (1, T)
    encoded = {"input_ids": ids} if model.config.is_encoder_decoder else {}
    key = "decoder_input_ids" if encoded else "input_ids"
    whole = model(**encoded, **{key: ids}, use_cache=False).logits  # (1, T, V)
    cache, steps = None, []
    for token in ids.split(1, dim=1):
        out = model(**encoded, **{key: token}, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits)
    largest = whole.abs().max().clamp_min(torch.finfo(whole.dtype).tiny)
    return float((torch.cat(steps, dim=1) - whole).abs().max() / largest)
