"""Scaled folders in vLLM, from an environment of its own, on its GPU or its CPU build.

Skipped unless DUSK_VLLM names that environment; docs/use.md says how it is made.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import NotFoundError, OpenAI
from transformers import AutoModelForCausalLM

import dusk
from dusk import solar_pro
from serving import serving
from use_models import ANSWERS, FAMILIES, scaled_model, tuned_model
from vllm_environment import ENVIRONMENT, SETTINGS, in_vllm, needs_vllm

pytestmark = needs_vllm

SIZES = {  # heads of 32: vLLM's attention on a CPU has no smaller ones; of Qwen2 it takes the quotient alone
    "hidden_size": 128,
    "intermediate_size": 192,
    "head_dim": 32,
}
GENERATION_CODE = """
import json, sys
from vllm import LLM, SamplingParams
model = LLM(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=96, max_num_seqs=4,
            gpu_memory_utilization=0.2, trust_remote_code=bool(sys.argv[3:]))
chosen = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
made = model.generate([{"prompt_token_ids": ids} for ids in json.loads(sys.argv[2])], chosen)
kind = model.apply_model(lambda module: type(module).__module__) if sys.argv[3:] else []
print(json.dumps({"made": [list(answer.outputs[0].token_ids) for answer in made], "kind": kind}))
"""


PROMPTS = [list(range(3 + start, 11 + start)) for start in (0, 40, 80)]


def greedy(folder: Path) -> list[list[int]]:
    """What transformers makes of the prompts."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    made = model.generate(torch.tensor(PROMPTS), do_sample=False, max_new_tokens=16)
    tokens: list[list[int]] = made[:, len(PROMPTS[0]) :].tolist()
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_says_what_transformers_says(family: str, tmp_path: Path):
    folder = scaled_model(tmp_path, **FAMILIES[family] | SIZES)
    assert in_vllm(GENERATION_CODE, folder, json.dumps(PROMPTS))["made"] == greedy(folder)


def test_solar_pro_by_vllm_s_own_class(tmp_path: Path):
    """The config comes with the folder, which transformers has no class for; the model is vLLM's."""
    solar_pro.register()
    base = scaled_model(tmp_path, model_type="llama", **SIZES)
    how: dict[str, Any] = {"architecture": "solar-pro", "skips": "2-4,3-6", "with_remote_code": True}
    dusk.scale(base, tmp_path / "solar", layers="0-3,2-5", **how)
    found = in_vllm(GENERATION_CODE, tmp_path / "solar", json.dumps(PROMPTS), "trust")
    assert found["kind"] == ["vllm.model_executor.models.solar"]
    assert found["made"] == greedy(tmp_path / "solar")
    plain = scaled_model(tmp_path / "plain", model_type="llama", **SIZES)
    dusk.scale(plain, tmp_path / "none", layers="0-3,2-5", architecture="solar-pro", skips="none")
    assert greedy(tmp_path / "none") != found["made"]


def test_dusk_serve_starts_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command becomes vLLM's server; the name, the template and the end of an answer are the folder's."""
    tuned = str(tuned_model(tmp_path, head_dim=32))
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{ENVIRONMENT}/bin", prepend=os.pathsep)
    small = [
        "--enforce-eager",
        "--max-model-len",
        "96",
        "--max-num-seqs",
        "4",
        "--gpu-memory-utilization",
        "0.2",
    ]
    command = ["-m", "dusk", "serve", tuned, "--engine", "vllm"]
    with (
        serving(command, tmp_path / "log.txt", ["--", *small]) as address,
        OpenAI(base_url=address, api_key="none", max_retries=0) as client,
    ):
        assert [model.id for model in client.models.list()] == [tuned]
        for asked, said in ANSWERS.items():
            messages: Any = [{"role": "user", "content": asked}]
            request: Any = {"model": tuned, "messages": messages, "max_tokens": 60, "temperature": 0}
            answer = client.chat.completions.create(**request).choices[0]
            assert (answer.message.content, answer.finish_reason) == (said, "stop")
            parts = [part.choices[0] for part in client.chat.completions.create(**request, stream=True)]
            assert "".join(part.delta.content or "" for part in parts) == said
            assert parts[-1].finish_reason == "stop"
        with pytest.raises(NotFoundError):
            client.chat.completions.create(**request | {"model": "gpt-4"})
