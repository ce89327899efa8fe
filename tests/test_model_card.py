"""The card's front matter as huggingface_hub reads it: base, licence, data sets, scores."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from dusk.checkpoint import Manifest, Source, card_text, write_manifest
from dusk.errors import CheckpointError, DataError
from dusk.merge import merge
from dusk.scale import scale


def _results(path: Path, folder: Path) -> Path:
    score = {"value": 0.6459, "stderr": 0.014, "n": 1172, "higher_is_better": True}
    bits = {"value": 1.7381, "stderr": None, "n": 200, "higher_is_better": False}
    told = {
        "suite": "h6",
        "versions": {"lm_eval": "0.4.13"},
        "columns": [
            {"label": "ARC", "entry": "arc_challenge_v1", "metric": "acc_norm", "higher_is_better": True},
            {"label": "Held-out", "entry": "heldout", "metric": "bits_per_byte", "higher_is_better": False},
            {"label": "GSM8K", "entry": "gsm8k_v1", "metric": "acc", "higher_is_better": True},
        ],
        "tasks": [
            {"task": "arc_challenge_v1", "num_fewshot": 25},
            {"task": "heldout", "num_fewshot": None},
            {"task": "gsm8k_v1", "num_fewshot": 5},
        ],
        "models": [
            {"name": "other", "path": "/elsewhere", "scores": {}},
            {
                "name": "mine",
                "path": str(folder),
                "scores": {"arc_challenge_v1": {"acc_norm": score}, "heldout": {"bits_per_byte": bits}},
            },
        ],
    }
    path.write_text(json.dumps(told))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tuned model: of a licensed base, on rows that dusk made of a set of the hub, and on a set as it is."""
    base, rows, model = (tmp_path / name for name in ("base", "rows", "model"))
    for each in (base, rows, model):
        each.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    cached = "/cache/hub/datasets--Open-Orca--OpenOrca/snapshots/abc/1M-GPT4.parquet"
    write_manifest(rows, Manifest("data convert", (Source(cached, "1M-GPT4.parquet", "sha256:1"),)))
    plain = "/cache/hub/datasets--openai--gsm8k/snapshots/abc/main/train.parquet"
    inputs = (
        Source(str(base), "mistralai/Mistral-7B-v0.1@main", "sha256:2"),
        Source(str(rows / "train.jsonl"), "train.jsonl", "sha256:3"),
        Source(plain, "train.parquet", "sha256:4"),
        Source("/home/me/own.jsonl", "own.jsonl", "sha256:5"),
    )
    write_manifest(model, Manifest("sft", inputs))
    return model


def test_the_card_is_what_the_hub_reads(folder: Path, tmp_path: Path) -> None:
    card = ModelCard(card_text(folder, scores=_results(tmp_path / "r.json", folder)))  # refuses a wrong index
    data = card.data
    assert data.base_model == ["mistralai/Mistral-7B-v0.1"]
    assert data.license == "apache-2.0"
    assert data.datasets == ["Open-Orca/OpenOrca", "openai/gsm8k"]
    assert data.model_name == "model"
    arc, heldout = data.eval_results  # GSM8K was not measured
    assert (arc.dataset_type, arc.dataset_config, arc.dataset_split) == (
        "allenai/ai2_arc",
        "ARC-Challenge",
        "test",
    )
    assert (arc.task_type, arc.metric_type, arc.metric_value) == ("text-generation", "acc_norm", 64.59)
    assert arc.metric_name == "ARC, suite h6, lm-evaluation-harness 0.4.13"
    assert arc.metric_args == {"items": 1172, "suite": "h6", "num_fewshot": 25, "stderr": 1.4}
    assert (heldout.dataset_type, heldout.metric_value) == ("heldout", 1.7381)
    again = ModelCard(str(card))
    assert again.data.to_dict() == data.to_dict()
    assert "# model" in card.text


def test_without_scores_there_is_no_index(folder: Path) -> None:
    data = ModelCard(card_text(folder)).data
    assert data.eval_results is None
    assert data.datasets == ["Open-Orca/OpenOrca", "openai/gsm8k"]


def test_scores_of_other_models_are_refused(folder: Path, tmp_path: Path) -> None:
    results = _results(tmp_path / "r.json", tmp_path / "moved")
    with pytest.raises(DataError, match=r"has no scores of .*model; it has those of other, mine"):
        card_text(folder, scores=results)
    results.write_text("{}")
    with pytest.raises(DataError, match="holds no results of `dusk eval`"):
        card_text(folder, scores=results)
    with pytest.raises(CheckpointError, match=r"no dusk\.json"):
        card_text(tmp_path / "base", scores=results)


def test_a_shipped_model_is_named_in_the_text_and_is_no_base_that_the_hub_has(tmp_path: Path) -> None:
    scale("dusk:constant", tmp_path / "deeper", drop=2)
    card = ModelCard((tmp_path / "deeper" / "README.md").read_text())
    assert card.data.base_model is None
    assert "base_model" not in card.content
    assert "- `dusk:constant`, `sha256:" in card.text
    merge(["dusk:constant", "dusk:decayed"], tmp_path / "merged")
    card = ModelCard((tmp_path / "merged" / "README.md").read_text())
    assert "base_model" not in card.content
    assert "- `dusk:decayed`, `sha256:" in card.text
    scale(tmp_path / "merged", tmp_path / "grown", drop=2)
    assert ModelCard((tmp_path / "grown" / "README.md").read_text()).data.base_model == ["merged"]
