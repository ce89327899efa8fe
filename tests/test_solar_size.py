"""SOLAR 10.7B from a Mistral-7B-shaped base, whole: headers and a sparse file in place of 14.5 GB."""

import json
from pathlib import Path

import pytest

from dusk.checkpoint import deepen_config, open_checkpoint
from dusk.checkpoint.expected import expected_tensors
from dusk.layers import LayerMap
from dusk.scale import scale
from dusk.scale.form import Form

# Mistral-7B-v0.1's config.json; `--as llama` ends the context where the window does, as SOLAR 10.7B has it.
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
# The published config of upstage/SOLAR-10.7B-v1.0, the fields that describe the model.
SOLAR = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 48,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
}


@pytest.fixture
def mistral(tmp_path: Path) -> Path:
    """The base with its true header over a file of holes; read as zeros, and it takes no room."""
    folder = tmp_path / "mistral"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MISTRAL))
    header, end = {}, 0
    for name, shape in (expected_tensors(MISTRAL, 32) or {}).items():
        size = 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


def test_solar_has_its_published_size_and_config(mistral: Path, tmp_path: Path) -> None:
    base = open_checkpoint(mistral)
    assert base.parameters == 7_241_732_096
    report = scale(mistral, tmp_path / "out", architecture="llama", drop=8, dry_run=True)
    assert report.parameters == 10_731_524_096
    assert report.tensor_bytes == 2 * 10_731_524_096
    assert report.layer_map == LayerMap.parse("0-23,8-31", 32)
    seen, _ = Form("llama").base(base)
    config, _ = deepen_config(seen.config, seen.layout, report.layer_map)
    assert {key: config.get(key) for key in SOLAR} == SOLAR
    assert "sliding_window" not in config
