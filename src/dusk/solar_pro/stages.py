"""Solar Pro in pipeline stages: the slots that are held at a boundary travel with the hidden state.

A stage that takes and gives the hidden state alone is wrong wherever a boundary lies between a store and its
use. Here every split is right: what travels is known from the config before anything runs, so a stage's
inputs and outputs have one shape, as torch.distributed.pipelining wants them.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dusk.errors import SettingError
from dusk.skips import SLOTS, Skips
from dusk.solar_pro.modeling import Slots, SolarForCausalLM, attention_mask_of, run_layers, slot_weight


class SolarStage(nn.Module):
    """Layers `begin` to `end - 1` of a model, with the embedding if first and norm and head if last.

    The parameters are the model's own under their published names. `takes` and `gives` name the slots that
    arrive behind the hidden state and leave behind it.
    """

    lm_head: nn.Module

    def __init__(self, whole: SolarForCausalLM, begin: int, end: int) -> None:
        super().__init__()
        self.config = whole.config
        self.begin, self.end = begin, end
        self.is_first, self.is_last = begin == 0, end == whole.config.num_hidden_layers
        skips = Skips.of(whole.config.to_dict())
        self.takes, self.gives = skips.held(begin), () if self.is_last else skips.held(end)
        parts: dict[str, nn.Module] = {
            "layers": nn.ModuleDict({str(i): whole.model.layers[i] for i in range(begin, end)}),
            "rotary_emb": whole.model.rotary_emb,
        }
        if self.is_first:
            parts["embed_tokens"] = whole.model.embed_tokens
        if self.is_last:
            parts["norm"] = whole.model.norm
            self.lm_head = whole.lm_head
        self.model = nn.ModuleDict(parts)
        self.skip_weight = whole.model.skip_weight
        self.train(whole.training)

    def forward(
        self, state: Tensor, *held: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """From tokens (B, T) or the hidden state (B, T, H) and the slots of `takes`, each (B, T, H).

        Gives the logits (B, T, V), or the hidden state and the slots of `gives`. Positions are counted from 0;
        `attention_mask` (B, T) is 0 where there is padding.
        """
        hidden = self.model["embed_tokens"](state) if self.is_first else state
        slots: Slots = [None for _ in SLOTS]
        for slot, tensor in zip(self.takes, held, strict=True):
            slots[slot - 1] = tensor
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        mask = attention_mask_of(
            self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=None,
            position_ids=positions,
        )
        hidden = run_layers(
            self.config,
            ((int(name), layer) for name, layer in self.model["layers"].named_children()),
            hidden,
            slots,
            slot_weight(self.config, self.skip_weight, self.training),
            attention_mask=mask,
            position_embeddings=self.model["rotary_emb"](hidden, position_ids=positions),
            position_ids=positions,
        )
        if self.is_last:
            logits: Tensor = self.lm_head(self.model["norm"](hidden))
            return logits
        leaving = [slots[slot - 1] for slot in self.gives]
        return (hidden, *(tensor for tensor in leaving if tensor is not None)) if leaving else hidden


def stages(model: SolarForCausalLM, boundaries: Sequence[int]) -> list[SolarStage]:
    """The model in stages; each boundary is the first layer of the next stage, as in `[16, 32, 48]`.

    Raises `SettingError` for boundaries that do not ascend strictly within the layers.
    """
    ends = [0, *boundaries, model.config.num_hidden_layers]
    if any(end <= begin for begin, end in pairwise(ends)):
        raise SettingError(
            f"The boundaries {list(boundaries)} make no stages of {ends[-1]} layers.",
            remedy=f"Each is the first layer of the next stage: 1 to {ends[-1] - 1}, ascending.",
        )
    return [SolarStage(model, begin, end) for begin, end in pairwise(ends)]
