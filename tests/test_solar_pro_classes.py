"""Solar Pro's classes: the published config and names, what Auto classes load, and on which devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from dusk.solar_pro import (
    SolarConfig,
    SolarForCausalLM,
    SolarForSequenceClassification,
    SolarModel,
    skip_weight,
)
from solar_models import SIZES, difference, reference, solar_config, solar_model, tokens_of

# config.json of upstage/solar-pro-preview-instruct
PUBLISHED_CONFIG: dict[str, Any] = {
    "architectures": ["SolarForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_solar.SolarConfig",
        "AutoModelForCausalLM": "modeling_solar.SolarForCausalLM",
    },
    "model_type": "solar",
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
    "num_hidden_layers": 64,
    "vocab_size": 32128,
    "max_position_embeddings": 4096,
    "sliding_window": 2047,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 32007,
    "bskcn_1": [12, 20, 32, 44],
    "bskcn_2": [20, 32],
    "bskcn_3": [16, 24, 36, 48],
    "bskcn_4": [28, 40],
    "bskcn_tv": [0.9, 0.8],
    "torch_dtype": "bfloat16",
    "transformers_version": "4.44.2",
}

LAYER_TENSORS = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
]


def test_exactly_the_published_parameters_and_names() -> None:
    config = SolarConfig.from_dict(PUBLISHED_CONFIG)
    with torch.device("meta"):
        model = SolarForCausalLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_140_032_000
    expected = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    expected |= {f"model.layers.{i}.{name}.weight" for i in range(64) for name in LAYER_TENSORS}
    assert set(model.state_dict()) == expected
    assert len(expected) == 3 + 64 * 9
    assert (config.rope_parameters["rope_theta"], config.head_dim, config.dtype) == (1e4, 128, torch.bfloat16)


def test_the_defaults_are_those_of_the_published_class() -> None:
    config = SolarConfig()
    for key, value in {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "sliding_window": 2047,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **{key: PUBLISHED_CONFIG[key] for key in PUBLISHED_CONFIG if key.startswith("bskcn")},
    }.items():
        assert getattr(config, key) == value


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bskcn_1": [-1]}, "bskcn_1 names layer -1"),
        ({"bskcn_3": [24, 16, 36, 48]}, "bskcn_3 is out of order"),
        ({"bskcn_1": [12, 20, 30, 32, 44]}, "bskcn_1 stores at layer 30 what bskcn_3 never uses"),
        ({"bskcn_4": [10, 28, 40]}, "bskcn_4 uses slot 2 at layer 10 before bskcn_2 stores anything"),
        ({"bskcn_tv": [0.9, 0.8, 0.7]}, "bskcn_tv is [0.9, 0.8, 0.7]; it is two numbers"),
    ],
)
def test_a_config_with_faulty_skips_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError) as caught:
        SolarConfig(**fields)
    assert words in str(caught.value)


def test_sequence_classification_scores_the_last_token() -> None:
    torch.manual_seed(0)
    config = solar_config("1-4,2-6", num_labels=3)
    model = SolarForSequenceClassification(config).eval()
    rows = torch.tensor([[5, 9, 7, 0, 0], [8, 3, 4, 6, 11]])
    logits = model(rows, attention_mask=(rows != 0).long()).logits
    for i, length in enumerate((3, 5)):
        states = model.model(rows[i : i + 1, :length]).last_hidden_state[0, -1]
        assert torch.allclose(logits[i], states @ model.score.weight.T, atol=1e-6)


def test_auto_classes_load_what_was_saved(tmp_path: Path) -> None:
    model = solar_model("1-4,2-6", seed=5)
    model.save_pretrained(tmp_path / "model")
    row = tokens_of(model, 8)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert isinstance(loaded, SolarForCausalLM)
    assert torch.equal(loaded(row[None]).logits, model(row[None]).logits)
    assert json.loads((tmp_path / "model/config.json").read_text())["bskcn_2"] == [2]
    judge = AutoModelForSequenceClassification.from_config(solar_config("1-4", num_labels=2))
    assert isinstance(judge, SolarForSequenceClassification)


def test_the_published_config_loads_without_remote_code(tmp_path: Path) -> None:
    """auto_map names files that are not there: nothing of the folder is run."""
    small = PUBLISHED_CONFIG | {key: SIZES[key] for key in ("hidden_size", "intermediate_size", "vocab_size")}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 2, "num_hidden_layers": 64}
    (tmp_path / "config.json").write_text(json.dumps(small))
    config = AutoConfig.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config)
    assert (type(config), type(model), model.dtype) == (SolarConfig, SolarForCausalLM, torch.bfloat16)
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert loaded.config.bskcn_3 == [16, 24, 36, 48]


def test_layers_on_the_disk_take_the_slots_along(tmp_path: Path) -> None:
    model = solar_model("1-4,2-6")
    model.save_pretrained(tmp_path / "model")
    row = tokens_of(model, 8)
    places: dict[str, str] = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{i}": "disk" if i in (2, 4, 5) else "cpu" for i in range(8)}
    places["model.rotary_emb"] = "cpu"
    spread = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "away", dtype=torch.float32
    )
    with torch.no_grad():
        assert torch.equal(spread(row[None]).logits, model(row[None]).logits)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_layers_on_two_devices_take_the_slots_along(tmp_path: Path) -> None:
    model = solar_model("1-4,2-6")
    model.save_pretrained(tmp_path / "model")
    row = tokens_of(model, 8)
    places: dict[str, Any] = {
        "model.embed_tokens": "cpu",
        "model.norm": 0,
        "lm_head": 0,
        "model.rotary_emb": "cpu",
    }
    places |= {f"model.layers.{i}": "cpu" if i < 3 else 0 for i in range(8)}
    spread = AutoModelForCausalLM.from_pretrained(tmp_path / "model", device_map=places, dtype=torch.float32)
    assert difference(spread(row[None]).logits[0].cpu(), reference(model, row)) < 1e-4


def test_compiled_it_is_one_graph() -> None:
    model = solar_model("1-2,1-3", 4)
    row = tokens_of(model, 1, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(row, use_cache=False).logits, model(row, use_cache=False).logits)
        with skip_weight(model, "training"):
            again = compiled(row, use_cache=False).logits
            assert torch.equal(again, model(row, use_cache=False).logits)


def test_the_front_door_stays_light() -> None:
    """`import dusk` and the rule of the skips need no torch; the room itself registers by its import."""
    script = (
        "import sys, dusk, dusk.skips; assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "import transformers\n"
        "from transformers.models.auto.configuration_auto import CONFIG_MAPPING\n"
        "assert 'solar' not in CONFIG_MAPPING\n"
        "import dusk.solar_pro; assert 'solar' in CONFIG_MAPPING"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def test_a_model_is_what_its_classes_say() -> None:
    assert SolarModel.config_class is SolarConfig
    assert SolarConfig.base_model_pp_plan is None  # a stage without slots would be wrong without a word
