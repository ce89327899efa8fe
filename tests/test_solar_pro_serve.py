"""A small Solar Pro answers an OpenAI client on this machine, as it does in the process itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM, AutoTokenizer

import dusk.solar_pro  # noqa: F401  registers `solar`
from dusk.data.templates import CHATML
from serving import serving
from train_models import save_base

ASKED = [{"role": "user", "content": "the model learns"}]


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skips = {"bskcn_1": [1], "bskcn_2": [2], "bskcn_3": [3], "bskcn_4": [4], "sliding_window": 16}
    folder = save_base(
        tmp_path_factory.mktemp("serve") / "solar", model_type="solar", num_hidden_layers=6, **skips
    )
    (folder / "chat_template.jinja").write_text(CHATML.jinja)
    return folder


@pytest.fixture(scope="module")
def server(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = ["-m", "dusk.solar_pro.serve", str(chat_model), "--device", "cpu", "--dtype", "float32"]
    with serving(command, tmp_path_factory.mktemp("log") / "server.txt") as address:
        yield address


def test_a_client_gets_what_the_model_says(server: str, chat_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    model = AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    made = model.generate(ids, max_new_tokens=8, do_sample=False)
    expected = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    assert expected
    client = OpenAI(base_url=server, api_key="none", max_retries=0)
    settings = {"model": str(chat_model), "messages": ASKED, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**settings)
    assert whole.choices[0].message.content == expected
    parts = client.chat.completions.create(**settings, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == expected
