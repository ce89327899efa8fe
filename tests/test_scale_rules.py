"""The growth rules against maps written out by hand."""

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from dusk import LayerMap, inspect, merge, scale
from dusk.checkpoint import read_manifest
from dusk.cli.main import dusk
from dusk.errors import LayerMapError, SettingError
from dusk.recipe.stages import ScaleStage
from dusk.scale.rules import RULES


@pytest.mark.parametrize(
    ("rule", "layers", "target", "spec"),
    [
        ("depthwise", 32, 48, "0-23,8-31"),
        ("depthwise", 8, 13, "0-6,2-7"),
        ("stack", 4, 8, "0-3,0-3"),
        ("stack", 3, 9, "0-2,0-2,0-2"),
        ("in-place", 8, 12, "0-1,1-3,3-5,5-7,7"),
        ("in-place", 4, 8, "0,0-1,1-2,2-3,3"),
        ("in-place", 2, 5, "0,0-1,1,1"),
        ("llama-pro", 8, 12, "0-1,1i,2-3,3i,4-5,5i,6-7,7i"),
        ("llama-pro", 4, 5, "0-3,3i"),
    ],
)
def test_a_rule_makes_the_map(rule, layers, target, spec):
    found = RULES[rule](layers, target)
    assert found.spec() == spec
    assert (len(found), found.base_layers) == (target, layers)


@pytest.mark.parametrize(
    ("rule", "target", "remedy"),
    [
        ("stack", 12, "nearest are 16 and 24"),
        ("stack", 20, "nearest are 16 and 24"),
        ("in-place", 8, "9 layers or more"),
        ("llama-pro", 11, "can make 9, 10, 12, 16 layers"),
        ("llama-pro", 8, "can make 9, 10, 12, 16 layers"),
        ("depthwise", 17, "9 to 16 layers"),
    ],
)
def test_a_size_that_a_rule_cannot_make_names_those_it_can(rule, target, remedy):
    with pytest.raises(LayerMapError) as told:
        RULES[rule](8, target)
    assert remedy in str(told.value)


def test_scale_takes_a_rule(model_folder, tmp_path):
    report = scale(model_folder("llama"), tmp_path / "out", to=12, rule="llama-pro")
    assert report.layer_map == LayerMap.interleave_identity(8, 4)
    assert read_manifest(tmp_path / "out").settings["rule"] == "llama-pro"
    by_size = scale(model_folder("llama"), tmp_path / "other", params=report.parameters, rule="in-place")
    assert by_size.layer_map.spec() == "0-1,1-3,3-5,5-7,7"
    assert inspect(tmp_path / "other").layers == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "lora"}, "one of depthwise, stack, in-place, llama-pro"),
        ({"rule": "stack"}, "goes by the size"),
        ({"rule": "stack", "drop": 2}, "has no `drop`"),
        ({"rule": "stack", "layers": "0-7"}, "has no `layers`"),
    ],
)
def test_rules_that_cannot_be_followed(model_folder, tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        scale(model_folder("llama"), tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_the_command_and_the_recipe_know_every_rule(model_folder, tmp_path):
    allowed = str(ScaleStage.model_fields["rule"].annotation)
    assert all(f"'{rule}'" in allowed for rule in RULES)
    call = [
        "scale",
        str(model_folder("llama")),
        str(tmp_path / "out"),
        "--to",
        "16",
        "--rule",
        "stack",
        "--dry-run",
    ]
    done = CliRunner().invoke(dusk, call, catch_exceptions=False)
    assert "8 -> 16  (0-7,0-7)" in done.output


def test_a_cross_faded_overlap_is_a_merge_of_two_maps(model_folder, tmp_path):
    """As docs/scan.md says: the copies go on beyond the seam, and one fades into the other."""
    base = model_folder("mistral")  # 4 layers
    scale(base, tmp_path / "late", layers="0-3,2-3")
    scale(base, tmp_path / "early", layers="0-1,0-3")
    weights = [[1, 1, 0.75, 0.25, 0, 0], [0, 0, 0.25, 0.75, 1, 1]]
    merge([tmp_path / "late", tmp_path / "early"], tmp_path / "faded", method="linear", weights=weights)
    source, faded = load_file(base / "model.safetensors"), load_file(tmp_path / "faded" / "model.safetensors")
    blends = [{0: 1.0}, {1: 1.0}, {2: 0.75, 0: 0.25}, {3: 0.25, 1: 0.75}, {2: 1.0}, {3: 1.0}]
    for target, blend in enumerate(blends):
        for part in ("self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"):
            expected = sum(share * source[f"model.layers.{layer}.{part}"] for layer, share in blend.items())
            np.testing.assert_allclose(faded[f"model.layers.{target}.{part}"], expected, rtol=1e-6, atol=1e-7)
