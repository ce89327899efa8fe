"""`contamination`: a model against its reference, task by task."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dusk.checkpoint import open_checkpoint
from dusk.data.overlap import overlapping
from dusk.errors import SettingError
from dusk.evaluate.contamination.items import task_files, texts_of, training_texts
from dusk.evaluate.contamination.neighbours import Neighbours
from dusk.evaluate.contamination.statistics import min_k, share_below
from dusk.evaluate.naming import model_folders

if TYPE_CHECKING:
    from dusk.evaluate.contamination.language import Language

LOW = 0.1
LIKELY = 0.9
"""SOLAR's threshold (appendix C); the tool's own README says 0.85."""

Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class TaskResult:
    """What the tests say of one benchmark.

    Attributes:
        task: what tables call it.
        items: how many were tested.
        result: the share of items whose share of likelier neighbours is under 0.1; above 0.9 is likely seen.
        likely: whether it is above 0.9.
        min_k: the mean over items of Min-K% Prob under the model, in nats.
        min_k_above: the share of items with more of it than under the reference; None where tokens differ.
        overlap: the share of items with 13 words in a row that stand in the training data; None without these.
        shares: of each item the share of neighbours that the model finds likelier than it.
        min_k_scores: of each item Min-K% Prob under the model.
        min_k_reference: of each item Min-K% Prob under the reference; None where tokens differ.
    """

    task: str
    items: int
    result: float
    likely: bool
    min_k: float
    min_k_above: float | None
    overlap: float | None
    shares: list[float]
    min_k_scores: list[float]
    min_k_reference: list[float] | None


@dataclass(frozen=True)
class ContaminationReport:
    """The results of all tasks, and how they were made."""

    model: str
    reference: str
    settings: dict[str, Any]
    tasks: list[TaskResult]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def contamination(
    model: str | Path,
    *,
    reference: str | Path,
    task: str | Sequence[str],
    data: str | Path | None = None,
    train: Sequence[str | Path] = (),
    items: int = 100,
    samples: int = 100,
    seed: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    out: str | Path | None = None,
    neighbours: str | Path | None = None,
    progress: Progress | None = None,
) -> ContaminationReport:
    """Test whether benchmarks are in a model's training data.

    The neighbourhood test of swj0419/detect-pretrain-code-contamination (commit 616114e), which SOLAR's Table 9 is
    made with: the reference continues the first 40 % of an item's words so many times; the item is taken for seen
    if the model finds fewer than a tenth of these texts likelier than the item. Beside it Min-K% Prob (Shi et al.
    2023) and, with `train`, overlap by runs of 13 words. The test compares a model with what the reference would
    write: what the reference has seen too does not show.

    Args:
        model: folder or hub id of the model that is tested.
        reference: the model that neighbours are drawn from, such as the one that `model` was tuned from.
        task: arc, hellaswag, mmlu, truthfulqa, winogrande, gsm8k, or files of rows with questions and answers.
        data: the folder with the benchmarks by name.
        train: files of the training data, for overlap by words.
        items: items of each task, drawn by the seed.
        samples: neighbours of each item.
        seed: of items and neighbours.
        device: "cpu", "cuda", "cuda:1"; None takes the GPU where there is one.
        dtype: "auto" is float32 on a CPU and the checkpoint's elsewhere.
        out: a JSON file for the results.
        neighbours: a file that keeps what the reference wrote, so that it is not drawn again for another model or
            by a run that was stopped [`NAME.neighbours.jsonl` beside `out`].
        progress: called with items done, items in all, and the task.

    Raises:
        DataError: a task that is not known, has no rows, or too few.
        SettingError: a number out of its range.
        CheckpointError: a model that cannot be loaded.
    """
    if items < 1 or samples < 1:
        raise SettingError(f"items is {items} and samples is {samples}; both are numbers from 1.")
    names = [task] if isinstance(task, str) else list(task)
    if not names:
        raise SettingError("there is no task to test", remedy="Name one with --task.")
    files = task_files(names, Path(data) if data is not None else None)
    texts = {label: texts_of(label, file, items=items, seed=seed) for label, file in files}
    trained = training_texts(train)
    target, drawing = _models(model, reference, device, dtype)
    alike = _same_tokens(target, drawing)
    beside = None if out is None else Path(out).with_name(f"{Path(out).stem}.neighbours.jsonl")
    kept = Path(neighbours) if neighbours is not None else beside
    results = []
    with closing(Neighbours(drawing, samples, kept)) as drawn:
        for number, (label, chosen) in enumerate(texts.items()):
            shares = []
            for place, (text, loss) in enumerate(zip(chosen, target.losses(chosen), strict=True)):
                shares.append(share_below(loss, target.losses(drawn.of(text, seed=seed + place))))
                if progress is not None:
                    progress(number * items + place + 1, len(texts) * items, label)
            own = [min_k(logs) for logs in target.log_probabilities(chosen)]
            others = [min_k(logs) for logs in drawing.log_probabilities(chosen)] if alike else None
            results.append(_result(label, chosen, shares, own, others, trained))
    settings = {"items": items, "samples": samples, "seed": seed, "low": LOW, "likely": LIKELY, "words": 13}
    notes = [] if alike else ["the models have different tokens: Min-K% is not compared with the reference's"]
    report = ContaminationReport(str(model), str(reference), settings, results, notes)
    if out is not None:
        Path(out).write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    return report


def _models(
    model: str | Path, reference: str | Path, device: str | None, dtype: str
) -> tuple["Language", "Language"]:
    from dusk.checkpoint.device import check_dtype, choose_device  # lazy: torch
    from dusk.evaluate.contamination.language import Language

    chosen = choose_device(device)
    check_dtype(dtype)
    folders = model_folders({"model": model, "reference": reference}, open_checkpoint)
    target, drawing = (Language(folder, device=chosen, dtype=dtype) for folder in folders.values())
    return target, drawing


def _same_tokens(target: "Language", drawing: "Language") -> bool:
    same: bool = target.tokenizer.get_vocab() == drawing.tokenizer.get_vocab()
    return same


def _result(
    label: str,
    texts: Sequence[str],
    shares: list[float],
    own: list[float],
    others: list[float] | None,
    trained: Sequence[str],
) -> TaskResult:
    result = sum(share < LOW for share in shares) / len(shares)
    above = None if others is None else sum(a > b for a, b in zip(own, others, strict=True)) / len(own)
    overlap = sum(overlapping(texts, trained)) / len(texts) if trained else None
    mean = sum(own) / len(own)
    return TaskResult(label, len(texts), result, result > LIKELY, mean, above, overlap, shares, own, others)
