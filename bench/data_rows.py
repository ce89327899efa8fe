"""Instruction rows for benches: those of the sets in DUSK_TEST_DATA, repeated with seeded edits."""

import gzip
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

SETS = (
    "alpaca_gpt4_sample/train",
    "gpteacher/codegen",
    "gpteacher/roleplay",
    "dolly_hhrlhf_sample/train",
    "math_word_problems/train",
    "math_word_problems/overlaps_gsm8k_test",
    "flan_style/train",
)
BENCHMARKS = (
    "arc_challenge/test",
    "hellaswag/validation",
    "mmlu/test",
    "truthfulqa/multiple_choice",
    "winogrande/validation",
    "gsm8k/test",
)
_WORDS_AN_EDIT = 25


def data_folder() -> Path:
    """The sets; raises RuntimeError where there are none."""
    folder = Path(os.environ.get("DUSK_TEST_DATA", "absent"))
    if not folder.is_dir():
        raise RuntimeError("DUSK_TEST_DATA names no folder of data sets")
    return folder


def benchmarks() -> list[Path]:
    """The H6 sets."""
    return [data_folder() / f"{name}.jsonl.gz" for name in BENCHMARKS]


def write_rows(file: Path, count: int) -> None:
    """So many rows {"prompt", "completion"}; from the second round on one word in 25 is another."""
    real = list(_real())
    draw = random.Random(0)
    words = sorted({word for texts in real[:3000] for text in texts for word in text.split()})

    def edited(text: str) -> str:
        parts = text.split(" ")
        for _ in range(max(1, len(parts) // _WORDS_AN_EDIT)):
            parts[draw.randrange(len(parts))] = draw.choice(words)
        return " ".join(parts)

    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            texts = real[number % len(real)]
            prompt, completion = texts if number < len(real) else map(edited, texts)
            out.write(json.dumps({"prompt": prompt, "completion": completion, "id": number}) + "\n")


def _real() -> Iterator[tuple[str, str]]:
    for name in SETS:
        with gzip.open(data_folder() / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                prompt = row.get("question") or f"{row['instruction']}\n\n{row['input']}".strip()
                completion = row.get("response") or row.get("output", "")
                if prompt.strip() and completion.strip():
                    yield prompt, completion
