"""Tuning and aligning in a model's own chat template, and in one whose tokens the tokenizer has not."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dusk
from dusk.data.encode import encode_chat
from dusk.data.jinja_template import JinjaTemplate
from dusk.data.templates import ALPACA, CHATML, SOLAR
from dusk.errors import CheckpointError, SettingError
from dusk.train.model import load_model
from dusk.train.vocabulary import load_tokenizer, template_for
from test_data_jinja_template import MISTRAL
from train_models import VOCABULARY, chat_file, pair_file, save_base, weights

SETTINGS = {"batch_tokens": 128, "threads": 1, "learning_rate": 1e-3, "warmup": 0.0}
MESSAGES = [{"role": "user", "content": "the model"}]
ANSWER = {"role": "assistant", "content": "learns"}


def has_template(model: Path, jinja: str | list[dict[str, str]], *, in_config: bool = False) -> Path:
    if in_config:
        settings = json.loads((model / "tokenizer_config.json").read_text())
        (model / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": jinja}))
    else:
        (model / "chat_template.jinja").write_text(str(jinja))
    return model


def test_the_models_own_template_is_used_and_kept(tmp_path: Path) -> None:
    base = has_template(save_base(tmp_path / "base"), MISTRAL)
    dusk.sft(base, tmp_path / "tuned", data=chat_file(tmp_path), template="tokenizer", **SETTINGS)
    dusk.align(tmp_path / "tuned", tmp_path / "out", steps=[pair_file(tmp_path)], **SETTINGS)
    for folder in (tmp_path / "tuned", tmp_path / "out"):
        told = json.loads((folder / "dusk.json").read_text())
        assert told["settings"]["template"] == "tokenizer"
        assert (folder / "chat_template.jinja").read_text() == MISTRAL  # it writes BOS itself
        tokenizer = load_tokenizer(folder, load_model(folder))
        trained = encode_chat([*MESSAGES, ANSWER], tokenizer, template_for(folder))
        served = AutoTokenizer.from_pretrained(folder)
        assert trained.ids == served.apply_chat_template([*MESSAGES, ANSWER], return_dict=False)


def test_which_template_is_whose(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    assert template_for(base) is SOLAR
    with pytest.raises(CheckpointError, match="has no chat template"):
        template_for(base, "tokenizer")
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": ALPACA.jinja}]
    assert template_for(has_template(base, named, in_config=True), "tokenizer") is ALPACA
    found = template_for(has_template(base, MISTRAL))  # the file goes before the settings
    assert isinstance(found, JinjaTemplate)
    assert found.named == {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    assert template_for(base, "chatml") is CHATML


def used(model: Path) -> int:
    return len(AutoTokenizer.from_pretrained(model))


def test_tokens_that_a_template_needs_are_added_where_there_is_room(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", vocab_size=VOCABULARY + 8)
    before, rows = weights(base)["model.embed_tokens.weight"], used(base)
    dusk.sft(base, tmp_path / "out", data=chat_file(tmp_path), template="chatml", **SETTINGS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer.convert_tokens_to_ids(list(CHATML.tokens))
    assert ids == [rows, rows + 1]
    said = tokenizer.apply_chat_template([*MESSAGES, ANSWER], return_dict=False)
    assert [said.count(one) for one in ids] == [2, 2]
    answer = said[len(said) - 1 - said[::-1].index(ids[0]) :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "assistant\nlearns\n"
    after = weights(tmp_path / "out")["model.embed_tokens.weight"]
    assert torch.allclose(after[ids], before[:rows].mean(dim=0), atol=0.05)  # a few steps from the mean
    assert not torch.equal(after[ids[0]], after[ids[1]])  # each is trained
    dusk.align(tmp_path / "out", tmp_path / "next", steps=[pair_file(tmp_path)], **SETTINGS)
    assert used(tmp_path / "next") == rows + 2
    AutoModelForCausalLM.from_pretrained(tmp_path / "next")


def test_without_room_or_training_they_are_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    full = save_base(tmp_path / "full", vocab_size=used(base))
    data = chat_file(tmp_path)
    with pytest.raises(CheckpointError, match=r"needs the tokens <\|im_start\|> and") as caught:
        dusk.sft(full, tmp_path / "out", data=data, template="chatml", **SETTINGS)
    assert "--pad-vocabulary" in str(caught.value)
    roomy = save_base(tmp_path / "roomy", vocab_size=VOCABULARY + 8)
    with pytest.raises(SettingError, match="nothing would train"):
        dusk.sft(roomy, tmp_path / "out", data=data, template="chatml", lora_rank=2, **SETTINGS)
