"""The whole chain on the shipped base, killed again and again: the final table is that of an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.soak

KILLS = 3 if os.environ.get("DUSK_SOAK") == "short" else 10

RECIPE = """
name: small
threads: 1
defaults:
  pretrain:
    optimizer: muon
    learning_rate: 1e-2
    schedule: wsd
    batch_tokens: 2k
    sequence_length: 128
    save_every_seconds: 1
    data: [docs/continue.jsonl]
    eval_data: [docs/heldout.jsonl]
    eval_tokens: 5k
  sft: {learning_rate: 5e-4, batch_tokens: 2k, save_every_seconds: 1}
  align: {learning_rate: 5e-5, batch_tokens: 2k, save_every_seconds: 1}
stages:
  base: {kind: model, path: "dusk:constant"}
  docs: {kind: documentation, packages: [networkx]}
  problems: {kind: arithmetic, problems: 100, evaluation_problems: 50}
  scaled: {kind: scale, base: base, drop: 2}
  recovered: {kind: pretrain, model: scaled, tokens: 40k}
  tasks: {kind: instructions, data: [docs/continue.jsonl, problems/train.jsonl], rows: 40}
  sft_a: {kind: sft, model: recovered, data: [tasks/docs_qa.jsonl, tasks/math.jsonl]}
  sft_b: {kind: sft, model: recovered, data: [tasks/docs_tasks.jsonl]}
  aligned: {kind: align, model: sft_a, steps: [tasks/docs_preferences.jsonl, tasks/math_preferences.jsonl]}
  merged: {kind: merge, models: [aligned, sft_b], method: slerp}
  scores:
    kind: evaluate
    suite: demo
    limit: 4
    data: [docs, problems]
    models: [base, recovered, aligned, merged]
"""


def command(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "dusk", "run", str(recipe), "--out", str(out), "--jobs", "2"]


def table(out: Path) -> list[dict[str, Any]]:
    models = json.loads((out / "scores" / "results.json").read_text())["models"]
    return [{"name": model["name"], "scores": model["scores"]} for model in models]


def curve(out: Path) -> list[dict[str, Any]]:
    timed = {"seconds", "tokens_per_second", "memory_bytes"}
    lines = (out / "recovered" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def test_killed_at_random_moments(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE)
    began = time.monotonic()
    subprocess.run(command(recipe, tmp_path / "whole"), check=True, capture_output=True)
    seconds = time.monotonic() - began
    draw = random.Random(os.environ.get("DUSK_SOAK_SEED", "0"))
    for _ in range(KILLS):
        child = subprocess.Popen(
            command(recipe, tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(0.2, seconds * 0.7))
        child.send_signal(signal.SIGKILL)
        child.wait()
    subprocess.run(command(recipe, tmp_path / "killed"), check=True, capture_output=True)
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    weights = "merged/model.safetensors"
    assert (tmp_path / "killed" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert not list((tmp_path / "killed").glob("*.partial"))
