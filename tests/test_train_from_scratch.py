"""Pretraining from a config alone: the tokenizer that comes with it, resuming, configs that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from dusk import verify
from dusk.errors import CheckpointError, SettingError
from dusk.train.pretrain import pretrain
from train_models import SETTINGS, KillAfter, Killed, assert_same_weights, copied, save_base, text_file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


class TestFromScratch:
    CONFIG: dict[str, Any] = {  # noqa: RUF012
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "dtype": "bfloat16",
    }

    def test_a_tokenizer_is_trained_and_the_run_resumes(self, data: Path, tmp_path: Path):
        config = tmp_path / "config.json"
        config.write_text(json.dumps(self.CONFIG))
        whole, out = tmp_path / "whole", tmp_path / "out"
        pretrain(None, whole, data=data, from_scratch=config, **SETTINGS)
        with pytest.raises(Killed):
            pretrain(
                None,
                out,
                data=data,
                from_scratch=config,
                save_every_seconds=0,
                progress=KillAfter(3),
                **SETTINGS,
            )
        pretrain(None, out, data=data, from_scratch=config, **SETTINGS)
        assert_same_weights(whole, out)
        assert verify(out, forward=True).ok
        saved, tokenizer = json.loads((out / "config.json").read_text()), AutoTokenizer.from_pretrained(out)
        assert (saved["dtype"], saved["bos_token_id"], saved["eos_token_id"]) == ("bfloat16", 0, 1)
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
        assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == 1
        manifest = json.loads((out / "dusk.json").read_text())
        assert manifest["layer_map"] is None
        assert "lineage" not in manifest

    def test_the_tokenizer_beside_the_config_is_taken(self, base: Path, data: Path, tmp_path: Path):
        folder = copied(base, tmp_path / "model")
        pretrain(
            None, tmp_path / "out", data=data, from_scratch=folder / "config.json", tokens=200, **SETTINGS
        )
        assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()

    @pytest.mark.parametrize(
        "text",
        [
            "no json",
            "[1]",
            "{}",
            '{"model_type": "nonesuch"}',
            '{"model_type": "llama", "hidden_size": "wide"}',
        ],
    )
    def test_configs_that_are_none(self, text: str, data: Path, tmp_path: Path):
        config = tmp_path / "config.json"
        config.write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            pretrain(None, tmp_path / "out", data=data, from_scratch=config)
        assert not (tmp_path / "out").exists()

    def test_neither_or_both_starts(self, base: Path, data: Path, tmp_path: Path):
        for model, config in ((None, None), (base, base / "config.json")):
            with pytest.raises(SettingError, match="either a model"):
                pretrain(model, tmp_path / "out", data=data, from_scratch=config)
        with pytest.raises(SettingError, match="no file"):
            pretrain(None, tmp_path / "out", data=data, from_scratch=tmp_path / "none.json")
