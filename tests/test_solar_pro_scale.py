"""Solar Pro made of other checkpoints, and scaled itself: by bytes, against the surgery done by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM

import dusk
from conftest import SIZES
from dusk.errors import CheckpointError, InputError, SettingError
from dusk.layers import LayerMap
from dusk.recipe import load_recipe
from dusk.skips import PUBLISHED, Skips
from dusk.solar_pro import SolarForCausalLM
from solar_models import plain, solar_model, tokens_of
from solar_reference import logits_of

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


def read(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def config_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return loaded


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


def deepened(weights: dict[str, Tensor], source: list[int]) -> dict[str, Tensor]:
    made = {name: tensor for name, tensor in weights.items() if ".layers." not in name}
    for target, layer in enumerate(source):
        prefix = f"model.layers.{layer}."
        made |= {
            name.replace(prefix, f"model.layers.{target}."): tensor
            for name, tensor in weights.items()
            if name.startswith(prefix)
        }
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


def test_skips_for_any_llama_like_model(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """A growth option beside copy and identity: 8 layers to 12, with skips across the seam."""
    for variant in ("llama", "mistral"):
        base = model_folder(variant, num_hidden_layers=8, initializer_range=0.1)
        out = tmp_path / variant
        dusk.scale(base, out, skips="3-5,6-9", skip_weights=[0.3, 0.2])
        model = AutoModelForCausalLM.from_pretrained(out)
        assert isinstance(model, SolarForCausalLM)
        row = tokens_of(model, 12)
        weights = deepened(read(base), [*range(6), *range(2, 8)])
        given = {
            **plain(model.config),
            **Skips.parse("3-5,6-9", 12).to_config(),
            "bskcn_tv": [0.3, 0.2],
            "sliding_window": 8 if variant == "mistral" else None,
        }
        for training in (False, True):
            expected = logits_of(row, weights, given, training=training)
            found = model.train(training)(row[None]).logits[0].detach()
            assert float((found - expected).abs().max() / expected.abs().max()) < 1e-6


def test_a_solar_pro_that_is_scaled_keeps_its_skips_in_both_copies(tmp_path: Path) -> None:
    model = solar_model("1-3,2-4,5-7", 8, seed=4)
    model.save_pretrained(tmp_path / "base")
    report = dusk.scale(tmp_path / "base", tmp_path / "out", drop=2)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    pairs = {(c.store, c.use) for c in Skips.of(loaded.config.to_dict()).connections()}
    assert pairs == {(1, 3), (2, 4), (6, 8), (9, 11)}  # 0-5 of the base, then 2-7
    assert any(note.startswith("skip connections: now 1-3,2-4,6-8,9-11") for note in report.notes)
    row = tokens_of(model, 9)
    weights = deepened(dict(model.state_dict()), list(LayerMap.depthwise(8, 2).source))
    expected = logits_of(row, weights, plain(loaded.config))
    assert float((loaded(row[None]).logits[0].detach() - expected).abs().max() / expected.abs().max()) < 1e-6
    in_memory = dusk.load_scaled(tmp_path / "base", LayerMap.depthwise(8, 2))
    assert torch.equal(in_memory(row[None]).logits, loaded(row[None]).logits)


def test_the_two_weights_are_no_list_of_two_layers(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    base = model_folder("llama", num_hidden_layers=2)
    dusk.scale(base, tmp_path / "out", layers="0-1,0-1", skips="1-3", skip_weights=[0.3, 0.2])
    dusk.scale(tmp_path / "out", tmp_path / "two", layers="0-1")
    dusk.scale(tmp_path / "two", tmp_path / "again", layers="0-1,0-1")
    assert [config_of(tmp_path / name)["bskcn_tv"] for name in ("out", "two", "again")] == [[0.3, 0.2]] * 3


def test_to_the_published_layout_and_back(tmp_path: Path) -> None:
    """What transformers 5 saves, in the field names of 4.44; both load, to the same model."""
    model = solar_model("1-3,2-4", 8, seed=4)
    model.save_pretrained(tmp_path / "ours")
    dusk.scale(tmp_path / "ours", tmp_path / "theirs", layers="0-7", architecture="solar-pro")
    config = config_of(tmp_path / "theirs")
    assert (config["rope_theta"], config["rope_scaling"], config["torch_dtype"]) == (1e4, None, "float32")
    assert "rope_parameters" not in config
    assert (config["bskcn_1"], config["bskcn_4"]) == ([1], [4])
    row = tokens_of(model, 9)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    assert torch.equal(again(row[None]).logits, model(row[None]).logits)
    assert dusk.verify(tmp_path / "theirs").ok


def test_remote_code_runs_where_dusk_is_not(tmp_path: Path) -> None:
    model = solar_model("1-4,2-6", 8, seed=2)
    model.save_pretrained(tmp_path / "base")
    out = tmp_path / "out"
    dusk.scale(tmp_path / "base", out, layers="0-7", with_remote_code=True)
    row = tokens_of(model, 9)
    save_file({"logits": model(row[None]).logits.detach()}, tmp_path / "expected.safetensors")
    script = f"""
import sys
try:
    import dusk
except ImportError:
    pass
else:
    sys.exit("dusk is here")
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
model = AutoModelForCausalLM.from_pretrained({str(out)!r}, trust_remote_code=True, dtype=torch.float32)
logits = model(torch.tensor([{row.tolist()}])).logits
assert torch.equal(logits, load_file({str(tmp_path / "expected.safetensors")!r})["logits"])
judge = AutoModelForSequenceClassification.from_pretrained({str(out)!r}, trust_remote_code=True)
assert judge(torch.tensor([{row.tolist()}])).logits.shape == (1, 2)
try:
    AutoModelForCausalLM.from_pretrained({str(out)!r}, trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code" in str(error), error
else:
    sys.exit("code ran without being asked for")
"""
    # -S: the environment's .pth files, through which an editable dusk would be found, are left out
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    site = next(path for path in sys.path if path.endswith("site-packages"))
    environment |= {"PYTHONPATH": site, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("wishes", "words", "kind"),
    [
        ({"skips": "3-12"}, "3-12: the layers are 0-11", SettingError),
        ({"skips": "5-3"}, "5-3: the use must come after the store", SettingError),
        ({"skips": "3-5,x"}, "`x` is no pair store-use", SettingError),
        ({"skips": "published"}, "they fit from 16 layers on", SettingError),
        ({"skips": "1-9,2-8,3-6"}, "two other states are held at layer 3", SettingError),
        ({"skips": "3-5", "skip_weights": [0.9]}, "bskcn_tv is [0.9]", SettingError),
        ({"skips": "3-5", "skip_weights": [0.9, 0.8, 0.7]}, "it is two numbers", SettingError),
        ({"skips": "3-5", "skip_weights": [0.9, 2]}, "a weight is 0 to 1", SettingError),
        ({"architecture": "llama", "skips": "3-5"}, "Llama has none", SettingError),
        ({"architecture": "gpt"}, "There are llama and solar-pro", SettingError),
        ({"pad_vocabulary": 95}, "has 96 rows and is never cut to 95", SettingError),
    ],
)
def test_wishes_that_cannot_be(
    wishes: dict[str, Any],
    words: str,
    kind: type[InputError],
    model_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(kind) as caught:
        dusk.scale(model_folder("llama"), tmp_path / "out", **wishes)
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_bases_that_cannot_be_it(model_folder: Callable[..., Path], copy_of: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="of the type qwen3, which is no Llama under another name"):
        dusk.scale(model_folder("qwen3"), tmp_path / "out", skips="1-2")
    solar_model("1-3", 8).save_pretrained(tmp_path / "solar")
    with pytest.raises(CheckpointError, match="computes what no Llama does"):
        dusk.scale(tmp_path / "solar", tmp_path / "out", architecture="llama")
    broken = config_of(tmp_path / "solar") | {"bskcn_1": [3, 1], "bskcn_tv": [1, 2, 3]}
    (tmp_path / "solar/config.json").write_text(json.dumps(broken))
    with pytest.raises(CheckpointError) as caught:
        dusk.scale(tmp_path / "solar", tmp_path / "out")
    assert "bskcn_1 is out of order" in str(caught.value)
    assert "it is two numbers" in str(caught.value)
    found = dusk.verify(tmp_path / "solar")
    assert any("bskcn_1 is out of order" in problem for problem in found.problems)


def test_a_mistral_as_llama_is_solar_10_7b(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Within the window Mistral computes what Llama does, and SOLAR's context is Mistral's window."""
    base = model_folder("mistral", num_hidden_layers=8)
    dusk.scale(base, tmp_path / "out", architecture="llama")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (type(model).__name__, model.config.max_position_embeddings) == ("LlamaForCausalLM", 8)
    dusk.scale(base, tmp_path / "mistral")
    row = torch.arange(3, 11)[None]
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "mistral")(row).logits
    assert torch.allclose(model(row).logits, expected, atol=1e-6)


def test_by_the_command_without_torch(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    script = (
        "import sys; from dusk.cli.main import main; code = main()\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; sys.exit(code)"
    )
    words = [
        "scale",
        str(model_folder("llama")),
        str(tmp_path / "out"),
        "--skips",
        "3-5",
        "--as",
        "solar-pro",
    ]
    words += ["--skip-weights", "0.3,0.2", "--with-remote-code", "--pad-vocabulary", "128"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "skip connections: 3-5" in done.stdout
    config = config_of(tmp_path / "out")
    assert (config["model_type"], config["bskcn_tv"], config["vocab_size"]) == ("solar", [0.3, 0.2], 128)
    assert {file.name for file in (tmp_path / "out").glob("*.py")} == {
        "skips.py", "configuration_solar.py", "modeling_solar.py"}  # fmt: skip


def test_the_recipe_differs_in_the_skips_alone(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "recipes/solar-pro.yaml").read_text()
    (tmp_path / "solar-pro.yaml").write_text(text)
    (tmp_path / "data").mkdir()
    for name in (
        "pretrain",
        "heldout",
        "instructions",
        "preferences-1",
        "preferences-2",
        "logickor",
        "logickor-example",
    ):
        (tmp_path / f"data/{name}.jsonl").write_text("")
    stages = load_recipe(tmp_path / "solar-pro.yaml").stages
    told = {name: stage.given() for name, stage in stages.items() if name != "phi"}
    assert told["skipping"] == told["plain"] | {"skips": "published"}
    assert told["plain"]["skips"] == "none"
    assert told["skipping"]["architecture"] == "solar-pro"
    assert told["skipping_tuned"]["template"] == "chatml"
