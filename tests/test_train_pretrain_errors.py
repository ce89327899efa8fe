"""What pretraining refuses, and what stops it: rows, tokenizers, models, settings, a loss that diverges."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dusk.errors import CheckpointError, DataError, InputError, SettingError, WorkError
from dusk.train.objectives import NextToken
from dusk.train.pretrain import pretrain
from train_models import SETTINGS, copied, metrics, save_base, text_file, write_rows


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


class TestErrors:
    def refused(self, kind: type[InputError], match: str, base: Path, out: Path, **given: Any) -> None:
        with pytest.raises(kind, match=match):
            pretrain(base, out, **{**SETTINGS, **given})
        assert not out.exists()

    def test_malformed_rows_name_file_and_line(self, base: Path, tmp_path: Path):
        bad = tmp_path / "bad.jsonl"
        bad.write_text('{"text": "fine"}\n{"texts": "no"}\n{"text": 3}\nnothing\n')
        with pytest.raises(DataError) as caught:
            pretrain(base, tmp_path / "out", data=bad)
        assert all(f"bad.jsonl:{line}" in str(caught.value) for line in (2, 3, 4))

    def test_missing_files_are_all_named(self, base: Path, data: Path, tmp_path: Path):
        with pytest.raises(DataError) as caught:
            pretrain(base, tmp_path / "out", data=[data, tmp_path / "a.jsonl", tmp_path], eval_data=[])
        assert [
            str(tmp_path / "a.jsonl") in caught.value.problems[0],
            "folder" in caught.value.problems[1],
        ] == [True] * 2

    def test_out_that_exists(self, base: Path, data: Path, tmp_path: Path):
        (tmp_path / "out").mkdir()
        with pytest.raises(SettingError, match="exists already"):
            pretrain(base, tmp_path / "out", data=data)

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"sequence_length": 4096}, "context is 128"),
            ({"learning_rate": 0}, "learning_rate is 0"),
            ({"learning_rat": 1}, "Did you mean learning_rate"),
        ],
    )
    def test_settings_out_of_range(
        self, base: Path, data: Path, tmp_path: Path, given: dict[str, Any], match: str
    ):
        self.refused(SettingError, match, base, tmp_path / "out", data=data, **given)

    def test_a_tokenizer_of_another_model(self, base: Path, data: Path, tmp_path: Path):
        small = save_base(tmp_path / "small", vocab_size=200)
        self.refused(CheckpointError, "ids up to", small, tmp_path / "out", data=data)

    @pytest.mark.parametrize(
        ("name", "text", "match"),
        [
            ("tokenizer.json", None, "has no tokenizer.json"),
            ("tokenizer.json", "{}", "is no tokenizer"),
            ("tokenizer_config.json", '{"eos_token": "<nonesuch>"}', "<nonesuch>"),
            ("tokenizer_config.json", "torn", "is no JSON"),
        ],
    )
    def test_tokenizers_that_cannot_be_used(
        self, base: Path, data: Path, tmp_path: Path, name: str, text: str | None, match: str
    ):
        model = copied(base, tmp_path / "model")
        (model / name).unlink()
        if text is not None:
            (model / name).write_text(text)
        self.refused(CheckpointError, match, model, tmp_path / "out", data=data)

    def test_no_end_of_text_anywhere(self, data: Path, tmp_path: Path):
        model = save_base(tmp_path / "model", eos_token_id=None)
        (model / "tokenizer_config.json").write_text("{}")
        self.refused(CheckpointError, "no end-of-text token", model, tmp_path / "out", data=data)

    def test_weights_that_do_not_fit(self, base: Path, data: Path, tmp_path: Path):
        model = copied(base, tmp_path / "model")
        config = json.loads((model / "config.json").read_text()) | {"num_hidden_layers": 3}
        config.pop("layer_types", None)
        (model / "config.json").write_text(json.dumps(config))
        self.refused(CheckpointError, "layers", model, tmp_path / "out", data=data)

    def test_a_model_that_scales_its_logits_is_refused_before_training(self, data: Path, tmp_path: Path):
        model = save_base(tmp_path / "model", model_type="granite", logits_scaling=4.0)
        self.refused(CheckpointError, "scales, caps or shifts", model, tmp_path / "out", data=data)

    def test_a_loss_that_is_no_number_stops_the_run(
        self, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        original = NextToken.__call__
        calls = iter(range(100))

        def diverging(self: NextToken, model: Any, batch: Any) -> Any:
            total, sums = original(self, model, batch)
            return (total * float("nan") if next(calls) == 3 else total), sums

        monkeypatch.setattr(NextToken, "__call__", diverging)
        with pytest.raises(WorkError, match="diverged at step 4"):
            pretrain(base, tmp_path / "out", data=data, save_every_seconds=0, **SETTINGS)
        assert not (tmp_path / "out").exists()
        assert [row["step"] for row in metrics(tmp_path / "out.partial")] == [1, 2, 3]

    def test_documents_of_one_token_alone_train_nothing_and_break_nothing(self, base: Path, tmp_path: Path):
        model = copied(base, tmp_path / "model")
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        tokenizer["post_processor"] = None  # no BOS
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        data = write_rows(tmp_path / "short.jsonl", [{"text": "a"}] * 5)
        report = pretrain(model, tmp_path / "out", data=data, **SETTINGS)
        assert np.isfinite(report.final_loss)
