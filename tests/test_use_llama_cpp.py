"""Scaled and tuned folders in llama.cpp: by its own converter, from an environment of its own.

Skipped unless DUSK_LLAMA_CPP names that environment; docs/use.md says how it is made.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dusk
from train_models import save_base, text
from use_models import ANSWERS, FAMILIES, tuned_model

ENVIRONMENT = os.environ.get("DUSK_LLAMA_CPP", "")
pytestmark = pytest.mark.skipif(not ENVIRONMENT, reason="DUSK_LLAMA_CPP names no environment: docs/use.md")

VOCABULARY = 400
TOKENIZER_CODE = """
import json, sys
from pathlib import Path
import sentencepiece
from transformers import AutoTokenizer
folder = Path(sys.argv[2])
sentencepiece.SentencePieceTrainer.train(
    input=sys.argv[1], model_prefix=str(folder / "tokenizer"), vocab_size=int(sys.argv[3]), model_type="bpe",
    byte_fallback=True, bos_id=0, eos_id=1, unk_id=2, hard_vocab_limit=False, minloglevel=2)
settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
(folder / "tokenizer_config.json").write_text(json.dumps(settings))
(folder / "config.json").write_text('{"model_type": "llama"}')
AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
(folder / "config.json").unlink()
"""
GENERATION_CODE = """
import itertools, json, sys
from llama_cpp import Llama
# all in float32, as transformers does it: type 0 is that of the cache, and flash attention rounds to float16
model = Llama(sys.argv[1], n_ctx=256, n_threads=1, verbose=False, type_k=0, type_v=0, flash_attn=False)
answers = []
for asked in json.loads(sys.argv[2]):
    ids = model.tokenize(asked.encode(), add_bos=False, special=True) if isinstance(asked, str) else asked
    made = model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
    answers.append({"ids": list(ids), "made": list(itertools.islice(made, int(sys.argv[3])))})
print(json.dumps({"answers": answers, "end": model.token_eos(), "metadata": model.metadata}))
"""


def in_llama_cpp(*words: str | Path) -> str:
    """What Python prints in the environment that has llama.cpp."""
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [f"{ENVIRONMENT}/bin/python", *map(str, words)]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def generated(folder: Path, asked: list[Any], tokens: int) -> dict[str, Any]:
    """What llama.cpp makes of the folder: the greedy tokens behind each prompt, ids or text."""
    gguf = folder.with_suffix(".gguf")
    in_llama_cpp(f"{ENVIRONMENT}/convert_hf_to_gguf.py", folder, "--outfile", gguf, "--outtype", "f32")
    said = in_llama_cpp("-c", GENERATION_CODE, gguf, json.dumps(asked), str(tokens))
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece vocabulary, as Mistral's is: of other kinds the converter knows published ones alone."""
    folder = tmp_path_factory.mktemp("tokenizer")
    lines = [f"### User:\n{text(20, seed)}\n### Assistant: {text(20, -seed)}" for seed in range(400)]
    (folder / "text.txt").write_text("\n".join(lines))
    in_llama_cpp("-c", TOKENIZER_CODE, folder / "text.txt", folder, str(VOCABULARY))
    (folder / "text.txt").unlink()
    return folder


def scaled(folder: Path, tokenizer: Path, **config: Any) -> Path:
    """Six layers of four, with that tokenizer."""
    base = save_base(folder / "base", num_hidden_layers=4, vocab_size=VOCABULARY, **config)
    for file in tokenizer.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    dusk.scale(base, folder / "deep", drop=1)
    return folder / "deep"


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_says_what_transformers_says(family: str, tokenizer: Path, tmp_path: Path):
    """All within the window of Mistral, which llama.cpp does not have."""
    folder = scaled(tmp_path, tokenizer, **FAMILIES[family])
    prompts = [list(range(3 + start, 11 + start)) for start in (0, 40, 80)]
    answers = generated(folder, prompts, 16)["answers"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    made = model.generate(torch.tensor(prompts), do_sample=False, max_new_tokens=16)[:, 8:]
    assert [answer["made"] for answer in answers] == made.tolist()


def test_a_tuned_model_answers_and_stops(tokenizer: Path, tmp_path: Path):
    """Its template, its tokens and its end of text all come from the GGUF file."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 192}
    folder = tuned_model(tmp_path, base=scaled(tmp_path, tokenizer, **sizes))
    assert (folder / "tokenizer.model").read_bytes() == (tokenizer / "tokenizer.model").read_bytes()
    ours = AutoTokenizer.from_pretrained(folder)
    prompts = [
        ours.apply_chat_template(
            [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
        )
        for asked in ANSWERS
    ]
    found = generated(folder, prompts, 60)
    assert found["metadata"]["tokenizer.chat_template"] == ours.chat_template
    assert found["end"] == ours.eos_token_id
    for prompt, said, answer in zip(prompts, ANSWERS.values(), found["answers"], strict=True):
        assert answer["ids"] == ours.encode(prompt, add_special_tokens=False)
        assert ours.decode(answer["made"][: answer["made"].index(found["end"])]) == said
