"""Stepwise DPO: each step starts from and refers to the model of the one before; it resumes bit-equal."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from dusk import verify
from dusk.data.stores import pair_store
from dusk.data.templates import SOLAR
from dusk.errors import CheckpointError, DataError, InputError, SettingError, WorkError
from dusk.train.align import align
from dusk.train.batch import packed_batch
from dusk.train.model import load_model
from dusk.train.preference import Preference
from dusk.train.vocabulary import load_tokenizer
from train_models import (
    KillAfter,
    Killed,
    assert_same_weights,
    metrics,
    pair_file,
    save_base,
    text,
    weights,
    write_rows,
)

SETTINGS: dict[str, Any] = {"batch_tokens": 400, "learning_rate": 1e-3, "threads": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("data")
    return [pair_file(folder, name="one.jsonl"), pair_file(folder, name="two.jsonl", seed=500)]


@pytest.fixture(scope="module")
def whole(base: Path, steps: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    align(base, out, steps=steps, **SETTINGS)
    return out


def answer_logs(model: PreTrainedModel, file: Path) -> np.ndarray:
    """log p of chosen and rejected answers by transformers alone, (pairs, 2)."""
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    found = []
    for row in map(json.loads, file.read_text().splitlines()):
        prompt = tokenizer(SOLAR.prompt([{"role": "user", "content": row["prompt"]}]))["input_ids"]
        for name in ("chosen", "rejected"):
            answer = tokenizer(row[name], add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*prompt, *answer, tokenizer.eos_token_id]])
            with torch.no_grad():
                logs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
            found.append(float(logs[len(prompt) - 1 :].sum()))
    return np.array(found).reshape(-1, 2)


def loaded(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "dusk.json").read_text())["results"]
    return found


def test_the_output_is_a_model_with_the_figures_of_each_step(whole: Path, steps: list[Path]):
    assert verify(whole, forward=True).ok
    assert not [path for path in whole.iterdir() if path.name.startswith(("checkpoint", "."))]
    found = results(whole)
    assert [step["file"] for step in found["sdpo"]] == ["one.jsonl", "two.jsonl"]
    assert [step["pairs"] for step in found["sdpo"]] == [24, 24]
    assert found["tokens"] == sum(step["tokens"] for step in found["sdpo"])
    assert found["steps"] == sum(step["steps"] for step in found["sdpo"])
    assert {"seconds", "tokens_per_second", "peak_memory_bytes", "final_loss"} <= set(found)
    manifest = json.loads((whole / "dusk.json").read_text())
    assert [source["name"] for source in manifest["inputs"]][1:] == ["one.jsonl", "two.jsonl"]
    assert (manifest["settings"]["beta"], manifest["settings"]["template"]) == (0.1, "solar")


def test_metrics_of_all_steps_run_on(whole: Path):
    rows = metrics(whole)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["tokens"] for row in rows] == sorted({row["tokens"] for row in rows})
    assert [row["sdpo_step"] for row in rows] == sorted(row["sdpo_step"] for row in rows)
    assert {row["sdpo_step"] for row in rows} == {1, 2}
    named = {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"}
    assert named | {"logps/rejected"} <= set(rows[0])


def test_each_step_begins_at_ln_2(whole: Path):
    """The policy is its own reference then: all rewards are zero."""
    rows = metrics(whole)
    for number in (1, 2):
        first = next(row for row in rows if row["sdpo_step"] == number)
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["loss"] != pytest.approx(math.log(2), abs=1e-3)


def test_step_two_starts_from_and_refers_to_the_model_after_step_one(
    base: Path, steps: list[Path], whole: Path, tmp_path: Path
):
    """Step one alone is DPO; DPO from its model on the second file is step two, with the margins by hand."""
    one, two = tmp_path / "one", tmp_path / "two"
    align(base, one, steps=[steps[0]], **SETTINGS)
    align(one, two, steps=[steps[1]], **SETTINGS)
    assert_same_weights(two, whole)
    ours = metrics(whole)
    for number, folder in ((1, one), (2, two)):
        alone = [{**row, "sdpo_step": 0, "step": 0, "tokens": 0} for row in metrics(folder)]
        mine = [{**r, "sdpo_step": 0, "step": 0, "tokens": 0} for r in ours if r["sdpo_step"] == number]
        assert mine == alone
    for start, file, found in ((base, steps[0], 0), (one, steps[1], 1)):
        logs = answer_logs(loaded(start), file)
        margin = float((logs[:, 0] - logs[:, 1]).mean())
        assert results(whole)["sdpo"][found]["reference_margin"] == pytest.approx(margin, rel=1e-5)


def test_the_figures_of_a_batch_by_hand(base: Path, steps: list[Path], whole: Path):
    model, beta = load_model(whole), 0.3
    store, _ = pair_store([steps[0]], load_tokenizer(whole, model), SOLAR, sequence_length=128)
    policy, reference = answer_logs(loaded(whole), steps[0]), answer_logs(loaded(base), steps[0])
    from dusk.train.attention import packed

    with packed(model):
        total, sums = Preference(reference, beta)(model, packed_batch(store, range(store.units)))
    gains = policy - reference
    margins = beta * (gains[:, 0] - gains[:, 1])
    by_hand = {
        "rewards/chosen": beta * gains[:, 0],
        "rewards/rejected": beta * gains[:, 1],
        "rewards/margins": margins,
        "rewards/accuracies": margins > 0,
        "logps/chosen": policy[:, 0],
        "logps/rejected": policy[:, 1],
    }
    assert total.item() == pytest.approx(np.log1p(np.exp(-margins)).sum(), rel=1e-5)
    assert {name: float(value) for name, value in sums.items()} == pytest.approx(
        {name: float(values.sum()) for name, values in by_hand.items()}, rel=1e-5, abs=1e-4
    )


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Files whose chosen answers the base finds likelier in a quarter, in all, and in half of the pairs."""
    folder = tmp_path_factory.mktemp("graded")
    likely = [{"prompt": text(2, i), "chosen": "the", "rejected": text(12, i)} for i in range(12)]
    unlikely = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in likely]
    return (
        write_rows(folder / "hard.jsonl", likely[:3] + unlikely[3:]),
        write_rows(folder / "easy.jsonl", likely),
        write_rows(folder / "middle.jsonl", likely[:6] + unlikely[6:]),
    )


class TestOrder:
    def test_easy_to_hard(self, base: Path, graded: tuple[Path, Path, Path], tmp_path: Path):
        align(base, tmp_path / "out", steps=graded, order="easy-to-hard", **SETTINGS)
        found = results(tmp_path / "out")["sdpo"]
        assert [step["file"] for step in found] == ["easy.jsonl", "middle.jsonl", "hard.jsonl"]
        assert [step["start_accuracy"] for step in found] == [1, 0.5, 0.25]
        logs = answer_logs(loaded(base), graded[2])
        assert found[1]["start_accuracy"] == (logs[:, 0] > logs[:, 1]).mean()

    def test_given(self, base: Path, graded: tuple[Path, Path, Path], tmp_path: Path):
        align(base, tmp_path / "out", steps=graded, **SETTINGS)
        assert [step["file"] for step in results(tmp_path / "out")["sdpo"]] == [file.name for file in graded]


class TestResume:
    @pytest.mark.parametrize("number", [1, 2])
    @pytest.mark.parametrize("into", [1, 3])
    def test_killed_in_a_step_it_continues_bit_equal(
        self, number: int, into: int, base: Path, steps: list[Path], whole: Path, tmp_path: Path
    ):
        first = sum(row["sdpo_step"] == 1 for row in metrics(whole))
        kill = KillAfter(into + (first if number == 2 else 0))
        out = tmp_path / "out"
        with pytest.raises(Killed):
            align(base, out, steps=steps, save_every_seconds=0, progress=kill, **SETTINGS)
        align(base, out, steps=steps, **SETTINGS)
        assert_same_weights(out, whole)
        assert metrics(out) == metrics(whole)
        for name in ("reference_margin", "start_accuracy", "reward_margin", "tokens", "final_loss"):
            assert [s[name] for s in results(out)["sdpo"]] == [s[name] for s in results(whole)["sdpo"]]

    def test_killed_between_the_steps(
        self, base: Path, steps: list[Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        from dusk.train import steps as room

        out, calls = tmp_path / "out", iter(range(9))
        original = room.reference_logs

        def killed(*args: Any) -> Any:
            if next(calls) == 0:
                raise Killed
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(room, "reference_logs", killed)
            with pytest.raises(Killed):
                align(base, out, steps=steps, **SETTINGS)
        assert (Path(f"{out}.partial") / "checkpoints-step-1" / "outcome.json").exists()
        align(base, out, steps=steps, **SETTINGS)
        assert_same_weights(out, whole)
        assert metrics(out) == metrics(whole)

    def test_progress_counts_all_steps(self, base: Path, steps: list[Path], whole: Path, tmp_path: Path):
        seen: list[tuple[int, int]] = []
        align(
            base,
            tmp_path / "out",
            steps=steps,
            progress=lambda done, total, unit, /, **values: seen.append((done, total)),
            **SETTINGS,
        )
        assert [done for done, _ in seen] == [row["tokens"] for row in metrics(whole)]
        assert {total for _, total in seen} == {results(whole)["tokens"]}


def test_tied_weights_and_bf16(steps: list[Path], tmp_path: Path):
    base = save_base(tmp_path / "base", model_type="qwen2", tie_word_embeddings=True, dtype="bfloat16")
    given = {"steps": steps, "precision": "bf16", **SETTINGS}
    align(base, tmp_path / "whole", **given)
    rows = metrics(tmp_path / "whole")
    firsts = [next(row for row in rows if row["sdpo_step"] == number) for number in (1, 2)]
    assert [row["loss"] for row in firsts] == pytest.approx([math.log(2)] * 2, abs=2e-3)
    kill = KillAfter(sum(row["sdpo_step"] == 1 for row in rows) + 1)
    with pytest.raises(Killed):
        align(base, tmp_path / "out", save_every_seconds=0, progress=kill, **given)
    align(base, tmp_path / "out", **given)
    assert_same_weights(tmp_path / "out", tmp_path / "whole")
    assert "lm_head.weight" not in weights(tmp_path / "out")


class TestErrors:
    def test_prompts_longer_than_the_context_are_counted(self, base: Path, tmp_path: Path):
        rows = [
            {"prompt": "the", "chosen": "model", "rejected": "layer"},
            {"prompt": "deep " * 200, "chosen": "model", "rejected": "layer"},
            {"prompt": "the", "chosen": "model", "rejected": "layer " * 200},
        ]
        align(base, tmp_path / "out", steps=[write_rows(tmp_path / "rows.jsonl", rows)], **SETTINGS)
        (step,) = results(tmp_path / "out")["sdpo"]
        assert (step["pairs"], step["data"]["rows"]) == (1, 3)
        assert step["data"]["left_out"] == {
            "prompt longer than the context": 1,
            "answer does not fit the context": 1,
        }

    def test_malformed_pairs_name_file_and_line(self, base: Path, steps: list[Path], tmp_path: Path):
        bad = write_rows(
            tmp_path / "bad.jsonl",
            [
                {"prompt": "a", "chosen": "b", "rejected": "c"},
                {"prompt": "a", "chosen": "b", "rejected": "b"},
                {"prompt": "a", "chosen": "b"},
            ],
        )
        with pytest.raises(DataError) as caught:
            align(base, tmp_path / "out", steps=[steps[0], bad], **SETTINGS)
        assert all(f"bad.jsonl:{line}" in str(caught.value) for line in (2, 3))

    @pytest.mark.parametrize(
        ("given", "kind", "match"),
        [
            ({"steps": []}, SettingError, "no --step"),
            ({"beta": 0.0}, SettingError, "beta is 0.0"),
            ({"beta": float("nan")}, SettingError, "beta is nan"),
            ({"order": "hard-to-easy"}, SettingError, "order is hard-to-easy"),
            ({"warmup": 2}, SettingError, "warmup is 2"),
            ({"steps": ["none.jsonl"]}, DataError, "none.jsonl does not exist"),
        ],
    )
    def test_refused(
        self,
        base: Path,
        steps: list[Path],
        tmp_path: Path,
        given: dict[str, Any],
        kind: type[InputError],
        match: str,
    ):
        with pytest.raises(kind, match=match):
            align(base, tmp_path / "out", **{"steps": steps, **given})
        assert not (tmp_path / "out.partial").exists()

    def test_a_model_with_a_soft_cap_is_refused_before_training(self, steps: list[Path], tmp_path: Path):
        model = save_base(
            tmp_path / "model",
            model_type="gemma2",
            head_dim=8,
            sliding_window=64,
            attn_logit_softcapping=None,
        )
        with pytest.raises(CheckpointError, match="scales, caps or shifts"):
            align(model, tmp_path / "out", steps=steps)

    def test_a_loss_that_is_no_number(
        self, base: Path, steps: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(
            "dusk.train.preference.preference_losses", lambda chosen, rejected, beta: chosen * float("inf")
        )
        with pytest.raises(WorkError, match="diverged at step 1"):
            align(base, tmp_path / "out", steps=steps, **SETTINGS)
