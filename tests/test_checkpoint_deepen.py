"""Configs of deeper models: everything that counts layers follows the map."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dusk.checkpoint import Layout, deepen_config
from dusk.errors import LayerMapError
from dusk.layers import LayerMap

LAYOUT = Layout("model.layers", 8, "num_hidden_layers")
NESTED = Layout("model.layers", 8, "num_hidden_layers", ("text_config",))
MAP = LayerMap.depthwise(8)


def deepen(layer_map: LayerMap = MAP, **config: Any) -> tuple[dict[str, Any], list[str]]:
    return deepen_config({"num_hidden_layers": 8, **config}, LAYOUT, layer_map)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=20))
def test_lists_and_indices_agree_with_each_other(source: list[int]) -> None:
    """The same pattern told as flags and as indices is the same pattern afterwards."""
    flags = [0, 1, 0, 1, 1, 0, 0, 1]
    layer_map = LayerMap.of(source, 8)
    config, _ = deepen(layer_map, no_rope_layers=flags, moe_layers=[1, 3, 4, 7])
    assert config["num_hidden_layers"] == len(source)
    assert [int(i in config["moe_layers"]) for i in range(len(source))] == config["no_rope_layers"]
    assert config["no_rope_layers"] == [flags[layer] for layer in source]


def test_the_base_config_is_left_alone() -> None:
    base = {"num_hidden_layers": 8, "layer_types": list("abababab"), "rope": {"factors": [1] * 8}}
    deeper, notes = deepen_config(base, LAYOUT, MAP)
    assert base["num_hidden_layers"] == 8
    assert deeper["layer_types"] == list("ababab" + "ababab")
    assert deeper["rope"] == base["rope"]
    assert notes == ["layer_types: remapped to 12 entries"]


def test_lists_that_only_happen_to_have_the_length() -> None:
    tokens = list(range(8))
    deeper, _ = deepen(eos_token_id=tokens, architectures=["x"] * 8, suppress_tokens=tokens)
    assert (deeper["eos_token_id"], len(deeper["architectures"])) == (tokens, 8)


def test_nested_configs_and_mirrored_counts() -> None:
    config = {"num_hidden_layers": 8, "text_config": {"num_hidden_layers": 8, "n_layers": 8, "num_layers": 3}}
    deeper, _ = deepen_config(config, NESTED, MAP)
    assert deeper == {
        "num_hidden_layers": 12,
        "text_config": {"num_hidden_layers": 12, "n_layers": 12, "num_layers": 3},
    }


def test_dense_layers_at_the_beginning() -> None:
    assert deepen(first_k_dense_replace=1)[0]["first_k_dense_replace"] == 1
    assert deepen(LayerMap.repeat(8), first_k_dense_replace=2)[0]["first_k_dense_replace"] == 4
    with pytest.raises(LayerMapError, match="first_k_dense_replace = 3"):
        deepen(first_k_dense_replace=3)
    with pytest.raises(LayerMapError, match="num_kv_shared_layers"):
        deepen(num_kv_shared_layers=2)


def test_windows_from_a_layer_on() -> None:
    windowed = {"use_sliding_window": True, "sliding_window": 4}
    assert deepen(max_window_layers=28)[0]["max_window_layers"] == 28
    assert deepen(max_window_layers=8)[0]["max_window_layers"] == 12
    assert deepen(LayerMap.repeat(8), max_window_layers=3, **windowed)[0]["max_window_layers"] == 6
    with pytest.raises(LayerMapError, match="max_window_layers"):
        deepen(max_window_layers=3, **windowed)
    deeper, _ = deepen(max_window_layers=3, layer_types=["f"] * 3 + ["s"] * 5, **windowed)
    assert deeper["layer_types"] == list("fffsss" + "fsssss")


def test_the_phase_of_a_pattern() -> None:
    """n = 8: a period of 4 needs 2m = 8 (mod 4), so drops 0 and 2; of 3 needs m = 1."""
    assert deepen(sliding_window_pattern=4)[0]["sliding_window_pattern"] == 4
    with pytest.raises(LayerMapError, match="breaks the pattern") as caught:
        deepen(sliding_window_pattern=3)
    assert caught.value.problems == ["drops that keep it: 1"]
    assert "layer_types" in caught.value.remedy
    deeper, notes = deepen(sliding_window_pattern=3, layer_types=list("ssfssfss"))
    assert deeper["layer_types"] == list("ssfssf" + "fssfss")
    assert "llama.cpp" in notes[0]
    deeper, notes = deepen(LayerMap.depthwise(8, 3), model_type="cohere2")
    sliding, full = "sliding_attention", "full_attention"
    assert deeper["layer_types"] == [sliding] * 3 + [full, sliding, full] + [sliding] * 3 + [full]
    assert "no drop keeps it" not in notes[0]
    assert "drops that keep it: 0, 2" in notes[0]
    assert deepen(LayerMap.depthwise(8, 3), model_type="gemma2")[0]["num_hidden_layers"] == 10


def test_lists_of_layers_are_known_by_their_form() -> None:
    """Ascending indices under a name that says layers; flags, and towers of images, are something else."""
    deeper, _ = deepen(
        attn_layer_indices=[1, 6],
        vision_feature_layers=[1, 6],
        hash_layers=[0, 1, 0, 1, 0, 1, 0, 1],
        window_sizes=[1, 6],
    )
    assert deeper["attn_layer_indices"] == [1, 10]  # 0-5, 2-7: source 6 is target 10
    assert (deeper["vision_feature_layers"], deeper["window_sizes"]) == ([1, 6], [1, 6])
    assert deeper["hash_layers"] == [0, 1] * 6


def test_steps_of_experts_become_a_list_of_the_dense() -> None:
    """Experts in 1, 3, 5, 7 save those named; repeated layers have no step any more."""
    deeper, notes = deepen(LayerMap.repeat(8), decoder_sparse_step=2, mlp_only_layers=[3])
    assert deeper["decoder_sparse_step"] == 1
    dense = [2 * i + k for i in (0, 2, 3, 4, 6) for k in (0, 1)]
    assert deeper["mlp_only_layers"] == dense
    assert "decoder_sparse_step: 2 to 1" in notes[0]
    assert deepen(decoder_sparse_step=2)[0]["decoder_sparse_step"] == 2


def test_dense_layers_that_a_list_names_may_go_anywhere() -> None:
    kinds = ["dense"] * 3 + ["sparse"] * 5
    deeper, _ = deepen(first_k_dense_replace=3, mlp_layer_types=kinds)
    assert deeper["mlp_layer_types"] == MAP.remap(kinds)
    assert deepen(moe_layer_start_index=1, moe_layer_end_index=7)[0]["moe_layer_end_index"] == 11


def test_layers_that_scale_by_their_index_are_told() -> None:
    _, notes = deepen(scale_attn_by_inverse_layer_idx=True)
    assert "another scale" in notes[0]


def test_a_decoder_is_counted_apart() -> None:
    config = {"num_layers": 8, "num_hidden_layers": 8, "decoder_layers": 8}
    deeper, _ = deepen_config(config, Layout("model.decoder.layers", 8, "decoder_layers"), MAP)
    assert deeper == {**config, "decoder_layers": 12}
