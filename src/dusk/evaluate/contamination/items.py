"""The texts that are tested: items of a benchmark, each the question, a blank and the right answer."""

import random
from collections.abc import Sequence
from pathlib import Path

from dusk.data.benchmarks import read_benchmark, row_texts
from dusk.data.files import SUFFIXES
from dusk.data.readers import read_rows
from dusk.errors import DataError, Faults
from dusk.evaluate.suites import nearest

TASKS = {
    "arc": ("ARC", "arc_challenge", ("test",)),
    "hellaswag": ("HellaSwag", "hellaswag", ("validation",)),
    "mmlu": ("MMLU", "mmlu", ("test",)),
    "truthfulqa": ("TruthfulQA", "truthfulqa", ("multiple_choice", "validation")),
    "winogrande": ("Winogrande", "winogrande", ("validation",)),
    "gsm8k": ("GSM8K", "gsm8k", ("test",)),
}
"""A benchmark's name → what tables call it, its folder in --data, and the file of the split that is tested."""

_LEAST_WORDS = 3  # a shorter text has nothing to continue


def task_files(tasks: Sequence[str], data: Path | None) -> list[tuple[str, Path]]:
    """What each task is called, and its file; raises DataError with every task that has none."""
    found, faults = [], Faults(DataError)
    for task in tasks:
        with faults:
            found.append(task_file(task, data))
    faults.raise_any(f"{len(faults)} of {len(tasks)} tasks cannot be tested")
    return found


def task_file(task: str, data: Path | None) -> tuple[str, Path]:
    """What a task is called, and the file of its items; raises DataError with where to put it."""
    if Path(task).is_file():
        return Path(task).name.split(".")[0], Path(task)
    if task.lower() not in TASKS:
        remedy = f"{nearest(task.lower(), TASKS)} There are {', '.join(TASKS)}, and files of rows.".strip()
        raise DataError(f"task {task}: no benchmark of that name, and no file.", remedy=remedy)
    label, folder, splits = TASKS[task.lower()]
    wanted = f"{folder}/{splits[0]}.jsonl"
    if data is None:
        raise DataError(f"task {task}: its rows are needed.", remedy=f"Give --data DIR with {wanted}.")
    for split in splits:
        for suffix in SUFFIXES:
            file = data / folder / f"{split}{suffix}"
            if file.is_file():
                return label, file
    raise DataError(
        f"task {task}: {data / wanted} is missing.",
        remedy=f"Put the split there as {wanted} (.gz, .zst and .parquet are read too).",
    )


def texts_of(task: str, file: Path, *, items: int, seed: int) -> list[str]:
    """So many texts of a benchmark, drawn by the seed; raises DataError where it has fewer."""
    texts = [item.text for item in read_benchmark(file) if len(item.text.split()) >= _LEAST_WORDS]
    if len(texts) < items:
        raise DataError(
            f"task {task}: {file} has {len(texts)} items of {_LEAST_WORDS} words or more; {items} are needed.",
            remedy=f"Give --items {len(texts)} at most, or more rows.",
        )
    random.Random(seed).shuffle(texts)
    return texts[:items]


def training_texts(files: Sequence[str | Path]) -> list[str]:
    """The texts of rows of training."""
    found = []
    for file in files:
        for row in read_rows(Path(file)):
            try:
                asked, answered = row_texts(row.fields)
            except (KeyError, TypeError, AssertionError):
                raise DataError(
                    f"{row.file}:{row.line}: no row of training (text, messages, prompt)."
                ) from None
            found.append(f"{asked} {answered}".strip())
    return found
