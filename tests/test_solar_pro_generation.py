"""Solar Pro's cache, window, padding and generation: each as the rule computes the whole text."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from dusk.solar_pro import SolarForCausalLM
from solar_models import difference, reference, solar_model, tokens_of


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [None, 4])
def test_the_cache_changes_nothing_past_the_window_either(window: int | None, attention: str) -> None:
    model = solar_model("1-4,2-6,5-7", sliding_window=window, attn_implementation=attention)
    row = tokens_of(model, 14)
    expected = reference(model, row)
    cache, steps = None, []
    for chunk in row.split([6, 1, 1, 3, 1, 1, 1]):
        out = model(chunk[None], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits[0])
    assert difference(torch.cat(steps), expected) < 1e-6


def flash(
    _: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    sliding_window: int,
    **__: Any,
) -> tuple[Tensor, None]:
    """Written out, what a kernel of flash attention does: no mask, but the window as a number; (B, A, T, D)."""
    assert mask is None
    k, v = (states.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for states in (k, v))
    past = k.shape[2] - q.shape[2]
    distance = torch.arange(q.shape[2])[:, None] + past - torch.arange(k.shape[2])
    unseen = (distance < 0) | (distance >= sliding_window)
    scores = (q @ k.mT * scaling).masked_fill(unseen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2), None


def test_flash_attention_is_handed_the_window() -> None:
    AttentionInterface.register("kernel_by_hand", flash)
    AttentionMaskInterface.register("kernel_by_hand", flash_attention_mask)
    model = solar_model("1-4,2-6,5-7", sliding_window=4, attn_implementation="kernel_by_hand")
    row = tokens_of(model, 14)
    assert difference(model(row[None], use_cache=False).logits[0], reference(model, row)) < 1e-6
    cache, steps = None, []
    for chunk in row.split([6, 1, 3, 4]):
        out = model(chunk[None], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits[0])
    assert difference(torch.cat(steps), reference(model, row)) < 1e-6


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str, attention: str) -> None:
    model = solar_model("1-4,2-6", sliding_window=5, attn_implementation=attention)
    rows = [tokens_of(model, length, seed=length) for length in (4, 11, 7)]
    padded, mask = torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 11, dtype=torch.long)
    places = [slice(11 - len(row), 11) if side == "left" else slice(len(row)) for row in rows]
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        padded[i, place], mask[i, place] = row, 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(padded, attention_mask=mask, position_ids=positions).logits
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        assert difference(logits[i, place], reference(model, row)) < 1e-6


def greedy(model: SolarForCausalLM, row: Tensor, count: int) -> list[int]:
    for _ in range(count):
        row = torch.cat([row, reference(model, row)[-1:].argmax(-1)])
    return row.tolist()


def test_generation_is_greedy_by_the_rule_cached_or_not_and_in_a_padded_batch() -> None:
    model = solar_model("1-4,2-6,5-7", sliding_window=6)
    short, long = tokens_of(model, 4, seed=1), tokens_of(model, 9, seed=2)
    batch = torch.stack([torch.cat([torch.zeros(5, dtype=torch.long), short]), long])
    mask = (batch != 0).long()
    expected = [greedy(model, short, 8), greedy(model, long, 8)]
    for use_cache in (True, False):
        made = model.generate(
            batch, attention_mask=mask, max_new_tokens=8, do_sample=False, use_cache=use_cache
        )
        assert made[0, 5:].tolist() == expected[0]
        assert made[1].tolist() == expected[1]


def test_beams_are_scored_by_the_rule() -> None:
    model = solar_model("1-4,2-6,5-7", sliding_window=6)
    row = tokens_of(model, 5)
    made = model.generate(
        row[None],
        attention_mask=torch.ones(1, 5),
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=6,
        do_sample=False,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert len({tuple(sequence.tolist()) for sequence in made.sequences}) == 3
    for sequence, score in zip(made.sequences, made.sequences_scores, strict=True):
        logps = reference(model, sequence).log_softmax(-1)[4:-1]
        total = logps.gather(-1, sequence[5:, None]).sum()
        assert abs(float(total) - float(score)) < 1e-5
