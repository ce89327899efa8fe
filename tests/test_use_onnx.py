"""Scaled folders exported to ONNX by optimum, from an environment of its own: it holds to transformers 4.

Skipped unless DUSK_ONNX names that environment; docs/use.md says how it is made.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from use_models import FAMILIES, scaled_model

ENVIRONMENT = os.environ.get("DUSK_ONNX", "")
pytestmark = pytest.mark.skipif(not ENVIRONMENT, reason="DUSK_ONNX names no environment: docs/use.md")

GENERATION_CODE = """
import json, sys, torch
from optimum.onnxruntime import ORTModelForCausalLM
model = ORTModelForCausalLM.from_pretrained(sys.argv[1], export=True)
model.generation_config.eos_token_id = None
made = model.generate(torch.tensor(json.loads(sys.argv[2])), do_sample=False, max_new_tokens=16)
print(json.dumps(made.tolist()))
"""
PROMPTS = [list(range(3 + start, 11 + start)) for start in (0, 40, 80)]


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_says_what_transformers_says(family: str, tmp_path: Path):
    """With the cache of keys and values, all within the window of Mistral."""
    folder = scaled_model(tmp_path, **FAMILIES[family])
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [f"{ENVIRONMENT}/bin/python", "-c", GENERATION_CODE, str(folder), json.dumps(PROMPTS)]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    made = model.generate(torch.tensor(PROMPTS), do_sample=False, max_new_tokens=16)
    assert json.loads(done.stdout.splitlines()[-1]) == made.tolist()
