"""Rows of our own in the layouts of the leaderboard's six sets, and a small model that can read them."""

import gzip
import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import dusk

BASE = Path(dusk.__file__).parent / "base" / "constant"
THINGS = ("iron", "water", "wood", "light", "sand", "glass", "sound", "salt", "wool", "air", "clay")
DOES = ("bends", "melts", "floats", "burns", "sinks", "rings", "shines")
LETTERS = "ABCD"
SUBJECTS_AT_HAND = ("abstract_algebra", "world_religions")


def _question(index):
    return f"Why {DOES[index % 7][:-1]} is what {THINGS[index % 11]} does in case {index}?"


def _choices(index):
    return [f"The {THINGS[(index * 3 + step) % 11]} {DOES[(index + step) % 7]} {step}." for step in range(4)]


def arc(count, first=0):
    return [
        {
            "id": f"q{index}",
            "question": _question(index),
            "choices": {"text": _choices(index), "label": list(LETTERS)},
            "answerKey": LETTERS[index % 4],
        }
        for index in range(first, first + count)
    ]


def hellaswag(count, first=0):
    return [
        {
            "ind": index,
            "query": f"Making {THINGS[index % 11]}: Somebody holds it.  Then case {index} comes. They",
            "choices": [f" {choice[4:]}" if index % 2 else choice for choice in _choices(index)],
            "gold": index % 4,
        }
        for index in range(first, first + count)
    ]


def mmlu(subjects, count, first=0):
    return [
        {
            "question": f" {_question(index)} ({subject})",
            "subject": subject,
            "choices": _choices(index),
            "answer": index % 4,
        }
        for subject in subjects
        for index in range(first, first + count)
    ]


def truthfulqa(count):
    return [
        {
            "question": _question(index),
            "mc1_targets": {"choices": _choices(index), "labels": [1, 0, 0, 0]},
            "mc2_targets": {"choices": _choices(index), "labels": [1, 1, 0, 0]},
        }
        for index in range(count)
    ]


def winogrande(count, first=0):
    return [
        {
            "sentence": f"{THINGS[index % 11]} or {THINGS[(index + 5) % 11]} in {index}: the _ {DOES[index % 7]}.",
            "option1": THINGS[index % 11],
            "option2": THINGS[(index + 5) % 11],
            "answer": str(1 + index % 2),
        }
        for index in range(first, first + count)
    ]


def gsm8k(count, first=0):
    return [
        {
            "question": f"{THINGS[index % 11]} costs ${index}. What do 1,000 cost?",
            "answer": f"It is 1000 * {index} = <<1000*{index}={1000 * index}>>{1000 * index}.\n#### {index},000",
        }
        for index in range(first, first + count)
    ]


def write(folder, subjects):
    """All six sets as the leaderboard's tasks need them; `subjects` are MMLU's."""
    files = {
        "arc_challenge/train": arc(40, 100),
        "arc_challenge/test": arc(8),
        "hellaswag/fewshot": hellaswag(12, 100),
        "hellaswag/validation": hellaswag(8),
        "mmlu/dev": mmlu(subjects, 5, 100),
        "mmlu/test": mmlu(subjects, 4),
        "truthfulqa/multiple_choice": truthfulqa(6),
        "winogrande/train_xl": winogrande(20, 100),
        "winogrande/validation": winogrande(8),
        "gsm8k/train": gsm8k(20, 100),
        "gsm8k/test": gsm8k(4),
    }
    for name, rows in files.items():
        path = folder / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def save_model(folder, *, context=4096, seed=0, hidden_size=32):
    """A random Llama of one layer and two heads with the shipped base's tokenizer, which puts BOS in front."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.model_max_length = context
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=context,
        initializer_range=0.4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
