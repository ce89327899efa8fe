"""Scaled and tuned folders in the frameworks that people run: no code of dusk's reads them here."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

import dusk
from use_models import ANSWERS, FAMILIES, scaled_model, tuned_model

IDS = torch.arange(3, 43)[None]  # (1, T)
FOUR_BITS = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
)


@pytest.fixture(scope="module", params=FAMILIES)
def scaled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scaled_model(tmp_path_factory.mktemp(request.param), **FAMILIES[request.param])


def load(folder: Path, **how: Any) -> Any:
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **how)
    assert not any(found.values())
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits.float().cpu()


def assert_answers(model: Any, tokenizer: Any) -> None:
    """It says what it has learnt, and stops by itself."""
    for asked, said in ANSWERS.items():
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, return_tensors="pt"
        )
        made = model.generate(**ids, do_sample=False, max_new_tokens=60)[0, ids["input_ids"].shape[1] :]
        assert made[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(made, skip_special_tokens=True) == said


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_types(scaled: Path, dtype: str):
    model = load(scaled, dtype=dtype)
    wanted = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}
    exact = logits(load(scaled, dtype=torch.float32))
    error = (logits(model) - exact).norm() / exact.norm()
    assert error < {torch.float32: 1e-6, torch.float16: 0.02, torch.bfloat16: 0.1}[wanted]


def test_places(scaled: Path, tmp_path: Path):
    """All on one device, as accelerate sees fit, and the last layers on the disk."""
    exact = logits(load(scaled, dtype="float32"))
    names = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    last_on_disk = dict.fromkeys(names, "cpu") | {
        f"model.layers.{layer}": "cpu" if layer < 4 else "disk" for layer in range(6)
    }
    for device_map in ("cpu", "auto", last_on_disk):
        model = load(scaled, dtype="float32", device_map=device_map, offload_folder=str(tmp_path))
        assert torch.equal(logits(model), exact)


def nf4_levels() -> torch.Tensor:
    """NormalFloat's 16 levels (Dettmers et al. 2023, appendix E): quantiles of a normal distribution, with 0."""
    above, below = (
        torch.special.ndtri(torch.linspace(0.9677083, 0.5, count, dtype=torch.float64)[:-1])
        for count in (9, 8)
    )
    return torch.cat([-below, torch.zeros(1), above]).sort().values.float() / above.max()


def in_four_bits(weight: torch.Tensor) -> torch.Tensor:
    """The weight with each block of 64 rounded to the nearest level times the block's largest value."""
    blocks = weight.reshape(-1, 64)
    scale, levels = blocks.abs().amax(1, keepdim=True), nf4_levels()
    nearest = ((blocks / scale)[..., None] - levels).abs().argmin(-1)
    return (levels[nearest] * scale).reshape(weight.shape)


@pytest.mark.parametrize("family", FAMILIES)
def test_four_bits(family: str, tmp_path: Path):
    """By bitsandbytes where it is installed, on a CPU too; refused with its name where it is not."""
    sizes = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}  # it packs 64 at a time
    folder = scaled_model(tmp_path, **FAMILIES[family] | sizes)
    how = {"dtype": torch.float32, "quantization_config": FOUR_BITS}
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ImportError, match="bitsandbytes"):
            load(folder, **how)
        return
    model, rounded = load(folder, **how), load(folder, dtype=torch.float32)
    packed = [name for name, weight in model.named_parameters() if weight.dtype == torch.uint8]
    assert len(packed) == 6 * 7  # the matrices of every layer; embedding and head stay
    weights = dict(rounded.named_parameters())
    with torch.no_grad():
        for name in packed:
            weights[name].copy_(in_four_bits(weights[name]))
    expected = logits(rounded)
    error = (logits(model) - expected).norm() / expected.norm()
    assert error < 0.1  # it may compute in bfloat16: see test_types


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_a_tuned_model_answers_in_four_bits(tmp_path: Path):
    """What it has learnt outlives the rounding, as it would not if layers or scales were mixed up."""
    tuned = tuned_model(tmp_path, num_hidden_layers=4, intermediate_size=128)
    model, tokenizer = load(tuned, quantization_config=FOUR_BITS), AutoTokenizer.from_pretrained(tuned)
    assert_answers(model, tokenizer)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers
def test_an_adapter_on_top_and_merged_back(scaled: Path, tmp_path: Path):
    torch.manual_seed(0)
    adapted = get_peft_model(
        load(scaled, dtype="float32"),
        LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    beside = PeftModel.from_pretrained(load(scaled, dtype="float32"), tmp_path / "adapter").eval()
    wanted = logits(beside)
    assert not torch.allclose(wanted, logits(load(scaled, dtype="float32")), atol=1e-2)
    beside.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert dusk.verify(tmp_path / "merged", forward=True).ok
    assert torch.allclose(logits(load(tmp_path / "merged", dtype="float32")), wanted, atol=1e-4)


@pytest.mark.parametrize("template", ["solar", "alpaca", "chatml"])
def test_transformers_alone_stops_by_itself(template: str, tmp_path: Path):
    """Template and settings of the folder, nothing named; also behind a merge."""
    tuned = tuned_model(tmp_path, template=template)
    dusk.merge([tuned, tuned], tmp_path / "merged")
    for folder in (tuned, tmp_path / "merged"):
        model, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder)
        assert model.generation_config.pad_token_id is not None
        assert_answers(model, tokenizer)
