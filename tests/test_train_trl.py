"""The oracle: TRL's trainers on the same rows give the same losses, metrics and weights, in float32."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dusk.data.templates import SOLAR
from dusk.train.align import align
from dusk.train.sft import sft
from train_models import chat_file, metrics, pair_file, save_base, weights

STEPS = 3
WHOLE = {"batch_tokens": 4096, "epochs": STEPS, "threads": 1}  # all rows in one step
PLAIN = {"schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base", model_type="llama", initializer_range=0.3)


@pytest.fixture(autouse=True)
def _trl_warns_on_import_and_use(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"trl(\.|$)")
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
        yield


def trl_settings(folder: Path, rows: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": rows,
        "num_train_epochs": STEPS,
        "learning_rate": PLAIN["learning_rate"],
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }


def rows_of(file: Path, answers: list[str]) -> list[dict[str, str]]:
    """Our rows as TRL takes them without a template: the prompt rendered, the answers as they are."""
    import json

    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [
        {"prompt": SOLAR.prompt([{"role": "user", "content": row["prompt"]}])}
        | {name: row[name] for name in answers}
        for row in rows
    ]


def trained_by_trl(trainer: Any) -> list[dict[str, float]]:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


def assert_same(ours: Path, theirs: torch.nn.Module) -> None:
    expected = theirs.state_dict()
    for name, tensor in weights(ours).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_sft(base: Path, tmp_path: Path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = chat_file(tmp_path)
    sft(base, tmp_path / "out", data=data, **PLAIN, **WHOLE)
    rows = rows_of(data, ["completion"])
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=SFTConfig(**trl_settings(tmp_path / "trl", len(rows))),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    logs = trained_by_trl(trainer)
    ours = metrics(tmp_path / "out")
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in logs], rel=1e-5)
    assert [row["grad_norm"] for row in ours] == pytest.approx([row["grad_norm"] for row in logs], rel=1e-4)
    assert_same(tmp_path / "out", trainer.model)


@pytest.mark.parametrize("precomputed", [True, False])
def test_dpo(base: Path, tmp_path: Path, precomputed: bool):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    data = pair_file(tmp_path)
    align(base, tmp_path / "out", steps=[data], beta=0.2, **PLAIN, **WHOLE)
    rows = rows_of(data, ["chosen", "rejected"])
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=DPOConfig(
            **trl_settings(tmp_path / "trl", len(rows)), beta=0.2, precompute_ref_log_probs=precomputed
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    logs = trained_by_trl(trainer)
    ours = metrics(tmp_path / "out")
    assert ours[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    names = ["loss", "rewards/accuracies", "logps/chosen", "logps/rejected"]
    for name in names:
        assert [row[name] for row in ours[1:]] == pytest.approx([row[name] for row in logs[1:]], rel=1e-5), (
            name
        )
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):  # differences of sums over tokens
        assert [row[name] for row in ours] == pytest.approx(
            [row[name] for row in logs], rel=1e-4, abs=1e-4
        ), name
    assert_same(tmp_path / "out", trainer.model)
