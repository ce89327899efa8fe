"""What is trained and how fast, by the layer map: against hand-made maps, and what a run leaves unchanged."""

from pathlib import Path

import pytest
import torch

import dusk
from dusk.errors import SettingError
from dusk.layers import LayerMap
from dusk.train.layer_rates import apply_layer_rates, layer_rates, new_layers, seam_distances
from dusk.train.model import load_model
from dusk.train.optimizers import make_optimizer
from dusk.train.settings import TrainSettings
from train_models import pair_file, save_base, text_file, weights

SETTINGS = {"batch_tokens": 200, "tokens": 400, "learning_rate": 1e-2, "threads": 1}


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 layers to 6: source 0, 1, 2, 1, 2, 3; the new ones are 3 and 4, beside the seam 2 and 3."""
    folder = tmp_path_factory.mktemp("scaled")
    save_base(folder / "base", model_type="llama", num_hidden_layers=4)
    dusk.scale(folder / "base", folder / "scaled", drop=1)
    return folder / "scaled"


def test_the_new_layers_of_the_papers():
    assert new_layers(LayerMap.depthwise(32, 8)) == tuple(range(24, 40))  # the second 8-23
    assert new_layers(LayerMap.interleave_identity(4, 2)) == (2, 5)


def test_distances_from_the_seam():
    assert seam_distances(LayerMap.depthwise(4, 1)) == [2, 1, 0, 0, 1, 2]
    assert seam_distances(LayerMap.interleave_identity(4, 2)) == [2, 1, 0, 1, 1, 0]
    assert seam_distances(LayerMap.of(range(3), 3)) == [0, 0, 0]
    rates = layer_rates(LayerMap.depthwise(4, 1), TrainSettings(seam_decay=0.5))
    assert rates == [0.25, 0.5, 1.0, 1.0, 0.5, 0.25]
    assert layer_rates(LayerMap.depthwise(4, 1), TrainSettings(train="new", seam_decay=0.5))[2:5] == [
        0,
        1,
        0.5,
    ]


def test_groups_have_the_rates_of_their_layers(scaled: Path):
    """A hand-made step: with one gradient everywhere, Adam's first step is the rate itself."""
    model = load_model(scaled)
    settings = TrainSettings(seam_decay=0.5, weight_decay=0.0, learning_rate=1e-2)
    layer_map = LayerMap.depthwise(4, 1).to_json()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, settings, apply_layer_rates(model, settings, layer_map))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    expected = {0: 0.25, 1: 0.5, 2: 1.0, 3: 1.0, 4: 0.5, 5: 0.25}
    for name, parameter in model.named_parameters():
        layer = int(name.split(".")[2]) if ".layers." in name else 0 if "embed" in name else 5
        moved = before[name] - parameter.detach()
        torch.testing.assert_close(
            moved, torch.full_like(moved, 1e-2 * expected[layer]), rtol=1e-3, atol=1e-6
        )
    assert optimizer.param_groups[0]["lr"] == 1e-2  # the one that metrics tell


def test_only_new_layers_change(scaled: Path, tmp_path: Path):
    dusk.pretrain(scaled, tmp_path / "out", data=text_file(tmp_path), train="new", **SETTINGS)
    before, after = weights(scaled), weights(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("model.layers.3.", "model.layers.4."))}


def test_alignment_of_the_new_layers_of_a_model_that_was_tuned_since(scaled: Path, tmp_path: Path):
    """The layer map goes with the model from stage to stage."""
    dusk.pretrain(scaled, tmp_path / "one", data=text_file(tmp_path), **SETTINGS)
    dusk.align(tmp_path / "one", tmp_path / "two", steps=pair_file(tmp_path), train="new", **SETTINGS)
    before, after = weights(tmp_path / "one"), weights(tmp_path / "two")
    changed = {name.split(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"3", "4"}


@pytest.mark.parametrize("given", [{"train": "new"}, {"seam_decay": 0.5}])
def test_a_model_without_a_layer_map_is_refused(tmp_path: Path, given: dict[str, object]):
    base = save_base(tmp_path / "base")
    with pytest.raises(SettingError, match=r"needs the layer map of the model, and its dusk.json has none"):
        dusk.pretrain(base, tmp_path / "out", data=text_file(tmp_path), **given, **SETTINGS)


def test_a_map_without_new_layers_and_one_of_another_depth_are_refused(scaled: Path):
    settings = TrainSettings(train="new")
    with pytest.raises(SettingError, match="no layer is left to train"):
        apply_layer_rates(load_model(scaled), settings, LayerMap.of(range(6), 6).to_json())
    with pytest.raises(SettingError, match="has 8 layers, the model 6"):
        apply_layer_rates(load_model(scaled), settings, LayerMap.stack(4).to_json())
