"""What evaluation says about wrong input, and which results may stand in one file."""

import json
from importlib.util import find_spec

import pytest
import yaml

import benchmark_rows
from dusk.errors import CheckpointError, DataError, InputError, SettingError
from dusk.evaluate import evaluate, load_suite, suite_names
from dusk.evaluate.model import load_model
from dusk.evaluate.suites import unknown_task
from evaluation_cases import write_data, write_models, write_suite


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


def test_other_settings_are_measured_anew(folders, suite, data, tmp_path):
    out = tmp_path / "results.json"
    limited = evaluate(folders[0], suite=suite, data=data, out=out, limit=2)
    assert limited.scores("model0")["heldout"]["bits_per_byte"].n == 2
    assert limited.scores("model0")["arithmetic"]["exact_match"].n == 4
    evaluate(folders[1], suite=suite, data=data, out=out, limit=2)
    assert [model["name"] for model in json.loads(out.read_text())["models"]] == ["model0", "model1"]
    with pytest.raises(SettingError, match="cannot stand beside") as caught:
        evaluate(folders[0], suite=suite, data=data, out=out)
    assert caught.value.problems == ["limit: 2 there, null now"]
    out.write_text("{}")
    with pytest.raises(DataError, match="no results"):
        evaluate(folders[0], suite=suite, data=data, out=out)


def test_a_wrong_suite_or_setting_is_told(folders, suite, data, tmp_path):
    with pytest.raises(SettingError, match="no such file"):
        evaluate(folders, suite="no/such.yaml", data=data)
    with pytest.raises(SettingError, match="limit 0"):
        evaluate(folders, suite=suite, data=data, limit=0)
    with pytest.raises(SettingError, match="batch_size -1"):
        evaluate(folders, suite=suite, data=data, batch_size=-1)
    with pytest.raises(SettingError, match="device nonsense"):
        evaluate(folders, suite=suite, data=data, device="nonsense")
    for dtype in ("foo", "int8", "nn"):
        with pytest.raises(SettingError, match=f"dtype {dtype}: no type to compute in"):
            evaluate(folders, suite=suite, data=data, dtype=dtype)
    with pytest.raises(DataError) as caught:
        evaluate(folders, suite=suite, data=[tmp_path / "a", data, tmp_path / "b"])
    assert caught.value.problems == [f"{tmp_path / name} is not a folder" for name in "ab"]
    with pytest.raises(SettingError, match="no model"):
        evaluate([], suite=suite, data=data)
    with pytest.raises(SettingError, match="twice"):
        evaluate([folders[0], folders[0]], suite=suite, data=data)


def test_a_folder_that_is_no_model_is_told(folders, suite, data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no model"):
        evaluate(tmp_path / "empty", suite=suite, data=data)
    with pytest.raises(InputError, match="2 of 3 models") as caught:
        evaluate([tmp_path / "empty", folders[0], tmp_path / "absent"], suite=suite, data=data)
    assert len(caught.value.problems) == 2


def test_a_tokenizer_without_eos_is_told(tmp_path):
    folder = benchmark_rows.save_model(tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="names no EOS token"):
        load_model(folder, device="cpu", dtype="auto", batch_size=None)


def test_a_tokenizer_without_a_chat_template_is_told(folders, suite, data):
    with pytest.raises(CheckpointError, match="no chat template") as caught:
        evaluate(folders[0], suite=suite, data=data, limit=1, apply_chat_template=True)
    assert "asks base models without one" in caught.value.remedy


def test_missing_data_are_asked_for(folders, suite, data, tmp_path):
    with pytest.raises(DataError, match="--data"):
        evaluate(folders, suite=suite)
    (tmp_path / "heldout.jsonl").write_bytes((data / "heldout.jsonl").read_bytes())
    with pytest.raises(DataError, match=r"arithmetic\.jsonl is missing"):
        evaluate(folders, suite=suite, data=tmp_path)
    (tmp_path / "arithmetic.jsonl").write_text('{"question": "?", "level": 1}\n')
    with pytest.raises(DataError, match="has no answer"):
        evaluate(folders, suite=suite, data=tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "arithmetic.jsonl").write_bytes((data / "arithmetic.jsonl").read_bytes())
    (tmp_path / "arithmetic.jsonl").unlink()
    assert evaluate(folders[0], suite=suite, data=[tmp_path, other], limit=1).models


@pytest.mark.parametrize("name", suite_names())
def test_suites_of_ours_are_whole(name):
    suite = load_suite(name)
    assert suite.suite == name
    assert suite.columns
    assert suite.description


def test_every_fault_of_a_suite_file_is_told(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "suit": "x",
                "tasks": [{"task": "a", "num_fewshots": 3, "items": 0}, {"local": "choice"}, "b"],
            }
        )
    )
    with pytest.raises(SettingError) as caught:
        load_suite(path)
    told = str(caught.value)
    for part in (
        "Did you mean suite?",
        "Did you mean num_fewshot?",
        "`items` is 0",
        "go together",
        "no mapping",
    ):
        assert part in told
    assert len(caught.value.problems) == 7


def test_a_column_must_be_a_metric_of_its_task(folders, data, tmp_path):
    path = tmp_path / "wrong.yaml"
    entry = {
        "task": "heldout",
        "local": "documents",
        "data": "heldout.jsonl",
        "columns": {"X": "bit_per_byte"},
    }
    path.write_text(yaml.safe_dump({"suite": "wrong", "tasks": [entry]}))
    with pytest.raises(SettingError, match="columns do not fit") as caught:
        evaluate(folders[0], suite=path, data=data, limit=1)
    assert "Did you mean bits_per_byte" in str(caught.value)


def test_an_unknown_task_gets_the_nearest_names():
    error = unknown_task("hela_swag", ["hellaswag", "mmlu"])
    assert "Did you mean hellaswag?" in str(error)
    assert "demo, h4, h6, openllm" in str(error)


def test_a_task_that_does_not_fit_the_context_is_told(folders, suite, data, tmp_path):
    with pytest.raises(SettingError, match="context is 160 tokens"):
        evaluate(folders[0], suite=write_suite(tmp_path, max_gen_toks=160), data=data)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_is_asked_for_where_it_is_not_installed(folders, suite, data):
    with pytest.raises(InputError, match="vllm is not installed"):
        evaluate(folders[0], suite=suite, data=data, backend="vllm", limit=1)
    with pytest.raises(SettingError, match="one model at a time"):
        evaluate(folders, suite=suite, data=data, backend="vllm", jobs=2)
    with pytest.raises(SettingError, match="backend tgi"):
        evaluate(folders, suite=suite, data=data, backend="tgi")
