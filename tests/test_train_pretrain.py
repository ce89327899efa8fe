"""Pretraining through the front door: what it computes and writes, what it keeps, how it resumes."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from dusk import verify
from dusk.data.packing import plan_batches
from dusk.data.stores import text_store
from dusk.train.batch import packed_batch
from dusk.train.model import load_model
from dusk.train.objectives import NextToken
from dusk.train.pretrain import pretrain
from dusk.train.vocabulary import load_tokenizer
from train_models import (
    SETTINGS,
    KillAfter,
    Killed,
    assert_same_weights,
    copied,
    metrics,
    save_base,
    text_file,
    weights,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run with held-out measurements."""
    out = tmp_path_factory.mktemp("whole") / "out"
    pretrain(base, out, data=[data], eval_data=[data], eval_every_tokens=500, **SETTINGS)
    return out


def test_the_output_is_a_model_with_everything_around_it(base: Path, data: Path, whole: Path):
    assert verify(whole, forward=True).ok
    names = {path.name for path in whole.iterdir()}
    assert {"dusk.json", "README.md", "metrics.jsonl", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not [name for name in names if name.startswith(("checkpoint", ".")) or "writing" in name]
    manifest = json.loads((whole / "dusk.json").read_text())
    assert manifest["command"] == "pretrain"
    assert [source["name"] for source in manifest["inputs"]] == [str(base), data.name, data.name]
    assert {"seconds", "tokens", "tokens_per_second", "peak_memory_bytes", "final_loss"} <= set(
        manifest["results"]
    )
    assert manifest["results"]["data"]["rows"] == 60
    assert AutoTokenizer.from_pretrained(whole).eos_token == "</s>"


def test_the_loss_falls_and_metrics_have_every_step(whole: Path):
    rows = metrics(whole, times=True)
    train, held_out = ([row for row in rows if row["kind"] == kind] for kind in ("train", "eval"))
    assert [row["step"] for row in train] == list(range(1, len(train) + 1))
    assert train[-1]["loss"] < train[0]["loss"]
    assert held_out[-1]["loss"] < held_out[0]["loss"]
    assert held_out[0]["step"] == 0
    assert held_out[-1]["step"] == train[-1]["step"]
    assert set(held_out[0]) == {"kind", "step", "tokens", "loss", "bits_per_byte", "domains"}
    names = {
        "kind",
        "step",
        "tokens",
        "loss",
        "lr",
        "grad_norm",
        "tokens_per_second",
        "seconds",
        "memory_bytes",
    }
    assert set(train[0]) == names
    results = json.loads((whole / "dusk.json").read_text())["results"]
    assert results["tokens"] == train[-1]["tokens"]
    assert results["heldout"]["loss"] == held_out[-1]["loss"]


def test_held_out_loss_and_bits_per_byte_by_transformers(base: Path, data: Path, whole: Path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    nats = tokens = size = 0.0
    for line in data.read_text().splitlines():
        words = json.loads(line)["text"]
        ids = torch.tensor([[*tokenizer(words)["input_ids"], tokenizer.eos_token_id]])
        size += len(words.encode())
        for piece in (ids[:, begin : begin + 64] for begin in range(0, max(1, ids.shape[1] - 1), 63)):
            with torch.no_grad():
                nats += float(model(piece, labels=piece).loss) * (piece.shape[1] - 1)
            tokens += piece.shape[1] - 1
    first = metrics(whole)[0]
    assert first["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert first["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert first["domains"]["text"] == pytest.approx(first["bits_per_byte"])


def test_steps_are_adamw_on_the_planned_batches(base: Path, data: Path, tmp_path: Path):
    """A bare loop over the same plan, with torch's own optimizer, gives the same losses and weights."""
    out = tmp_path / "out"
    pretrain(base, out, data=data, schedule="constant", warmup=0.0, weight_decay=0.0, **SETTINGS)
    model = load_model(base)
    store, _ = text_store([data], load_tokenizer(base, model), sequence_length=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    found = []
    from dusk.train.attention import packed

    with packed(model):
        for units in plan_batches(store, capacity=128, seed=0):
            batch = packed_batch(store, units)
            objective = NextToken()
            loss = objective(model, batch)[0] / objective.weight(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
    assert [row["loss"] for row in metrics(out)] == pytest.approx(found, rel=1e-4)
    for name, tensor in weights(out).items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_accumulated_micro_batches_are_one_big_batch(base: Path, tmp_path: Path):
    """All documents in one step: four micro batches of other lengths and other counts give the same update."""
    data = text_file(tmp_path, 12)
    outs = []
    for micro in (None, 70):
        out = tmp_path / f"micro-{micro}"
        pretrain(base, out, data=data, **{**SETTINGS, "batch_tokens": 4000, "micro_batch_tokens": micro})
        outs.append(out)
    (one,), (other,) = (metrics(out) for out in outs)
    assert one["tokens"] == other["tokens"]
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    for name, tensor in weights(outs[0]).items():
        torch.testing.assert_close(tensor, weights(outs[1])[name], rtol=1e-3, atol=2e-5)


class TestResume:
    @pytest.mark.parametrize("steps", [1, 4])
    def test_a_killed_run_continues_bit_equal(
        self, steps: int, base: Path, data: Path, whole: Path, tmp_path: Path
    ):
        out = tmp_path / "out"
        given = {"data": [data], "eval_data": [data], "eval_every_tokens": 500, **SETTINGS}
        with pytest.raises(Killed):
            pretrain(base, out, **given, save_every_seconds=0, progress=KillAfter(steps))
        assert not out.exists()
        report = pretrain(base, out, **given, save_every_seconds=1000)
        assert_same_weights(out, whole)
        assert metrics(out) == metrics(whole)
        assert report.tokens == json.loads((whole / "dusk.json").read_text())["results"]["tokens"]

    def test_incomplete_newest_checkpoints_are_passed_over(
        self, base: Path, data: Path, whole: Path, tmp_path: Path
    ):
        out = tmp_path / "out"
        given = {"data": [data], "eval_data": [data], "eval_every_tokens": 500, **SETTINGS}
        with pytest.raises(Killed):
            pretrain(base, out, **given, save_every_seconds=0, progress=KillAfter(4))
        checkpoints = Path(f"{out}.partial") / "checkpoints"
        (good,) = checkpoints.iterdir()
        torn = copied(good, checkpoints / "checkpoint-999")
        (torn / "complete").unlink()
        short = copied(good, checkpoints / "checkpoint-998")
        (shard,) = short.glob("*.distcp")
        shard.write_bytes(shard.read_bytes()[:-1])
        pretrain(base, out, **given)
        assert_same_weights(out, whole)
        assert metrics(out) == metrics(whole)

    def test_a_run_killed_before_its_renaming_is_only_renamed(
        self, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        out = tmp_path / "out"
        with monkeypatch.context() as patch:
            patch.setattr("dusk.train.output.write_card", lambda folder: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                pretrain(base, out, data=data, **SETTINGS)
        report = pretrain(base, out, data=data, progress=KillAfter(1), **SETTINGS)  # no step is taken
        assert report.tokens == report.results["tokens"]
        assert (out / "README.md").exists()
        assert not list(out.glob("checkpoints*"))

    def test_another_run_does_not_continue_it(self, base: Path, data: Path, tmp_path: Path):
        out = tmp_path / "out"
        with pytest.raises(Killed):
            pretrain(base, out, data=data, save_every_seconds=0, progress=KillAfter(3), **SETTINGS)
        other = {**SETTINGS, "learning_rate": 2e-3}
        pretrain(base, out, data=data, **other)
        pretrain(base, tmp_path / "fresh", data=data, **other)
        assert_same_weights(out, tmp_path / "fresh")
        assert metrics(out) == metrics(tmp_path / "fresh")


class TestWhatIsKept:
    def test_config_generation_settings_and_type(self, data: Path, tmp_path: Path):
        base = save_base(tmp_path / "base", dtype="bfloat16", use_cache=False)
        odd = '{ "temperature": 0.3,\n"eos_token_id": [1, 7]}'  # transformers objects to both
        (base / "generation_config.json").write_text(odd)
        (base / "LICENSE").write_text("yours")
        out = tmp_path / "out"
        pretrain(base, out, data=data, save_every_seconds=0, **SETTINGS)
        assert (out / "generation_config.json").read_text() == odd
        assert (out / "LICENSE").read_text() == "yours"
        before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, out))
        assert after == before
        assert {tensor.dtype for tensor in weights(out).values()} == {torch.bfloat16}
        assert weights(out).keys() == weights(base).keys()

    @pytest.mark.parametrize("use_cache", [True, False])
    def test_no_generation_settings_stay_none(self, data: Path, tmp_path: Path, use_cache: bool):
        base = save_base(tmp_path / "base", use_cache=use_cache)
        (base / "generation_config.json").unlink()
        pretrain(base, tmp_path / "out", data=data, tokens=200, **SETTINGS)
        assert not (tmp_path / "out" / "generation_config.json").exists()
        assert json.loads((tmp_path / "out" / "config.json").read_text())["use_cache"] is use_cache

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_tied_weights_stay_tied_through_a_resume(
        self, data: Path, tmp_path: Path, dtype: str, caplog: Any
    ):
        base = save_base(tmp_path / "base", model_type="qwen2", tie_word_embeddings=True, dtype=dtype)
        pretrain(base, tmp_path / "whole", data=data, **SETTINGS)
        with pytest.raises(Killed):
            pretrain(
                base, tmp_path / "out", data=data, save_every_seconds=0, progress=KillAfter(3), **SETTINGS
            )
        pretrain(base, tmp_path / "out", data=data, **SETTINGS)
        with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
            assert "lm_head.weight" not in file.keys()  # noqa: SIM118
        assert_same_weights(tmp_path / "out", tmp_path / "whole")
        assert verify(tmp_path / "out", forward=True).ok
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    def test_threads_are_as_before(self, base: Path, data: Path, tmp_path: Path):
        before = torch.get_num_threads()
        pretrain(base, tmp_path / "out", data=data, tokens=200, **{**SETTINGS, "threads": before + 1})
        assert torch.get_num_threads() == before


class TestPrecision:
    def test_bf16_computes_in_bf16_and_keeps_float32_weights(self, base: Path, data: Path, tmp_path: Path):
        pretrain(base, tmp_path / "bf16", data=data, precision="bf16", **SETTINGS)
        pretrain(base, tmp_path / "fp32", data=data, precision="fp32", **SETTINGS)
        ours, exact = ([row["loss"] for row in metrics(tmp_path / name)] for name in ("bf16", "fp32"))
        assert ours != exact
        assert ours == pytest.approx(exact, rel=0.02)
        assert {tensor.dtype for tensor in weights(tmp_path / "bf16").values()} == {torch.float32}

    def test_gradient_checkpointing_gives_the_same_weights(self, base: Path, data: Path, tmp_path: Path):
        for name, on in (("on", True), ("off", False)):
            pretrain(base, tmp_path / name, data=data, gradient_checkpointing=on, tokens=400, **SETTINGS)
        assert [row["loss"] for row in metrics(tmp_path / "on")] == pytest.approx(
            [row["loss"] for row in metrics(tmp_path / "off")], rel=1e-5
        )
        assert (tmp_path / "on" / "config.json").read_bytes() == (
            tmp_path / "off" / "config.json"
        ).read_bytes()
