"""Scaled checkpoints against the same surgery done by hand in memory, and bad input."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import save_random_model
from dusk.checkpoint import Checkpoint, open_checkpoint, read_manifest, verify
from dusk.checkpoint.forward import cache_difference
from dusk.errors import CheckpointError, LayerMapError, OutputError, SettingError
from dusk.layers import LayerMap
from dusk.scale import load_scaled, parse_size, scale

IDS = torch.arange(3, 25)[None]
FAMILY = ["llama", "mistral", "qwen2", "qwen3"]
Models = Callable[..., Path]


def surgery(folder: Path, source: list[int]) -> Any:
    """The independent reference: a model of the new depth, filled name by name from the base's."""
    base = AutoModelForCausalLM.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in source]
    config.num_hidden_layers = len(source)
    deeper = AutoModelForCausalLM.from_config(config, dtype=base.dtype)
    state = {k: v for k, v in base.state_dict().items() if ".layers." not in k}
    for target, layer in enumerate(source):
        for part, value in base.model.layers[layer].state_dict().items():
            state[f"model.layers.{target}.{part}"] = value
    deeper.load_state_dict(state)
    return deeper.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("variant", FAMILY)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_equal_surgery_in_memory(
    model_folder: Models, tmp_path: Path, variant: str, dtype: str
) -> None:
    base = model_folder(variant, dtype=dtype)
    report = scale(base, tmp_path / "out")
    scaled = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert scaled.dtype == getattr(torch, dtype)
    assert torch.equal(logits(scaled), logits(surgery(base, list(report.layer_map.source))))
    assert scaled.num_parameters() == report.parameters == open_checkpoint(tmp_path / "out").parameters


@pytest.mark.parametrize("variant", FAMILY)
def test_the_cache_changes_nothing(model_folder: Models, tmp_path: Path, variant: str) -> None:
    base = model_folder(variant)
    layer_map = scale(base, tmp_path / "out").layer_map
    scaled = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    in_memory = load_scaled(base, layer_map)
    assert torch.equal(logits(scaled), logits(in_memory))
    for model in (scaled, in_memory):
        assert cache_difference(model) < 1e-5
        arguments = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        cached = model.generate(IDS, use_cache=True, **arguments)
        assert torch.equal(cached, model.generate(IDS, use_cache=False, **arguments))
    assert torch.equal(scaled.generate(IDS, **arguments), in_memory.generate(IDS, **arguments))


def test_windows_stay_with_their_layers(model_folder: Models, tmp_path: Path) -> None:
    base = model_folder("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=2)
    layer_types = json.loads((base / "config.json").read_text())["layer_types"]
    assert layer_types == ["full_attention"] * 2 + ["sliding_attention"] * 2
    layer_map = LayerMap.parse("0-2,1-3", 4)
    scale(base, tmp_path / "out", layers=layer_map)
    scaled = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert scaled.config.layer_types == layer_map.remap(layer_types)
    expected = logits(surgery(base, list(layer_map.source)))
    assert torch.equal(logits(scaled), expected)
    assert torch.equal(logits(load_scaled(base, layer_map)), expected)
    assert cache_difference(scaled) < 1e-5


@pytest.mark.parametrize("variant", FAMILY)
def test_identity_layers_leave_the_function_unchanged(
    model_folder: Models, tmp_path: Path, variant: str
) -> None:
    base = model_folder(variant)
    scale(base, tmp_path / "out", drop=1, fresh="identity")
    before = logits(AutoModelForCausalLM.from_pretrained(base).eval())
    scaled = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(logits(scaled), before)
    assert torch.equal(logits(load_scaled(base, LayerMap.interleave_identity(scaled_base(base), 2))), before)
    assert "start as the identity" in (tmp_path / "out" / "README.md").read_text()


def scaled_base(folder: Path) -> int:
    return open_checkpoint(folder).layout.layers


OTHERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 4},
    "gpt_neox": {"num_hidden_layers": 4},
    "mixtral": {"num_hidden_layers": 4, "num_local_experts": 3, "num_experts_per_tok": 2},
    "gemma2": {"num_hidden_layers": 4, "head_dim": 8, "sliding_window": 4},
    "phi3": {"num_hidden_layers": 4, "pad_token_id": 0},
    "olmo2": {"num_hidden_layers": 4},
}


@pytest.mark.parametrize("model_type", OTHERS)
def test_other_architectures_by_structure(tmp_path: Path, model_type: str) -> None:
    base = save_random_model(tmp_path / "base", model_type=model_type, **OTHERS[model_type])
    layer_map = scale(base, tmp_path / "out").layer_map
    scaled = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(logits(scaled), logits(load_scaled(base, layer_map)))
    assert cache_difference(scaled) < 1e-5


def test_shared_layers_share_their_weights(model_folder: Models) -> None:
    model = load_scaled(model_folder("llama"), "0-5,2-7")
    layers = model.model.layers
    assert layers[2].mlp.up_proj.weight is layers[6].mlp.up_proj.weight
    assert [layer.self_attn.layer_idx for layer in layers] == list(range(12))
    assert model.config.num_hidden_layers == 12


@pytest.mark.parametrize("variant", FAMILY)
def test_identity_layers_of_a_checkpoint_with_biases(
    model_folder: Models, tmp_path: Path, variant: str
) -> None:
    base = model_folder(variant, attention_bias=True, mlp_bias=True)
    scale(base, tmp_path / "out", fresh="identity")
    before = logits(AutoModelForCausalLM.from_pretrained(base).eval())
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()), before)


def test_shards_in_and_out_say_the_same(model_folder: Models, tmp_path: Path) -> None:
    one, many = model_folder("llama"), model_folder("llama", shard="40KB")
    assert len(open_checkpoint(many).headers) > 2
    scale(one, tmp_path / "one")
    scale(many, tmp_path / "many", shard_limit_bytes=50_000)
    opened = open_checkpoint(tmp_path / "many")
    assert len(opened.headers) > 4
    assert all(header.file_bytes < 60_000 for header in opened.headers)
    a, b = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("one", "many"))
    assert torch.equal(logits(a), logits(b))
    assert verify(tmp_path / "many", forward=True).ok


def test_the_companions_are_carried_over_byte_for_byte(
    model_folder: Models, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    base = copy_of(model_folder("llama"))
    files = {
        "tokenizer.json": b'{"version": "1.0"}\r\n',
        "chat_template.jinja": b"{{ messages }}",
        "tokenizer.model": bytes(range(256)),
        "special_tokens_map.json": b"{}",
    }
    for name, content in files.items():
        (base / name).write_bytes(content)
    (base / "optimizer.pt").write_bytes(b"not a companion")
    scale(base, tmp_path / "out")
    for name in (*files, "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    assert not (tmp_path / "out" / "optimizer.pt").exists()


def test_manifest_and_card_tell_what_was_done(
    model_folder: Models, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    base = copy_of(model_folder("llama"))
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n")
    scale(base, tmp_path / "once")
    manifest = read_manifest(tmp_path / "once")
    assert manifest is not None
    assert manifest.inputs[0].digest == open_checkpoint(base).digest()
    assert LayerMap.from_json(manifest.layer_map or {}) == LayerMap.depthwise(8)
    card = (tmp_path / "once" / "README.md").read_text()
    for expected in ('license: "apache-2.0"', "`0-5,2-7`", 'base_model:\n- "copy"', "Layer 6 follows a seam"):
        assert expected in card
    from huggingface_hub import ModelCard

    data = ModelCard(card).data
    assert (data.license, data.base_model, data.library_name) == ("apache-2.0", ["copy"], "transformers")
    scale(tmp_path / "once", tmp_path / "twice")
    again = read_manifest(tmp_path / "twice")
    assert again is not None
    assert again.lineage[0]["inputs"][0]["name"] == str(base)
    assert 'license: "apache-2.0"' in (tmp_path / "twice" / "README.md").read_text()


def test_sizes_choose_the_nearest_map(model_folder: Models, tmp_path: Path) -> None:
    base = model_folder("llama")
    opened = open_checkpoint(base)
    layer = (opened.parameters - 2 * 96 * 32 - 32) // 8
    report = scale(base, tmp_path / "out", params=opened.parameters + 3 * layer + 10, dry_run=True)
    assert len(report.layer_map) == 11
    assert report.parameters == opened.parameters + 3 * layer
    assert "nearest" in report.notes[0]
    assert len(scale(base, tmp_path / "out", to=12, dry_run=True).layer_map) == 12
    assert not list(tmp_path.iterdir())
    assert json.loads(json.dumps(report.to_json()))["dry_run"] is True
    for text, size in {"11B": 11e9, "10.7b": 10.7e9, "500M": 5e8, 123: 123}.items():
        assert parse_size(text) == size
    for bad in ("", "x", "-1B", "1e9", "0"):
        with pytest.raises(SettingError, match="params"):
            parse_size(bad)
    with pytest.raises(SettingError, match="not 99"):
        scale(base, tmp_path / "out", params="99B")


def test_solar_from_a_mistral_shaped_base() -> None:
    """10,731,524,096 parameters (reference: SOLAR 10.7B, its published config)."""
    from dusk.checkpoint import Layout, TensorEntry
    from dusk.checkpoint.expected import expected_tensors
    from dusk.checkpoint.folder import Checkpoint
    from dusk.scale import nearest_map, target_parameters

    config = {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 32000,
              "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32}  # fmt: skip
    shapes = expected_tensors(config, 32) or {}
    tensors = {name: TensorEntry(Path("x"), "BF16", shape, 0, 0) for name, shape in shapes.items()}
    layout = Layout("model.layers", 32, "num_hidden_layers")
    base = Checkpoint(Path("x"), "x", config, tensors, layout, ())
    assert base.parameters == 7_241_732_096
    assert target_parameters(base, LayerMap.depthwise(32)) == 10_731_524_096
    assert nearest_map(base, parse_size("10.7B")) == LayerMap.depthwise(32, 8)


def test_bad_settings(model_folder: Models, tmp_path: Path) -> None:
    base = model_folder("llama")
    (tmp_path / "there").mkdir()
    out = tmp_path / "out"
    with pytest.raises(SettingError, match="exists already"):
        scale(base, tmp_path / "there")
    for drop in (-1, 4, 9):
        with pytest.raises(LayerMapError, match="Dropping"):
            scale(base, out, drop=drop)
    with pytest.raises(SettingError, match="`drop` and `to`"):
        scale(base, out, drop=2, to=12)
    with pytest.raises(SettingError, match="fresh"):
        scale(base, out, fresh="zero")
    with pytest.raises(LayerMapError, match="cannot be read"):
        scale(base, out, layers="0-99")
    with pytest.raises(SettingError, match="for 4 layers"):
        scale(base, out, layers=LayerMap.depthwise(4))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["there"]
    assert "jump of 7" in scale(base, out, drop=0).warnings[0]


def test_a_base_that_does_not_fit_its_config(
    model_folder: Models, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    base = copy_of(model_folder("llama"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "intermediate_size": 64, "vocab_size": 97}))
    with pytest.raises(CheckpointError, match="do not fit") as caught:
        scale(base, tmp_path / "out")
    assert len(caught.value.problems) == 21  # 20 and how many more
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up(model_folder: Models, tmp_path: Path, file_size_limit: Any) -> None:
    with file_size_limit(100_000), pytest.raises(OutputError, match="could not be written: File too large"):
        scale(model_folder("llama"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_scaling_imports_neither_torch_nor_numpy(model_folder: Models, tmp_path: Path) -> None:
    code = (
        "import sys; from dusk.scale import scale; scale(sys.argv[1], sys.argv[2]);"
        "print({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    arguments = [sys.executable, "-c", code, str(model_folder("llama")), str(tmp_path / "out")]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("limit", [1000, 20_000, 10**9])
def test_digests_computed_while_copying(model_folder: Models, tmp_path: Path, limit: int) -> None:
    """They are those that reading the result gives, and a flipped bit is found."""
    base, out = model_folder("llama", shard="40KB"), tmp_path / "out"
    scale(base, out, digest=True, pad_vocabulary=100, fresh="identity", shard_limit_bytes=limit)
    written = json.loads((out / "dusk.json").read_text())["digests"]
    for name, tensor in ((n, t) for file in out.glob("*.safetensors") for n, t in load_file(file).items()):
        assert written["tensors"][name] == hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    assert verify(out).ok
    assert "digests" in verify(out).checked
    entry = open_checkpoint(out).tensors["model.layers.3.mlp.up_proj.weight"]
    with entry.file.open("r+b") as file:
        file.seek(entry.end - 1)
        byte = file.read(1)[0]
        file.seek(entry.end - 1)
        file.write(bytes([byte ^ 4]))
    (problem,) = verify(out).problems
    assert problem.startswith("model.layers.3.mlp.up_proj.weight is not what it was")


def test_what_is_not_copied_is_not_read(
    model_folder: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest says sizes, the headers' digests and the ranges; a layer left out is in none."""
    base = model_folder("llama", shard="40KB")
    monkeypatch.setattr(Checkpoint, "digest", lambda self: pytest.fail("reads tensors"))
    scale(base, tmp_path / "out", layers="0-1,6-7")
    (source,) = json.loads((tmp_path / "out" / "dusk.json").read_text())["inputs"]
    opened = open_checkpoint(base)
    assert source["digest"] == opened.header_digest()
    left_out = {f"model.layers.{layer}." for layer in (2, 3, 4, 5)}
    for header in opened.headers:
        told = source["files"][header.file.name]
        content = header.file.read_bytes()
        assert told["bytes"] == len(content)
        assert told["header"] == hashlib.sha256(content[: 8 + len(header.text)]).hexdigest()
        assert "sha256" not in told
        for name, entry in header.tensors.items():
            inside = any(begin <= entry.begin and entry.end <= end for begin, end in told["ranges"])
            assert inside is not any(name.startswith(layer) for layer in left_out)
