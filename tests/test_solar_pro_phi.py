"""Phi-3 as Llama and as Solar Pro: by bytes, against the surgery done by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM

import dusk
from conftest import SIZES
from dusk.errors import CheckpointError
from dusk.skips import PUBLISHED
from dusk.solar_pro import SolarForCausalLM
from solar_models import config_of, plain, read, tokens_of
from solar_reference import deepened, logits_of

PHI_SIZES = {**SIZES, "initializer_range": 0.1, "pad_token_id": 0, "sliding_window": 7}


@pytest.fixture(scope="module")
def phi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Phi-3 of 40 narrow layers, as Phi-3-medium has, in two shards."""
    torch.manual_seed(0)
    model = Phi3ForCausalLM(Phi3Config(**PHI_SIZES, num_hidden_layers=40))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.rand_like(parameter) * 0.5 + 0.75)
    folder = tmp_path_factory.mktemp("phi")
    model.save_pretrained(folder, max_shard_size="1MB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    (folder / "modeling_phi3.py").write_text("raise RuntimeError\n")
    return folder


def split_by_hand(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Llama's names for a Phi-3: 4 heads and 2 key heads of 8, a width of 48."""
    made = {}
    for name, tensor in weights.items():
        if "qkv_proj" in name:
            parts = zip("qkv", tensor.split([32, 16, 16]), strict=True)
            made |= {name.replace("qkv_proj", f"{letter}_proj"): part for letter, part in parts}
        elif "gate_up_proj" in name:
            made[name.replace("gate_up", "gate")], made[name.replace("gate_up", "up")] = tensor.chunk(2)
        else:
            made[name] = tensor
    return made


def test_phi_3_as_llama_and_as_solar_pro_without_skips_computes_what_it_did(
    phi: Path, tmp_path: Path
) -> None:
    row = torch.randint(2, 96, (1, 20), generator=torch.Generator().manual_seed(0))
    expected = AutoModelForCausalLM.from_pretrained(phi)(row[:, :6]).logits
    windowed = AutoModelForCausalLM.from_pretrained(phi)(row).logits
    dusk.scale(phi, tmp_path / "llama", layers="0-39", architecture="llama")
    dusk.scale(phi, tmp_path / "solar", layers="0-39", architecture="solar-pro")
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    solar = AutoModelForCausalLM.from_pretrained(tmp_path / "solar")
    assert (llama.config.model_type, llama.config.max_position_embeddings) == ("llama", 7)  # its window
    assert torch.allclose(llama(row[:, :6]).logits, expected, atol=1e-6)
    assert isinstance(solar, SolarForCausalLM)
    assert torch.allclose(solar(row).logits, windowed, atol=1e-6)
    assert not list((tmp_path / "solar").glob("*.py"))  # Phi-3's code is not Solar Pro's


def test_64_layers_of_40_with_the_published_skips(phi: Path, tmp_path: Path) -> None:
    out = tmp_path / "solar"
    report = dusk.scale(phi, out, drop=8, architecture="solar-pro", skips="published", pad_vocabulary=128)
    weights = deepened(split_by_hand(read(phi)), [*range(32), *range(8, 40)])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.zeros(32, 32)])
    found = read(out)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert report.parameters == sum(tensor.numel() for tensor in weights.values())
    model = AutoModelForCausalLM.from_pretrained(out)
    row = tokens_of(model, 12) % 96
    given = {**plain(model.config), **PUBLISHED.to_config(), "bskcn_tv": [0.9, 0.8], "sliding_window": 7}
    expected = logits_of(row, weights, given)
    assert float((model(row[None]).logits[0].detach() - expected).abs().max() / expected.abs().max()) < 1e-6
    assert dusk.verify(out, forward=True).ok
    manifest = json.loads((out / "dusk.json").read_text())
    assert manifest["settings"]["architecture"] == "solar-pro"
    assert manifest["layer_map"]["layers"] == 64
    told = [note for note in report.notes if note.startswith("skip connections")]
    assert told == ["skip connections: 12-16,20-24,20-28,32-36,32-40,44-48"]
    assert dusk.inspect(out).skips == PUBLISHED.spec()
    assert dusk.inspect(phi).skips is None


def test_a_real_phi_3_medium_becomes_the_published_config(tmp_path: Path) -> None:
    """Phi-3-medium's shape (its tensors of no bytes: only headers are read in a dry run)."""
    phi_medium = {
        "architectures": ["Phi3ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "model_type": "phi3",
        "hidden_size": 5120,
        "intermediate_size": 17920,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "num_hidden_layers": 40,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "sliding_window": 2047,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
        "torch_dtype": "bfloat16",
    }
    base = sparse_checkpoint(tmp_path / "phi-medium", phi_medium)
    report = dusk.scale(
        base, tmp_path / "out", drop=8, architecture="solar-pro", skips="published", pad_vocabulary=32128,
        dry_run=True,
    )  # fmt: skip
    assert (len(report.layer_map), report.parameters) == (64, 22_140_032_000)
    assert report.layer_map.source[31:33] == (31, 8)


def sparse_checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """A checkpoint of a Phi-3's shape whose file is a hole: no byte of the weights is on the disk."""
    hidden, width, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    size = hidden // config["num_attention_heads"]
    fused = hidden + 2 * size * config["num_key_value_heads"]
    shapes = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (vocabulary, hidden))
    tensors: dict[str, tuple[int, ...]] = {**shapes, "model.norm.weight": (hidden,)}
    for i in range(config["num_hidden_layers"]):
        for name, shape in {
            "self_attn.qkv_proj": (fused, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_up_proj": (2 * width, hidden),
            "mlp.down_proj": (hidden, width),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }.items():
            tensors[f"model.layers.{i}.{name}.weight"] = shape
    fields, position = {}, 0
    for name, shape in tensors.items():
        length = 2 * int(torch.Size(shape).numel())
        fields[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + length]}
        position += length
    text = json.dumps(fields).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_scaling": {"type": "longrope", "short_factor": [], "long_factor": []}}, "(longrope)"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "scaled for long texts (longrope)"),
        ({"rope_scaling": {"type": "su"}, "partial_rotary_factor": 0.75}, "it rotates 0.75 of each head"),
        ({"num_key_value_heads": 4}, "has 64 rows, the config asks for 96"),
    ],
)
def test_a_phi_3_that_llama_cannot_be(
    change: dict[str, Any], words: str, phi: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = copy_of(phi)
    changed = config_of(folder)
    changed.pop("rope_parameters")
    (folder / "config.json").write_text(json.dumps(changed | change))
    with pytest.raises(CheckpointError) as caught:
        dusk.scale(folder, tmp_path / "out", architecture="solar-pro")
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()
