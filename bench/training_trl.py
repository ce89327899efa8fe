"""The ways of TRL: SFTTrainer with its two kinds of packing, DPOTrainer with precomputed reference."""

import time
import warnings
from pathlib import Path
from typing import Any

import torch

from bench.training_clock import SETTINGS, STEP_TOKENS, STEPS, Clock, Figures
from bench.training_data import CONTEXT


def _plain(work: Path, precision: str, compiled: bool, **given: Any) -> dict[str, Any]:
    return {
        "output_dir": str(work / "trl"),
        "learning_rate": SETTINGS["learning_rate"],
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "max_length": CONTEXT,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": precision == "bf16",
        "gradient_checkpointing": False,
        "dataset_num_proc": None,
        "torch_compile": compiled,
        **given,
    }


def _model(work: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32)


def _rows(file: Path) -> Any:
    from datasets import Dataset

    return Dataset.from_json(str(file), cache_dir=str(file.parent / "cache"))


def sft(work: Path, data: str, packing: str, precision: str, rows: int, compiled: bool) -> Figures:
    """SFTTrainer with packing, in passes of so many rows; tokens as the collator hands them over."""
    warnings.filterwarnings("ignore")
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    clock, seen = Clock(), [0.0]

    class Ticking(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.step(seen.pop())
            seen.append(0.0)

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            seen[0] += float(inputs["input_ids"].numel() if mask is None else mask.sum())
            return super().training_step(model, inputs, *args, **kwargs)

    trainer = Counting(
        model=_model(work),
        args=SFTConfig(
            **_plain(work, precision, compiled),
            packing=True,
            packing_strategy=packing,
            max_steps=STEPS,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=max(1, STEP_TOKENS // (rows * CONTEXT)),
            weight_decay=0.1,
        ),
        train_dataset=_rows(work / data),
        processing_class=AutoTokenizer.from_pretrained(work / "model"),
        callbacks=[Ticking()],
    )
    trainer.train()
    return clock.figures([float(row["loss"]) for row in trainer.state.log_history if "loss" in row])


def dpo(work: Path, precision: str, rows: int, compiled: bool) -> Figures:
    """DPOTrainer over all pairs in one optimizer step, with the reference computed before; by the pair."""
    warnings.filterwarnings("ignore")
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    data, clock = _rows(work / "pairs-rendered.jsonl"), Clock()
    spent = [0.0, 0.0]

    class Timed(DPOTrainer):
        def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter(), time.process_time()
            found = super()._precompute_ref_logps(*args, **kwargs)
            spent[0] += time.perf_counter() - began[0]
            spent[1] += time.process_time() - began[1]
            return found

    trainer = Timed(
        model=_model(work),
        args=DPOConfig(
            **_plain(work, precision, compiled),
            beta=0.1,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=rows,
            max_steps=1,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=len(data) // rows,
            weight_decay=0.0,
        ),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(work / "model"),
    )
    inside = list(spent)
    began = time.perf_counter(), time.process_time()
    trainer.train()
    clock.done(
        len(data),
        time.perf_counter() - began[0] + inside[0],
        time.process_time() - began[1] + inside[1],
    )
    (row,) = (row for row in trainer.state.log_history if "loss" in row)
    return clock.figures(
        [float(row[name]) for name in ("loss", "grad_norm", "logps/chosen", "logps/rejected")]
    )
