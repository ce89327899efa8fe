"""Solar Pro: Llama's layers, with hidden states of earlier layers blended into those of later ones.

The rule is that of the published modeling_solar.py (see `dusk.skips`); everything else is transformers' Llama,
so attention interfaces, caches, gradient checkpointing and torch.compile are as they are there.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel, LlamaPreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from dusk.skips import PUBLISHED_WEIGHTS
from dusk.solar_pro.configuration import SolarConfig

SkipWeight = Literal["auto", "training", "inference"]
Slots = list[Tensor | None]
Lists = tuple[Sequence[int], ...]
"""bskcn_1 to bskcn_4"""


def slot_weight(config: SolarConfig, which: SkipWeight, training: bool) -> float:
    """The weight of a stored state: of training or inference, or with `auto` as the module's mode says."""
    of_training, of_inference = config.bskcn_tv or PUBLISHED_WEIGHTS
    return of_training if which == "training" or (which == "auto" and training) else of_inference


def blended(lists: Lists, layer: int, hidden: Tensor, slots: Slots, weight: float) -> Tensor:
    """What enters `layer`: the hidden state (B, T, H), stored in and mixed with the two `slots` as listed.

    A slot is one operation, slot * weight + hidden * (1 - weight); it follows the hidden state to its device.
    """
    for slot, stores in enumerate(lists[:2]):
        if layer in stores:
            slots[slot] = hidden
    for slot, uses in enumerate(lists[2:]):
        if layer in uses:
            stored = slots[slot]
            assert stored is not None  # the config refuses a use before its store
            hidden = torch.lerp(hidden, stored.to(hidden), weight)
    return hidden


def run_layers(
    config: SolarConfig,
    layers: Iterable[tuple[int, nn.Module]],
    hidden: Tensor,
    slots: Slots,
    weight: float,
    **inputs: Any,
) -> Tensor:
    """The hidden state (B, T, H) behind these layers, each given with its index; `slots` are kept up to date."""
    lists: Lists = tuple(
        named or () for named in (config.bskcn_1, config.bskcn_2, config.bskcn_3, config.bskcn_4)
    )
    touched = set(chain(*lists))  # a look at the config costs more than a small layer's blend
    window = config.sliding_window
    for index, layer in layers:
        if index in touched:
            hidden = blended(lists, index, hidden, slots, weight)
        hidden = layer(hidden, sliding_window=window, **inputs)
    return hidden


def attention_mask_of(config: SolarConfig, **inputs: Any) -> Any:
    """The causal mask in the form that the attention in use takes, with the config's window."""
    make = create_causal_mask if config.sliding_window is None else create_sliding_window_causal_mask
    return make(config=config, **inputs)


class SolarPreTrainedModel(LlamaPreTrainedModel):
    """What all of Solar Pro's models share."""

    config: SolarConfig


class SolarModel(SolarPreTrainedModel, LlamaModel):
    """Llama's decoder with block skip connections.

    `skip_weight` says which of the two weights holds: `auto` is the published rule (0.9 after `.train()`, 0.8
    after `.eval()`), `training` and `inference` fix one whatever the mode of the module. See `skip_weight`.
    """

    skip_weight: SkipWeight = "auto"

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As LlamaModel's; raises ValueError unless exactly one of `input_ids` and `inputs_embeds` is given."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past)[None]
        mask = attention_mask_of(
            self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden = run_layers(
            self.config,
            enumerate(self.layers[: self.config.num_hidden_layers]),
            inputs_embeds,
            [None, None],
            slot_weight(self.config, self.skip_weight, self.training),
            attention_mask=mask,
            position_embeddings=self.rotary_emb(inputs_embeds, position_ids=position_ids),
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)


class SolarForCausalLM(SolarPreTrainedModel, LlamaForCausalLM, GenerationMixin):
    """Solar Pro with its output head; state-dict keys are the published ones."""

    def __init__(self, config: SolarConfig):
        LlamaPreTrainedModel.__init__(self, config)
        self.model = SolarModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


class SolarForSequenceClassification(GenericForSequenceClassification, SolarPreTrainedModel):
    """Solar Pro with a score of each label at the last token."""

    def __init__(self, config: SolarConfig):
        LlamaPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = SolarModel(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()


def solar_models(model: nn.Module) -> Sequence[SolarModel]:
    """The Solar decoders in a module (wrapped by peft or FSDP, too); none in another architecture."""
    return [module for module in model.modules() if isinstance(module, SolarModel)]


@contextmanager
def skip_weight(model: nn.Module, which: SkipWeight) -> Iterator[None]:
    """Let one skip weight hold inside, whatever `.train()` and `.eval()` say; no-op for other architectures.

    DPO compares log-probabilities of a policy in training with those of a reference. Computed after `.eval()`
    the reference has the weight of inference and is another function than the policy it is a copy of: the
    rewards do not start at zero. Compute it under `skip_weight(reference, "training")`.

    Raises ValueError for another name.
    """
    if which not in ("auto", "training", "inference"):
        raise ValueError(f"skip_weight is {which!r}; it is auto, training or inference")
    decoders = solar_models(model)
    before = [decoder.skip_weight for decoder in decoders]
    for decoder in decoders:
        decoder.skip_weight = which
    try:
        yield
    finally:
        for decoder, name in zip(decoders, before, strict=True):
            decoder.skip_weight = name
