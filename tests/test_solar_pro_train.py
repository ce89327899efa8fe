"""Skips are trained like everything else: through the commands, in one process and in two."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dusk
from solar_models import plain, solar_model, tokens_of
from solar_reference import logits_of
from solar_two_ranks import BOUNDARY, SKIPS, TRAINING, pipeline_loss
from train_models import chat_file, kept_environment, metrics, pair_file, save_base, text_file, weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 4 layers, scaled to 6 with skips across the seam; data."""
    made = tmp_path_factory.mktemp("solar")
    save_base(made / "base", model_type="llama", num_hidden_layers=4, initializer_range=0.1, vocab_size=302)
    dusk.scale(made / "base", made / "solar", skips=SKIPS)
    text_file(made, 30)
    chat_file(made, 12)
    pair_file(made, 12)
    return made


def loss_by_the_rule(model: Path, data: Path, *, training: bool) -> float:
    """The mean cross entropy of all documents, each alone, in nats a token."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    nats = tokens = 0.0
    for line in data.read_text().splitlines():
        ids = torch.tensor([*tokenizer(json.loads(line)["text"])["input_ids"], tokenizer.eos_token_id])
        logits = logits_of(ids, network.state_dict(), plain(network.config), training=training)
        nats += float(torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum"))
        tokens += len(ids) - 1
    return nats / tokens


def test_pretraining_sees_the_weight_of_training_and_held_out_text_that_of_inference(
    folder: Path, tmp_path: Path
) -> None:
    data = folder / "text.jsonl"
    settings: dict[str, Any] = {"learning_rate": 1e-3, "threads": 1}
    report = dusk.pretrain(
        folder / "solar", tmp_path / "out", data=data, eval_data=data, batch_tokens=20_000, **settings
    )
    rows = metrics(tmp_path / "out")
    train, held_out = ([row["loss"] for row in rows if row["kind"] == kind] for kind in ("train", "eval"))
    in_training, in_inference = (
        loss_by_the_rule(folder / "solar", data, training=training) for training in (True, False)
    )
    assert abs(in_training - in_inference) > 1e-3
    assert train[0] == pytest.approx(in_training, rel=1e-5)
    assert held_out[0] == pytest.approx(in_inference, rel=1e-5)
    assert report.final_loss == train[-1]
    assert held_out[-1] < held_out[0]
    assert dusk.verify(tmp_path / "out", forward=True).ok
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["bskcn_1"], config["bskcn_4"]) == ("solar", [1], [5])


def test_tuning_in_chatml_and_dpo_that_begins_at_ln_2(folder: Path, tmp_path: Path) -> None:
    """The reference is computed under the policy's own weight, so that all rewards begin at zero."""
    dusk.sft(folder / "solar", tmp_path / "tuned", data=folder / "chat.jsonl", template="chatml", **TRAINING)
    assert "<|im_start|>" in (tmp_path / "tuned/chat_template.jinja").read_text()
    dusk.align(tmp_path / "tuned", tmp_path / "out", steps=[folder / "pairs.jsonl"], **TRAINING)
    rows = metrics(tmp_path / "out")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["loss"] != pytest.approx(math.log(2), abs=1e-3)


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> Path:
    script = [str(Path(__file__).with_name("solar_two_ranks.py")), str(folder)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*launcher, *script], env=kept_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.soak
def test_a_pipeline_whose_boundary_lies_within_two_skips(two_ranks: Path) -> None:
    model = solar_model(SKIPS, 6, sliding_window=5).train()
    tokens = tokens_of(model, 4, 9)
    losses = []
    for part in tokens.split(2):
        loss = pipeline_loss(model(part, use_cache=False).logits, part) / 2
        loss.backward()
        losses.append(float(2 * loss.detach()))
    saved = [torch.load(two_ranks / f"pipeline-{rank}.pt") for rank in (0, 1)]
    assert [float(loss.detach()) for loss in saved[1]["losses"]] == pytest.approx(losses)
    found = saved[0]["gradients"] | saved[1]["gradients"]
    assert f"model.layers.{BOUNDARY}.mlp.up_proj.weight" in saved[1]["gradients"]
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.soak
def test_two_ranks_in_shards_are_as_one(two_ranks: Path) -> None:
    dusk.pretrain(two_ranks / "solar", two_ranks / "one-pretrain", data=two_ranks / "text.jsonl", **TRAINING)
    dusk.align(two_ranks / "solar", two_ranks / "one-align", steps=[two_ranks / "pairs.jsonl"], **TRAINING)
    for name in ("pretrain", "align"):
        alone, together = (
            [row["loss"] for row in metrics(two_ranks / f"{ranks}-{name}") if row["kind"] == "train"]
            for ranks in ("one", "two")
        )
        assert len(alone) > 2
        assert together == pytest.approx(alone, abs=1e-5)
        torch.testing.assert_close(
            weights(two_ranks / f"one-{name}"), weights(two_ranks / f"two-{name}"), atol=1e-5, rtol=1e-5
        )
    for rank in (0, 1):
        assert set(json.loads((two_ranks / f"shards-{rank}.json").read_text()).values()) == {"DTensor"}
