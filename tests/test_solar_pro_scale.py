"""Llama and Mistral with skips, and Solar Pro scaled itself: by bytes, against the surgery done by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import dusk
from dusk.errors import CheckpointError, InputError, SettingError
from dusk.layers import LayerMap
from dusk.recipe import load_recipe
from dusk.skips import Skips
from dusk.solar_pro import SolarForCausalLM
from solar_models import config_of, plain, read, solar_model, tokens_of
from solar_reference import deepened, logits_of


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
