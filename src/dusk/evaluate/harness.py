"""The seam to lm-evaluation-harness: its tasks by name or file, one run of some of them, and its items.

What is computed, request by request, is the harness's own; this file keeps it quiet and off the network where
the data are local, and reads its samples into items.
"""

import functools
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import lm_eval.api.task
import lm_eval.models.huggingface
import torch
import transformers
from lm_eval.api.metrics import bits_per_byte, mean
from lm_eval.evaluator import evaluate as run_harness
from lm_eval.tasks import TaskManager

from dusk.errors import DataError, SettingError, WorkError
from dusk.evaluate.items import EntryItems, Item
from dusk.evaluate.local_datasets import LocalDatasets
from dusk.evaluate.needs import missing_package, require_word_lists
from dusk.evaluate.suites import Entry, unknown_task
from dusk.evaluate.watched import WatchedModel

_LOGGERS = ("lm_eval", "datasets", "transformers", "accelerate", "huggingface_hub", "vllm")
_LETTERS = 16  # of a digest

LOT_ITEMS = 500
"""What is kept at a time of a group of tasks: small ones together, since a larger batch costs less an item."""


@dataclass(frozen=True)
class LoadedTasks:
    """The harness's tasks of an entry by name, and what differs from what the entry asks for."""

    tasks: dict[str, Any]
    notes: list[str]

    def lots(self, limit: int | None) -> list["LoadedTasks"]:
        """The tasks in their order, in lots of `LOT_ITEMS` items or more (the last has what is left)."""
        lots: list[dict[str, Any]] = [{}]
        items = 0
        for name, task in self.tasks.items():
            if items >= LOT_ITEMS:
                lots.append({})
                items = 0
            lots[-1][name] = task
            items += _count(task, limit)
        return [LoadedTasks(lot, []) for lot in lots]

    def count_items(self, limit: int | None) -> int:
        """How many items the tasks have, each cut to the limit."""
        return sum(_count(task, limit) for task in self.tasks.values())


def _count(task: Any, limit: int | None) -> int:
    return min(len(task.task_docs), limit or len(task.task_docs))


def load_tasks(
    entry: Entry, folder: Path | None, fewshot_seed: int, local: LocalDatasets | None = None
) -> LoadedTasks:
    """The tasks of an entry: from the task files in `folder`, or the harness's own.

    Their data come from `local`, or where it is None from the hub.

    Raises:
        SettingError: the harness has no such task.
        DataError: its data are neither on this machine nor to be had from the hub.
        InputError: it needs a package that is not installed, or data of nltk's.
    """
    with quiet(offline=local is not None or entry.local is not None), _data_from(local):
        manager = _manager(folder)
        index = manager.task_index
        if entry.task not in index:
            raise unknown_task(entry.task, index)
        name = _register(entry, index)
        with _loading_told(entry):
            tasks: dict[str, Any] = manager.load([name])["tasks"]
        require_word_lists(tasks)
        notes = [note for task in tasks.values() if (note := _fit_shots(task))]
        for task in tasks.values():
            task.set_fewshot_seed(seed=fewshot_seed)
    return LoadedTasks(tasks, notes)


def average_of(entry: Entry) -> str:
    """How an entry's tasks come to one score: `tasks` or `items`; of `group`, as the harness's group says."""
    if entry.average != "group":
        return entry.average
    found = _own_tasks().task_index.get(entry.task)
    told = (found.cfg or {}).get("aggregate_metric_list") if found is not None else None
    rows = [told] if isinstance(told, dict) else told or []
    return "items" if any(row.get("weight_by_size", True) for row in rows) else "tasks"


@contextmanager
def _loading_told(entry: Entry) -> Iterator[None]:
    """What may go wrong while a task is made, as errors of ours that name it."""
    try:
        yield
    except (OSError, datasets.exceptions.DatasetsError, ValueError) as error:
        raise DataError(
            f"task {entry.task}: its data could not be loaded: {error}",
            remedy="The harness's own tasks read their data from the hub, or with --data from a folder; see "
            "docs/evaluation.md.",
        ) from error
    except DataError as error:
        raise DataError(
            f"task {entry.task}: {error.message}", problems=error.problems, remedy=error.remedy
        ) from error
    except ImportError as error:
        raise missing_package(entry.task, error.name or str(error)) from error


@contextmanager
def _data_from(local: LocalDatasets | None) -> Iterator[None]:
    """Have every task read its data from the local folders."""
    if local is None:
        yield
        return
    with _replaced(datasets, "load_dataset", local.load), _no_download_of_nltk():
        yield


@contextmanager
def _no_download_of_nltk() -> Iterator[None]:
    """IFEval fetches nltk's data when it is imported, but on the first rank alone: here there is none."""
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "1"
    try:
        yield
    finally:
        del os.environ["LOCAL_RANK"]
        os.environ.update({} if before is None else {"LOCAL_RANK": before})


def _fit_shots(task: Any) -> str | None:
    """Give a task no more shots than its data have; what was done, if anything."""
    wanted = task.get_config("num_fewshot") or 0
    there = len(task.sampler.df) if wanted and hasattr(task, "sampler") else wanted
    task.set_config(key="num_fewshot", value=min(wanted, there))
    if there >= wanted:
        return None
    return f"{task.task_name}: {there} shots, all that the data have; the suite asks for {wanted}"


def _register(entry: Entry, index: dict[str, Any]) -> str:
    """Add the entry to the harness's index as a group: the form in which it lets settings be overridden."""
    overrides = dict(entry.settings)
    if entry.num_fewshot is not None:
        overrides["num_fewshot"] = entry.num_fewshot
    found = index[entry.task]
    kinds = type(found.kind)
    if found.kind is kinds.TAG:
        members = [{"task": name, **overrides} for name in sorted(found.tags)]
    else:
        members = [{"group" if found.kind is kinds.GROUP else "task": entry.task, **overrides}]
    name = f"dusk {entry.task}"
    group = {"group": name, "task": members}
    index[name] = replace(found, name=name, kind=kinds.GROUP, yaml_path=None, tags=set(), cfg=group)
    return name


@functools.cache
def _own_tasks() -> Any:
    return TaskManager()  # reads the harness's 14,000 task files: eight seconds, once a process


def _manager(folder: Path | None) -> Any:
    return _own_tasks() if folder is None else TaskManager(include_path=str(folder), include_defaults=False)


def run_tasks(
    model: WatchedModel,
    loaded: LoadedTasks,
    *,
    entry: Entry,
    fingerprint: str,
    limit: int | None,
    apply_chat_template: bool,
    fewshot_seed: int,
    on_share: Callable[[float], None],
) -> EntryItems:
    """Run the tasks on the model in one go; `on_share` gets the share of the requests that is done.

    The items have no notes: `notes_of` makes them for a whole entry.
    """
    tasks = loaded.tasks
    done = 0

    def on_request() -> None:
        nonlocal done
        done += 1
        on_share(min(1.0, done / max(1, sum(len(task.instances) for task in tasks.values()))))

    model.on_request = on_request
    model.cut = set()
    with quiet(offline=entry.local is not None), _told(entry, model):
        for task in tasks.values():
            task.set_fewshot_seed(seed=fewshot_seed)  # every model gets the same shots
        results = run_harness(
            lm=model,
            task_dict={"tasks": tasks, "groups": {}},
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=apply_chat_template,
        )
    items = _entry_items(entry, fingerprint, tasks, results)
    items.cut = len(model.cut)
    return items


def notes_of(measured: EntryItems, loaded: LoadedTasks, model: WatchedModel) -> list[str]:
    """What was unlike the suite, and how many prompts the harness cut, which it does silently."""
    if not measured.cut:
        return loaded.notes
    cut = (
        f"{measured.entry}: the prompts of {measured.cut} of {len(measured.items)} items do not fit the context "
        f"of {model.max_length} tokens and were cut from the left"
    )
    return [*loaded.notes, cut]


@contextmanager
def _told(entry: Entry, model: WatchedModel) -> Iterator[None]:
    """What the harness asserts about a model, and memory that ran out, as errors of ours."""
    try:
        yield
    except AssertionError as error:
        raise SettingError(
            f"task {entry.task}: does not fit this model, whose context is {model.max_length} tokens: {error}"
        ) from error
    except torch.OutOfMemoryError as error:
        raise WorkError(
            f"task {entry.task}: out of memory on {model.device}", remedy="Give a smaller --batch-size."
        ) from error


def _entry_items(
    entry: Entry, fingerprint: str, tasks: dict[str, Any], results: dict[str, Any]
) -> EntryItems:
    read = EntryItems(entry.task, fingerprint, {}, {}, [])
    for name, task in tasks.items():
        aggregations = task.aggregation()
        samples = results["samples"][name]
        read.versions[name] = str(results["versions"].get(name))
        read.items += _items(name, samples, aggregations, entry.breakdown)
        higher = task.higher_is_better()
        for label in dict.fromkeys(_label(m, s["filter"]) for s in samples for m in s["metrics"]):
            metric = label.split(",")[0]
            read.higher_is_better[label] = bool(higher.get(metric, True))
            if not _is_mean(aggregations.get(metric, mean)):
                value = results["results"][name].get(label if "," in label else f"{label},none")
                read.whole.setdefault(name, {})[label] = float(value)
    return read


def _is_mean(aggregation: Any) -> bool:
    """Whether a score is a weighted mean over its items."""
    return aggregation in (mean, bits_per_byte)


def _label(metric: str, filter_name: str) -> str:
    """The metric's name; with the filter's where it has one, as the harness writes them."""
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def _items(
    task: str, samples: list[dict[str, Any]], aggregations: dict[str, Any], part: str | None
) -> list[Item]:
    """One item for every document, with the metrics of all filters."""
    items: dict[int, Item] = {}
    for sample in samples:
        number = sample["doc_id"]
        if number not in items:
            where = str(sample["doc"][part]) if part else None
            items[number] = Item(task, number, sample["doc_hash"][:_LETTERS], {}, {}, where, _output(sample))
        for metric in sample["metrics"]:
            aggregation = aggregations.get(metric, mean)
            label = _label(metric, sample["filter"])
            if aggregation is bits_per_byte:
                log_likelihood, size = sample[metric]
                items[number].values[label] = -log_likelihood / size / math.log(2)
                items[number].weights[label] = float(size)
            elif aggregation is mean:
                items[number].values[label] = float(sample[metric])
    return list(items.values())


def _output(sample: dict[str, Any]) -> Any:
    """What the model answered to each request: text, or a log-likelihood in nats."""
    answers = [answers[0] for answers in sample["resps"]]
    kept = [answer[0] if isinstance(answer, tuple | list) else answer for answer in answers]
    return kept[0] if len(kept) == 1 else kept


@contextmanager
def quiet(*, offline: bool) -> Iterator[None]:
    """No logs, bars, prints or warnings of the libraries; `offline`, also no question to the hub."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.enter_context(_replaced(lm_eval.api.task, "tqdm", lambda items, **_: items))
        stack.enter_context(_replaced(lm_eval.models.huggingface, "print", lambda *_: None))
        if offline:
            stack.enter_context(_replaced(huggingface_hub.constants, "HF_HUB_OFFLINE", True))
            stack.enter_context(_replaced(datasets.config, "HF_HUB_OFFLINE", True))
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            datasets.enable_progress_bars()
            if bars:
                transformers.utils.logging.enable_progress_bar()


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Another value under a module's name for a while: for what the harness gives no option for."""
    own = name in vars(module)
    before = vars(module).get(name)
    setattr(module, name, value)
    try:
        yield
    finally:
        if own:
            setattr(module, name, before)
        else:
            delattr(module, name)
