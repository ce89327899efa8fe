"""Solar Pro in pipeline stages: every split computes what the whole computes."""

import pytest
import torch
from torch import Tensor

from dusk.errors import SettingError
from dusk.solar_pro.stages import SolarStage, stages
from solar_models import solar_model, tokens_of


def run(parts: list[SolarStage], row: Tensor, **inputs: Tensor) -> Tensor:
    state: Tensor | tuple[Tensor, ...] = row
    for part in parts:
        state = part(*(state if isinstance(state, tuple) else (state,)), **inputs)
    assert isinstance(state, Tensor)
    return state


def test_split_at_every_layer_and_at_every_two() -> None:
    model = solar_model("1-5,2-4,6-8,6-7,9-10", 11, sliding_window=5)
    row = tokens_of(model, 2, 9)
    mask = torch.ones_like(row)
    mask[0, :3] = 0
    whole = model(row, use_cache=False).logits
    masked = model(row, attention_mask=mask, position_ids=torch.arange(9)[None], use_cache=False).logits
    for first in range(1, 11):
        assert torch.equal(run(stages(model, [first]), row), whole)
        assert torch.equal(run(stages(model, [first]), row, attention_mask=mask)[1], masked[1])
        for second in range(first + 1, 11):
            assert torch.equal(run(stages(model, [first, second]), row), whole)
    assert torch.equal(run(stages(model, range(1, 11)), row), whole)


def test_what_travels_is_what_is_held() -> None:
    model = solar_model("1-5,2-4", 8)
    parts = stages(model, range(1, 8))
    assert [part.takes for part in parts] == [(), (), (1,), (1, 2), (1, 2), (1,), (), ()]
    assert [part.gives for part in parts] == [*[part.takes for part in parts[1:]], ()]
    carried = parts[2](*parts[1](parts[0](tokens_of(model, 1, 6))))
    assert [tensor.shape for tensor in carried] == [(1, 6, 32)] * 3


def test_parameters_keep_their_names_and_gradients_flow_through_the_slots() -> None:
    model = solar_model("1-5,2-4", 8).train()
    row = tokens_of(model, 2, 9)
    parts = stages(model, [3, 6])
    names = [name for part in parts for name in part.state_dict()]
    assert sorted(names) == sorted(model.state_dict())
    expected = torch.autograd.grad(
        model(row, use_cache=False).logits.square().sum(), list(model.parameters())
    )
    found = torch.autograd.grad(run(parts, row).square().sum(), list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("boundaries", [[0], [8], [4, 4], [5, 3]])
def test_boundaries_that_make_no_stages(boundaries: list[int]) -> None:
    with pytest.raises(SettingError, match="Each is the first layer of the next stage: 1 to 7"):
        stages(solar_model("1-5", 8), boundaries)
