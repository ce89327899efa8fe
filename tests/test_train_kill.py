"""Training commands as processes of their own, killed for good at random moments and started again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train_models import assert_same_weights, kept_environment, metrics, pair_file, save_base, text_file

pytestmark = pytest.mark.soak

KILLS = 3 if os.environ.get("DUSK_SOAK") == "short" else 10


def command(kind: str, model: Path, out: Path, data: list[Path]) -> list[str]:
    flag = "--step" if kind == "align" else "--data"
    files = [word for file in data for word in (flag, str(file))]
    settings = ["--batch-tokens", "256", "--epochs", "12", "--save-every-seconds", "0.05", "--threads", "1"]
    return [sys.executable, "-m", "dusk", kind, str(model), str(out), *files, *settings]


def killed(arguments: list[str], out: Path, moment: random.Random) -> bool:
    """Start the command, and kill it some time after its first step; whether there was anything to kill."""
    process = subprocess.Popen(
        arguments, env=kept_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while process.poll() is None and not list(Path(f"{out}.partial").rglob("metrics.jsonl")):
        time.sleep(0.01)
    time.sleep(moment.uniform(0, 1.0))
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode != 0


@pytest.mark.parametrize("kind", ["pretrain", "align"])
def test_killed_again_and_again_it_ends_like_the_uninterrupted_one(kind: str, tmp_path: Path):
    base = save_base(tmp_path / "base")
    data = (
        [pair_file(tmp_path, 60, "one.jsonl"), pair_file(tmp_path, 60, "two.jsonl", seed=900)]
        if kind == "align"
        else [text_file(tmp_path, 150)]
    )
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run(command(kind, base, whole, data), env=kept_environment(), check=True, capture_output=True)
    moment = random.Random(0)
    kills = 0
    while kills < KILLS and killed(command(kind, base, out, data), out, moment):
        kills += 1
        assert not out.exists()
    if not out.exists():
        subprocess.run(
            command(kind, base, out, data), env=kept_environment(), check=True, capture_output=True
        )
    assert kills >= 1
    assert_same_weights(out, whole)
    assert metrics(out) == metrics(whole)
    assert json.loads((out / "dusk.json").read_text())["command"] == kind
