"""Scaled and tuned folders in the frameworks that people run: no code of dusk's reads them here."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import dusk
from train_models import save_base, text
from use_models import ANSWERS, tuned_model

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "mistral": {"model_type": "mistral", "sliding_window": 16},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
}
IDS = torch.arange(3, 43)[None]  # (1, T)


@pytest.fixture(scope="module", params=FAMILIES)
def scaled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    save_base(folder / "base", num_hidden_layers=4, **FAMILIES[request.param])
    dusk.scale(folder / "base", folder / "deep", drop=1)
    return folder / "deep"


def load(folder: Path, **how: Any) -> Any:
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **how)
    assert not any(found.values())
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits.float().cpu()


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
        for asked, said in ANSWERS.items():
            ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": asked}], add_generation_prompt=True, return_tensors="pt"
            )
            made = model.generate(**ids, do_sample=False, max_new_tokens=60)[0, ids["input_ids"].shape[1] :]
            assert made[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(made, skip_special_tokens=True) == said


LLAMA_CPP = os.environ.get("DUSK_LLAMA_CPP", "")
VOCABULARY_CODE = """
import sys, sentencepiece
sentencepiece.SentencePieceTrainer.train(
    input=sys.argv[1], model_prefix=sys.argv[2], vocab_size=300, model_type="bpe", byte_fallback=True,
    bos_id=0, eos_id=1, unk_id=2, hard_vocab_limit=False, minloglevel=2)
"""
GENERATION_CODE = """
import itertools, json, sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=128, n_threads=1, verbose=False)
made = model.generate(json.loads(sys.argv[2]), temp=0.0, top_k=1, repeat_penalty=1.0)
print(json.dumps(list(itertools.islice(made, 16))))
"""


def in_llama_cpp(*words: str | Path) -> str:
    """What Python prints in the environment that has llama.cpp."""
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [f"{LLAMA_CPP}/bin/python", *map(str, words)]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(not LLAMA_CPP, reason="DUSK_LLAMA_CPP names no environment: docs/use.md")
def test_llama_cpp_says_what_transformers_says(scaled: Path, tmp_path: Path):
    """By its own converter, which knows no BPE but published ones: the folder gets a sentencepiece one."""
    folder, gguf = Path(shutil.copytree(scaled, tmp_path / "model")), tmp_path / "model.gguf"
    (folder / "tokenizer.json").unlink()
    (tmp_path / "text.txt").write_text("\n".join(text(20, seed) for seed in range(400)))
    in_llama_cpp("-c", VOCABULARY_CODE, tmp_path / "text.txt", folder / "tokenizer")
    in_llama_cpp(f"{LLAMA_CPP}/convert_hf_to_gguf.py", folder, "--outfile", gguf, "--outtype", "f32")
    prompt = IDS[0, :8].tolist()
    said = json.loads(in_llama_cpp("-c", GENERATION_CODE, gguf, json.dumps(prompt)).splitlines()[-1])
    model = load(scaled, dtype="float32")
    model.generation_config.eos_token_id = None
    made = model.generate(IDS[:, :8], do_sample=False, max_new_tokens=16)
    assert said == made[0, 8:].tolist()
