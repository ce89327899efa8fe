"""Instruction tuning through the front door."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from dusk import verify
from dusk.data.encode import encode_chat
from dusk.data.stores import chat_store
from dusk.data.templates import ALPACA, CHATML, SOLAR
from dusk.errors import CheckpointError, DataError, SettingError
from dusk.train.model import load_model
from dusk.train.sft import sft
from dusk.train.vocabulary import load_tokenizer, template_for
from train_models import (
    KillAfter,
    Killed,
    assert_same_weights,
    chat_file,
    copied,
    metrics,
    save_base,
    text_file,
    write_rows,
)

SETTINGS: dict[str, Any] = {"batch_tokens": 256, "learning_rate": 1e-3, "threads": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_file(tmp_path_factory.mktemp("data"))


def test_a_tuned_model_has_the_template_and_what_it_was_made_with(base: Path, data: Path, tmp_path: Path):
    out = tmp_path / "out"
    report = sft(base, out, data=data, eval_data=data, **SETTINGS)
    assert verify(out, forward=True).ok
    tokenizer = AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": "the model"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<s>" + SOLAR.prompt(messages)
    manifest = json.loads((out / "dusk.json").read_text())
    assert manifest["settings"]["template"] == "solar"
    assert manifest["settings"]["learning_rate"] == 1e-3
    assert manifest["results"]["data"] == {
        "rows": 30,
        "documents": 30,
        "tokens": report.tokens,
        "left_out": {},
    }
    first, last = (row for row in metrics(out) if row["kind"] == "eval")
    assert last["loss"] < first["loss"]


def test_licences_of_data_go_from_run_to_run(base: Path, tmp_path: Path):
    for name, stated in (("first", "license: cc-by-nc-4.0\n"), ("second", "license: mit\n"), ("third", "")):
        (tmp_path / name).mkdir()
        chat_file(tmp_path / name)
        (tmp_path / name / "README.md").write_text(f"---\n{stated}---\n# rows\n")
    files = {name: next((tmp_path / name).glob("*.jsonl")) for name in ("first", "second", "third")}
    sft(base, tmp_path / "once", data=files["first"], **SETTINGS)
    sft(tmp_path / "once", tmp_path / "twice", data=[files["second"], files["third"]], **SETTINGS)
    results = json.loads((tmp_path / "twice" / "dusk.json").read_text())["results"]
    assert results["data_licenses"] == ["cc-by-nc-4.0", "mit", "unknown"]
    assert (
        '| data_licenses | ["cc-by-nc-4.0", "mit", "unknown"] |'
        in (tmp_path / "twice" / "README.md").read_text()
    )


def test_the_held_out_loss_is_of_the_answers_and_their_bytes(base: Path, data: Path, tmp_path: Path):
    sft(base, tmp_path / "out", data=data, eval_data=data, epochs=1, **SETTINGS)
    model, tokenizer = load_model(base), load_tokenizer(base, load_model(base))
    store, _ = chat_store([data], tokenizer, SOLAR, sequence_length=128)
    nats = 0.0
    for begin, end in zip(store.offsets[:-1], store.offsets[1:], strict=True):
        ids = torch.from_numpy(store.tokens[begin:end]).long()[None]
        with torch.no_grad():
            logs = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        nats -= float(logs[torch.from_numpy(store.trained[begin + 1 : end])].sum())
    answers = [json.loads(line)["completion"] for line in data.read_text().splitlines()]
    first = metrics(tmp_path / "out")[0]
    assert first["loss"] == pytest.approx(nats / store.trained.sum(), rel=1e-5)
    assert first["bits_per_byte"] == pytest.approx(
        nats / 0.6931471805599453 / sum(map(len, answers)), rel=1e-5
    )


def test_a_killed_run_continues_bit_equal(base: Path, data: Path, tmp_path: Path):
    given = {"data": data, "epochs": 2, **SETTINGS}
    sft(base, tmp_path / "whole", **given)
    with pytest.raises(Killed):
        sft(base, tmp_path / "out", **given, save_every_seconds=0, progress=KillAfter(3))
    sft(base, tmp_path / "out", **given)
    assert_same_weights(tmp_path / "whole", tmp_path / "out")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "out")


def test_the_template_of_before_is_kept_unless_another_is_named(data: Path, tmp_path: Path):
    base = save_base(tmp_path / "base", max_position_embeddings=512, vocab_size=302)  # two for ChatML
    sft(base, tmp_path / "one", data=data, template="alpaca", **SETTINGS)
    sft(tmp_path / "one", tmp_path / "two", data=data, **SETTINGS)
    assert json.loads((tmp_path / "two" / "dusk.json").read_text())["settings"]["template"] == "alpaca"
    assert (tmp_path / "two" / "chat_template.jinja").read_text() == "{{ bos_token }}" + ALPACA.jinja
    sft(tmp_path / "two", tmp_path / "three", data=data, template="chatml", **SETTINGS)
    assert template_for(tmp_path / "three") is CHATML
    assert (tmp_path / "three" / "chat_template.jinja").read_text() == "{{ bos_token }}" + CHATML.jinja
    assert template_for(base) is SOLAR


class TestStopping:
    """Generation must stop at the token that tuning puts behind answers."""

    def tuned(self, model: Path, data: Path, out: Path) -> GenerationConfig:
        sft(model, out, data=data, tokens=200, **SETTINGS)
        return AutoModelForCausalLM.from_pretrained(out).generation_config

    def test_settings_that_stop_there_are_carried_over_byte_for_byte(
        self, base: Path, data: Path, tmp_path: Path
    ):
        model = copied(base, tmp_path / "model")
        text = '{"eos_token_id": [5, 1],   "top_p": 0.5, "pad_token_id": 1}'
        (model / "generation_config.json").write_text(text)
        self.tuned(model, data, tmp_path / "out")
        assert (tmp_path / "out" / "generation_config.json").read_text() == text

    def test_settings_that_stop_elsewhere_get_the_token_too(self, base: Path, data: Path, tmp_path: Path):
        model = copied(base, tmp_path / "model")
        (model / "generation_config.json").write_text('{"eos_token_id": 5, "top_k": 7}')
        found = self.tuned(model, data, tmp_path / "out")
        assert (found.eos_token_id, found.top_k) == ([5, 1], 7)

    def test_without_settings_the_config_speaks(self, data: Path, tmp_path: Path):
        for name, eos, pad in (("same", 1, 3), ("other", 7, None)):
            model = save_base(tmp_path / name, eos_token_id=eos, pad_token_id=pad)
            (model / "generation_config.json").unlink()
            found = self.tuned(model, data, tmp_path / f"{name}-out")
            assert (tmp_path / f"{name}-out" / "generation_config.json").exists() is (pad is None)
            assert found.eos_token_id == (1 if eos == 1 else [7, 1])
            assert found.pad_token_id == (3 if pad else 2)

    def test_a_tokenizer_without_padding_pads_with_the_end_of_text(self, data: Path, tmp_path: Path):
        model = save_base(tmp_path / "model")
        settings = json.loads((model / "tokenizer_config.json").read_text())
        del settings["pad_token"]
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
        assert self.tuned(model, data, tmp_path / "out").pad_token_id == 1

    def test_a_server_gets_the_ids_of_training(self, base: Path, data: Path, tmp_path: Path):
        """BOS in front where the tokenizer puts it, and none where it does not."""
        bare = copied(base, tmp_path / "bare")
        settings = json.loads((bare / "tokenizer.json").read_text()) | {"post_processor": None}
        (bare / "tokenizer.json").write_text(json.dumps(settings))
        messages = [{"role": "user", "content": "the model"}]
        for model, front in ((base, [0]), (bare, [])):
            out = tmp_path / f"{model.name}-out"
            self.tuned(model, data, out)
            asked = [*messages, {"role": "assistant", "content": "learns"}]
            trained = encode_chat(asked, load_tokenizer(out, load_model(out)), SOLAR)
            ids = AutoTokenizer.from_pretrained(out).apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
            assert ids == trained.ids[: trained.trained.index(True)]
            assert ids[: len(front)] == front
            assert ids.count(0) == len(front)

    def test_the_tokenizer_is_left_byte_for_byte(self, base: Path, data: Path, tmp_path: Path):
        self.tuned(base, data, tmp_path / "out")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()


class TestErrors:
    def test_rows_of_another_kind(self, base: Path, tmp_path: Path):
        with pytest.raises(DataError, match=r"text\.jsonl:1") as caught:
            sft(base, tmp_path / "out", data=text_file(tmp_path))
        assert '"prompt", "completion"' in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_what_is_too_long_is_left_out_whole_and_counted(self, base: Path, tmp_path: Path):
        rows = [
            {"prompt": "the", "completion": "model"},
            {"prompt": "layer " * 200, "completion": "model"},
            {"prompt": "the", "completion": "token " * 200},
        ]
        sft(base, tmp_path / "out", data=write_rows(tmp_path / "rows.jsonl", rows), **SETTINGS)
        data = json.loads((tmp_path / "out" / "dusk.json").read_text())["results"]["data"]
        assert (data["rows"], data["documents"]) == (3, 1)
        assert data["left_out"] == {"prompt longer than the context": 1, "answer does not fit the context": 1}
        with pytest.raises(DataError, match="no row is left"):
            sft(base, tmp_path / "none", data=write_rows(tmp_path / "long.jsonl", rows[1:]), **SETTINGS)

    def test_unknown_templates(self, base: Path, data: Path, tmp_path: Path):
        with pytest.raises(SettingError, match="Did you mean solar"):
            sft(base, tmp_path / "out", data=data, template="solr")

    def test_soft_capped_attention_is_refused_before_training(self, data: Path, tmp_path: Path):
        model = save_base(tmp_path / "model", model_type="gemma2", head_dim=8, sliding_window=64)
        with pytest.raises(CheckpointError, match="soft cap"):
            sft(model, tmp_path / "out", data=data)
        assert not (tmp_path / "out.partial" / "metrics.jsonl").exists()
