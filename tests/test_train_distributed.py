"""Two ranks against one: the same losses, shards that are shards, and checkpoints that change hands."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dusk
from dusk.checkpoint.manifest import read_manifest
from dusk.errors import StoppedError
from dusk.train.checkpoints import newest_complete
from dusk.train.sharing import passes_per_step, share
from train_models import (
    assert_same_weights,
    chat_file,
    kept_environment,
    metrics,
    pair_file,
    save_base,
    text_file,
    weights,
)
from two_ranks import ADAPTERS, ALIGN, LIGHT, MUON, PRETRAIN, SFT, STOP_IN, UNEVEN, Stop

TOLERANCE = 1e-5


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, data, and what two ranks made of them; begun beforehand: a run of one rank, stopped."""
    made = tmp_path_factory.mktemp("ranks")
    save_base(made / "base")
    save_base(made / "tied", tie_word_embeddings=True)
    text_file(made, 60)
    text_file(made, 9, "heldout.jsonl", seed=500)
    chat_file(made)
    pair_file(made, 22, "one.jsonl")
    pair_file(made, 15, "two.jsonl", seed=900)
    with pytest.raises(StoppedError, match=f"after step {STOP_IN + 1} of"):
        dusk.pretrain(
            made / "base",
            made / "begun-alone",
            data=made / "text.jsonl",
            progress=Stop(signal.SIGTERM),
            **PRETRAIN,
        )
    script = [str(Path(__file__).with_name("two_ranks.py")), str(made)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    subprocess.run([*launcher, *script], env=kept_environment(), check=True, capture_output=True, timeout=300)
    return made


@pytest.fixture(scope="session")
def alone(folder: Path) -> Callable[[str], Path]:
    """`alone("sft")`: the output of the same command in one process, made when it is asked for."""

    def make(name: str) -> Path:
        out = folder / "one" / name
        if out.exists():
            return out
        base, text = folder / "base", folder / "text.jsonl"
        match name:
            case "pretrain":
                dusk.pretrain(base, out, data=text, eval_data=folder / "heldout.jsonl", **PRETRAIN)
            case "uneven":
                dusk.pretrain(base, out, data=text, **UNEVEN)
            case "muon":
                dusk.pretrain(base, out, data=text, **MUON)
            case "light":
                dusk.pretrain(base, out, data=text, **LIGHT)
            case "sft":
                dusk.sft(base, out, data=folder / "chat.jsonl", **SFT)
            case "adapters":
                dusk.sft(base, out, data=folder / "chat.jsonl", **ADAPTERS)
            case "align":
                pairs = [folder / "one.jsonl", folder / "two.jsonl"]
                dusk.align(folder / "tied", out, steps=pairs, **ALIGN)
        return out

    return make


def assert_close_runs(one: Path, other: Path, within: float = TOLERANCE) -> None:
    first, second = metrics(one), metrics(other)
    assert [row.keys() for row in first] == [row.keys() for row in second]
    for row, twin in zip(first, second, strict=True):
        figures = {name: value for name, value in row.items() if isinstance(value, float)}
        assert figures == pytest.approx({name: twin[name] for name in figures}, abs=within, rel=within)
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    torch.testing.assert_close(mine, theirs, atol=within, rtol=within)


def test_ranks_share_one_store_of_tokens(folder: Path):
    (entry,) = (folder / "tokens").iterdir()
    assert entry.name.startswith("chat-")
    assert not entry.name.endswith(".partial")


@pytest.mark.parametrize("name", ["pretrain", "uneven", "sft", "align", "adapters"])
def test_two_ranks_are_as_one(name: str, folder: Path, alone: Callable[[str], Path]):
    assert len(metrics(alone(name))) > 3
    assert_close_runs(alone(name), folder / "two" / name)


def test_muon_on_two_ranks_is_as_on_one_but_for_its_iterations_in_bf16(
    folder: Path, alone: Callable[[str], Path]
):
    assert_close_runs(alone("muon"), folder / "two" / "muon", within=1e-3)


class TestStatesInBf16:
    """Each rank rounds its shard by draws of its own, so two ranks are as one in the mean, not bit by bit."""

    def test_two_ranks_learn_as_one(self, folder: Path, alone: Callable[[str], Path]):
        mine, theirs = (metrics(out) for out in (alone("light"), folder / "two" / "light"))
        assert [row["loss"] for row in mine] == pytest.approx([row["loss"] for row in theirs], abs=2e-3)
        exact, light = weights(alone("pretrain")), weights(folder / "two" / "light")
        base = weights(folder / "base")
        moved = {name: light[name] - base[name] for name in base}
        for name, change in moved.items():
            expected = exact[name] - base[name]
            assert float((change - expected).norm() / expected.norm()) < 0.1, name

    def test_stopped_and_continued_by_two_it_is_bit_equal(self, folder: Path):
        assert_same_weights(folder / "two" / "light-begun", folder / "two" / "light")
        assert metrics(folder / "two" / "light-begun") == metrics(folder / "two" / "light")

    def test_what_two_have_begun_goes_on_in_one(self, folder: Path, alone: Callable[[str], Path]):
        out = folder / "two" / "light-begun-by-two"
        dusk.pretrain(folder / "base", out, data=folder / "text.jsonl", **LIGHT)
        mine, theirs = (metrics(made) for made in (out, alone("light")))
        assert [row["loss"] for row in mine] == pytest.approx([row["loss"] for row in theirs], abs=2e-3)


def test_what_the_manifest_says_does_not_depend_on_the_ranks(folder: Path, alone: Callable[[str], Path]):
    one, two = read_manifest(alone("align")), read_manifest(folder / "two" / "align")
    assert one is not None
    assert two is not None
    assert [step["file"] for step in one.results["sdpo"]] == [step["file"] for step in two.results["sdpo"]]
    for name in ("tokens", "steps", "flops", "final_loss"):
        assert one.results[name] == pytest.approx(two.results[name], abs=TOLERANCE)


def test_each_rank_holds_half_of_every_parameter(folder: Path):
    ranks = [json.loads((folder / f"shards-{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0].keys() == weights(folder / "base").keys()
    for name, first in ranks[0].items():
        second = ranks[1][name]
        assert first["sharded"], name
        assert second["sharded"], name
        assert first["here"] == second["here"] == first["whole"] / 2, name


class TestChangingHands:
    def test_a_checkpoint_of_two_ranks_goes_on_in_one(self, folder: Path, alone: Callable[[str], Path]):
        out = folder / "begun-by-two"
        assert not out.exists()
        checkpoints = Path(f"{out}.partial") / "checkpoints"
        newest = newest_complete(checkpoints)
        assert newest == checkpoints / f"checkpoint-{STOP_IN + 1}"
        assert len(list(newest.glob("*.distcp"))) == 2  # each rank wrote its own
        dusk.pretrain(folder / "base", out, data=folder / "text.jsonl", **PRETRAIN)
        self.as_uninterrupted(out, alone)

    def test_a_checkpoint_of_one_rank_goes_on_in_two(self, folder: Path, alone: Callable[[str], Path]):
        self.as_uninterrupted(folder / "begun-alone", alone)

    @staticmethod
    def as_uninterrupted(out: Path, alone: Callable[[str], Path]) -> None:
        rows = {row["step"]: row["loss"] for row in metrics(out)}
        whole = {row["step"]: row["loss"] for row in metrics(alone("pretrain")) if row["kind"] == "train"}
        assert rows == pytest.approx(whole, abs=TOLERANCE)
        torch.testing.assert_close(weights(out), weights(alone("pretrain")), atol=TOLERANCE, rtol=TOLERANCE)


class TestStopping:
    @pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGUSR1])
    def test_stopped_and_continued_it_is_bit_equal(
        self, sign: signal.Signals, folder: Path, alone: Callable[[str], Path], tmp_path: Path
    ):
        before = signal.getsignal(sign)
        arguments: dict[str, Any] = {"data": folder / "text.jsonl", "eval_data": folder / "heldout.jsonl"}
        with pytest.raises(StoppedError) as stopped:
            dusk.pretrain(folder / "base", tmp_path / "out", progress=Stop(sign), **arguments, **PRETRAIN)
        assert stopped.value.exit_code == 75
        assert "same command continues" in str(stopped.value)
        assert signal.getsignal(sign) == before
        dusk.pretrain(folder / "base", tmp_path / "out", **arguments, **PRETRAIN)
        assert_same_weights(tmp_path / "out", alone("pretrain"))
        assert metrics(tmp_path / "out") == metrics(alone("pretrain"))

    def test_stopped_at_the_last_step_it_only_has_to_be_written(
        self, folder: Path, alone: Callable[[str], Path], tmp_path: Path
    ):
        steps = max(row["step"] for row in metrics(alone("sft")))
        stop = Stop(signal.SIGTERM)
        stop.left = steps - 1
        with pytest.raises(StoppedError):
            dusk.sft(folder / "base", tmp_path / "out", data=folder / "chat.jsonl", progress=stop, **SFT)
        dusk.sft(folder / "base", tmp_path / "out", data=folder / "chat.jsonl", **SFT)
        assert_same_weights(tmp_path / "out", alone("sft"))


class TestShares:
    LENGTHS = np.array([5, 1, 9, 3, 7, 2, 8, 4])

    def shares(self, plan: list[list[int]], per_step: int, ranks: int) -> list[list[Any]]:
        return [share(plan, per_step, self.LENGTHS, rank=rank, ranks=ranks) for rank in range(ranks)]

    @pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
    def test_every_step_has_its_documents_once_whoever_computes_them(self, ranks: int):
        plan = [[0, 1], [2], [3, 4], [5], [6, 7]]
        shares = self.shares(plan, 2, ranks)
        passes = passes_per_step(2, ranks)
        assert [len(mine) for mine in shares] == [2 * passes + 1] * ranks  # the last step is a short one
        for step in range(3):
            computed = [
                unit
                for mine in shares
                for batch in mine[step * passes : (step + 1) * passes]
                for unit in batch
            ]
            planned = [unit for batch in plan[2 * step : 2 * step + 2] for unit in batch]
            assert sorted(computed) == sorted(planned)

    def test_alone_the_plan_is_the_share(self):
        plan = [[0, 1], [2], [3, 4], [5]]
        assert self.shares(plan, 2, 1) == [plan]

    def test_one_batch_is_dealt_out_evenly(self):
        first, second = self.shares([[0, 1, 2, 3, 4, 5, 6, 7]], 1, 2)
        assert [sum(self.LENGTHS[unit] for unit in mine[0]) for mine in (first, second)] == [20, 19]
