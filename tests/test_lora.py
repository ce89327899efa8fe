"""Adapters against peft: its own merge of what we leave, and its own model trained by a hand loop."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, set_seed

import dusk
from dusk.data.packing import plan_batches
from dusk.data.stores import text_store
from dusk.errors import SettingError
from dusk.train.model import load_model
from dusk.train.vocabulary import load_tokenizer
from train_models import (
    KillAfter,
    Killed,
    assert_same_weights,
    chat_file,
    metrics,
    pair_file,
    save_base,
    text_file,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft's own

LORA: dict[str, Any] = {"lora_rank": 4, "lora_alpha": 6.0, "keep_adapter": True}
SETTINGS: dict[str, Any] = {"batch_tokens": 300, "learning_rate": 1e-2, "threads": 1, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base", model_type="llama", initializer_range=0.2)


def run(stage: str, base: Path, out: Path, folder: Path, **given: Any) -> Path:
    data = {"pretrain": text_file, "sft": chat_file, "align": pair_file}[stage](folder)
    files = {"steps": data} if stage == "align" else {"data": data}
    getattr(dusk, stage)(base, out, **files, **{**SETTINGS, **LORA, **given})
    return out


@pytest.mark.parametrize("stage", ["pretrain", "sft", "align"])
def test_the_result_is_what_peft_merges(stage: str, base: Path, tmp_path: Path):
    from peft import PeftModel

    out = run(stage, base, tmp_path / "out", tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, out / "adapter").merge_and_unload().state_dict()
    ours, before = weights(out), weights(base)
    assert ours.keys() == before.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6, msg=name)
    changed = {name for name in before if not torch.equal(before[name], ours[name])}
    assert changed == {name for name in before if "_proj" in name}
    assert json.loads((out / "dusk.json").read_text())["settings"]["lora_rank"] == 4


def test_losses_are_those_of_peft_by_hand(base: Path, tmp_path: Path):
    """One document at a time through peft's own model, attention and cross-entropy."""
    from peft import LoraConfig, get_peft_model

    out = run("pretrain", base, tmp_path / "out", tmp_path, schedule="constant", warmup=0.0, tokens=1200)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    set_seed(0)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(plain, LoraConfig(r=4, lora_alpha=6.0, target_modules=sorted(linear)))
    store, _ = text_store(
        [tmp_path / "text.jsonl"], load_tokenizer(base, load_model(base)), sequence_length=128
    )
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0
    )
    losses = []
    for units in plan_batches(store, capacity=300, seed=0, tokens=1200):
        total, items = torch.zeros(()), 0
        for unit in units:
            ids = torch.from_numpy(store.tokens[store.offsets[unit] : store.offsets[unit + 1]]).long()[None]
            if ids.shape[1] > 1:
                logits = model(ids).logits[0, :-1]
                total = total + torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
                items += ids.shape[1] - 1
        (total / items).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / items)
    assert [row["loss"] for row in metrics(out)] == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < losses[0]


def test_stepwise_dpo_refers_to_the_adapted_model_and_continues_bit_equal(base: Path, tmp_path: Path):
    steps = [pair_file(tmp_path, name="one.jsonl"), pair_file(tmp_path, name="two.jsonl", seed=500)]
    given = {**SETTINGS, **LORA, "steps": steps}
    dusk.align(base, tmp_path / "whole", **given)
    rows = metrics(tmp_path / "whole")
    firsts = [next(row for row in rows if row["sdpo_step"] == number) for number in (1, 2)]
    assert [row["loss"] for row in firsts] == pytest.approx([0.6931472] * 2, abs=1e-6)
    assert rows[-1]["loss"] != pytest.approx(0.6931472, abs=1e-3)
    first = sum(row["sdpo_step"] == 1 for row in rows)
    with pytest.raises(Killed):
        dusk.align(base, tmp_path / "out", **given, save_every_seconds=0, progress=KillAfter(first + 2))
    dusk.align(base, tmp_path / "out", **given)
    assert_same_weights(tmp_path / "out", tmp_path / "whole")
    assert metrics(tmp_path / "out") == rows


def test_layers_that_the_model_has_not(base: Path, tmp_path: Path):
    with pytest.raises(SettingError, match=r"no linear layer query.*\n.*It has down_proj, gate_proj"):
        run("pretrain", base, tmp_path / "out", tmp_path, lora_targets="query,v_proj")
