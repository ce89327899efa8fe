"""The shipped base model: what it is, that it is whole, and that its record says how it was made."""

import json
from pathlib import Path

import pytest

import dusk
from dusk.checkpoint import open_checkpoint, read_manifest, verify

BASE = Path(dusk.__file__).parent / "base"
MODELS = ("constant", "decayed")


@pytest.mark.parametrize("name", MODELS)
def test_shape(name: str) -> None:
    checkpoint = open_checkpoint(BASE / name)
    config = checkpoint.config
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == ("mistral", 8, 64)
    # 2048 x 64 embeddings, tied; in each layer q, o 64 x 64, k, v 64 x 32, three 64 x 144, two norms; one norm
    per_layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 144 + 2 * 64
    assert checkpoint.parameters == 2048 * 64 + 8 * per_layer + 64
    assert {entry.dtype for entry in checkpoint.tensors.values()} == {"BF16"}
    assert sum(file.stat().st_size for file in (BASE / name).iterdir()) < 2_000_000


@pytest.mark.parametrize("name", MODELS)
def test_whole_and_cached_as_uncached(name: str) -> None:
    report = verify(BASE / name, forward=True)
    assert report.ok, report.problems


@pytest.mark.parametrize("name", MODELS)
def test_record(name: str) -> None:
    manifest = read_manifest(BASE / name)
    assert manifest is not None
    assert manifest.command == "pretrain"
    assert manifest.settings["optimizer"] == "muon"
    assert not any(source.path.startswith("/") for source in manifest.inputs)
    card = (BASE / name / "README.md").read_text()
    assert ('base_model:\n- "constant"\nbase_model_relation' in card) == (name == "decayed")
    assert "base.jsonl" not in card.partition("# ")[0]


def test_over_trained() -> None:
    """50 to 200 tokens a parameter, so that what it lacks is depth and not data."""
    constant, decayed = read_manifest(BASE / "constant"), read_manifest(BASE / "decayed")
    assert constant is not None
    assert decayed is not None
    tokens = constant.results["tokens"] + decayed.results["tokens"]
    ratio = tokens / open_checkpoint(BASE / "constant").parameters
    assert 50 <= ratio <= 200, ratio
    assert decayed.results["heldout"]["bits_per_byte"] < constant.results["heldout"]["bits_per_byte"]


def test_one_tokenizer() -> None:
    files = [(BASE / name / "tokenizer.json").read_bytes() for name in MODELS]
    assert files[0] == files[1]
    assert len(json.loads(files[0])["model"]["vocab"]) == 2048
