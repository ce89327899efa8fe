"""Training stages in several processes, as recipes and torchrun start them: stopped, killed, wrong, two nodes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import dusk
from train_models import kept_environment, metrics, pair_file, save_base, text_file, weights

pytestmark = pytest.mark.soak
SHORT = os.environ.get("DUSK_SOAK") == "short"

RECIPE = """
name: ranks
threads: 1
{places}
stages:
  start: {{kind: model, path: ./base}}
  recovered:
    kind: pretrain
    model: start
    data: [./text.jsonl]
    batch_tokens: 256
    epochs: 8
    learning_rate: 1e-3
    save_every_seconds: 0.5
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    save_base(made / "base")
    text_file(made, 100)
    pair_file(made, 20)
    (made / "two-gpus.yaml").write_text(RECIPE.format(places="gpus: 2"))
    (made / "two-nodes.yaml").write_text(RECIPE.format(places="nodes: 2"))
    settings = {"batch_tokens": 256, "epochs": 8, "learning_rate": 1e-3, "seed": seed(made)}
    dusk.pretrain(made / "base", made / "alone", data=made / "text.jsonl", threads=1, **settings)
    return made


def seed(folder: Path) -> int:
    from dusk.recipe import load_recipe

    found = load_recipe(folder / "two-gpus.yaml").stages["recovered"].given()["seed"]
    assert isinstance(found, int)
    return found


def start(folder: Path, recipe: str, out: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dusk", "run", str(folder / recipe), "--out", str(folder / out)]
    given = {**kept_environment(), "DUSK_RANKS_ON_CPU": "1", **environment}
    return subprocess.Popen(command, env=given, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_steps(folder: Path, steps: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for file in (folder / "state").rglob("metrics.jsonl"):
            if len(file.read_text().splitlines()) >= steps:
                return
        time.sleep(0.05)
    raise AssertionError("no step was taken")


def assert_as_alone(folder: Path, out: Path) -> None:
    losses = [row["loss"] for row in metrics(out)]
    assert losses == pytest.approx([row["loss"] for row in metrics(folder / "alone")], abs=1e-5)
    torch.testing.assert_close(weights(out), weights(folder / "alone"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "sign", [signal.SIGUSR1] if SHORT else [signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL]
)
def test_a_recipe_for_two_gpus_stopped_and_continued(sign: signal.Signals, folder: Path):
    out = f"stopped-{sign.name}"
    process = start(folder, "two-gpus.yaml", out)
    wait_for_steps(folder / out, 4)
    process.send_signal(sign)
    _, told = process.communicate(timeout=120)
    if sign != signal.SIGKILL:
        assert process.returncode == 75, told
        assert "the same command continues" in told
        state = json.loads((folder / out / "run.json").read_text())["stages"][1]["status"]
        assert state == "stopped"
    process = start(folder, "two-gpus.yaml", out)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert_as_alone(folder, folder / out / "recovered")


@pytest.mark.skipif(SHORT, reason="the short form")
def test_two_nodes_share_one_stage(folder: Path):
    nodes = [start(folder, "two-nodes.yaml", "nodes", DUSK_NODE=str(node)) for node in (1, 0)]
    for process in nodes:
        told, errors = process.communicate(timeout=300)
        assert process.returncode == 0, told + errors
    assert_as_alone(folder, folder / "nodes" / "recovered")
    tasks = [folder / "nodes" / "state" / "log"]
    assert tasks[0].is_dir()


@pytest.mark.parametrize("fault", ["data"] if SHORT else ["data", "one rank"])
def test_torchrun_says_what_is_wrong_once(fault: str, folder: Path):
    data = folder / ("none.jsonl" if fault == "data" else "text.jsonl")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [
        "-m",
        "dusk",
        "pretrain",
        str(folder / "base"),
        str(folder / f"wrong {fault}"),
        "--data",
        str(data),
    ]
    more = {"data": [], "one rank": ["--learning-rate", "1e30", "--batch-tokens", "256"]}[fault]
    done = subprocess.run(
        [*launcher, *command, *more], env=kept_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("dusk: ")]
    assert len(said) == 1, done.stderr
    assert not (folder / f"wrong {fault}").exists()
