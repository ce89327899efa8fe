"""`evaluate`: models times entries of a suite, each measured once and kept."""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dusk.checkpoint import installed_versions, open_checkpoint
from dusk.errors import DataError, Faults, InputError, SettingError
from dusk.evaluate.digest import digest_of, model_digest
from dusk.evaluate.items import EntryItems, ItemStore, joined, lot_name
from dusk.evaluate.loading import load_by_transformers, load_by_vllm, require_vllm
from dusk.evaluate.local_tasks import task_folder, write_local_task
from dusk.evaluate.naming import Models, model_folders, name_models
from dusk.evaluate.results import EvalReport, ModelScores, items_folder, load_report
from dusk.evaluate.side_by_side import Tell, can_fork, side_by_side
from dusk.evaluate.suites import Entry, load_suite, nearest

if TYPE_CHECKING:
    from dusk.evaluate.harness import LoadedTasks
    from dusk.evaluate.watched import WatchedModel

Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class _Work:
    """An entry ready to run: its harness tasks, how many items they have, and what decides its scores."""

    entry: Entry
    tasks: "LoadedTasks"
    items: int
    fingerprint: str


@dataclass(frozen=True)
class _Settings:
    """What decides scores besides the model and the tasks, and how the work is done."""

    limit: int | None
    device: str
    dtype: str
    batch_size: int | str | None
    apply_chat_template: bool
    fewshot_seed: int
    add_bos_token: bool | None
    backend: str | None

    def to_json(self) -> dict[str, Any]:
        """Those settings that decide scores."""
        names = ("limit", "dtype", "apply_chat_template", "fewshot_seed", "add_bos_token", "backend")
        return {name: getattr(self, name) for name in names}


def evaluate(
    models: Models,
    *,
    suite: str | Path,
    data: str | Path | Sequence[str | Path] | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    batch_size: int | str | None = None,
    device: str | None = None,
    dtype: str = "auto",
    backend: Literal["hf", "vllm"] | None = None,
    apply_chat_template: bool = False,
    threads: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> EvalReport:
    """Evaluate models on a suite through lm-evaluation-harness.

    Args:
        models: folders or hub ids; a mapping gives them other names than their folders'.
        suite: a suite of dusk's by name (`demo`, `openllm`, `h6`), a suite file, or a task of the harness.
        data: the folder, or folders, with the rows that tasks are made from: those of local tasks, and the data
            sets of the harness's own, which are read from the hub without it.
        limit: at most this many items of each task.
        out: the results file; items are kept in a folder beside it, and what they hold is not measured again.
            A file of the same suite and settings is extended by the models that it lacks.
        batch_size: sequences at a time, or "auto"; None suits the device.
        device: "cpu", "cuda", "cuda:1"; None takes the GPU where there is one.
        dtype: "auto" is float32 on a CPU and the checkpoint's elsewhere.
        backend: "vllm" where vLLM is installed; None is "hf", with prefixes computed once.
        apply_chat_template: ask in the tokenizer's chat template. Off, as on the leaderboard.
        threads: of torch, for this process; None leaves them.
        jobs: models at a time, each in a fork of this process; on a CPU alone.
        progress: called with items done, items in all, and "model: task".

    Raises:
        InputError: a model, suite, data file or setting is wrong; all models are looked at first.
        OutputError: the results cannot be written.
    """
    named = name_models(models)
    chosen = load_suite(suite)
    _check(limit, batch_size, jobs, backend)
    harness, model = _engine(threads)
    chosen = replace(chosen, tasks=tuple(replace(e, average=harness.average_of(e)) for e in chosen.tasks))
    from dusk.checkpoint.device import check_dtype, choose_device  # lazy: torch

    check_dtype(dtype)
    rows = _data_folders(data)
    settings = _Settings(
        limit,
        choose_device(device),
        dtype,
        batch_size,
        apply_chat_template,
        chosen.fewshot_seed,
        chosen.add_bos_token,
        None if backend == "hf" else backend,
    )
    versions = installed_versions("lm_eval", "torch", "transformers", *filter(None, [settings.backend]))
    report = EvalReport(chosen, settings.to_json(), versions)
    target = Path(out) if out is not None else None
    kept = _earlier_models(report, target)
    folders = model_folders(named, model.require_chat_template if apply_chat_template else open_checkpoint)
    with tempfile.TemporaryDirectory(prefix="dusk-eval-") as scratch:
        work = _prepare_all(chosen.tasks, rows, Path(scratch), settings, versions)
        jobs = min(jobs, len(folders)) if settings.device == "cpu" and can_fork() else 1
        tell = _Teller(progress, sum(each.items for each in work) * len(folders))

        def measure(name: str, told: Tell) -> ModelScores:
            if jobs > 1:
                _engine(threads or 1)  # more threads may hang in a fork of a process that has used them
            return _evaluate_model(
                name, str(named[name]), folders[name], work, settings, out=target, tell=told
            )

        if jobs > 1:
            report.models = list(side_by_side(list(folders), measure, jobs=jobs, tell=tell))
        else:
            report.models = [measure(name, tell) for name in folders]
    if target is not None:
        report.models = _merged(kept, report.models)
        report.write(target)
    return report


def _check(limit: int | None, batch_size: int | str | None, jobs: int, backend: str | None) -> None:
    if limit is not None and limit <= 0:
        raise SettingError(
            f"limit {limit}: at least one item is needed", remedy="Leave it out for all items."
        )
    if batch_size not in (None, "auto") and not (isinstance(batch_size, int) and batch_size >= 1):
        raise SettingError(f"batch_size {batch_size}: a number of at least 1, or auto")
    if backend not in (None, "hf", "vllm"):
        raise SettingError(f"backend {backend}: there are hf and vllm")
    if backend == "vllm" and jobs > 1:
        raise SettingError("backend vllm: takes one model at a time", remedy="Leave --jobs out.")
    if backend == "vllm":
        require_vllm()
    if jobs < 1:
        raise SettingError(f"jobs {jobs}: at least one model is evaluated at a time")


def _engine(threads: int | None) -> tuple[Any, Any]:
    """The modules that need torch and the harness, imported here so that wrong input is told without them."""
    try:
        from dusk.evaluate import harness, model
    except ModuleNotFoundError as error:
        raise InputError(
            f"evaluation needs {error.name}, which is not installed", remedy="Install `dusk[eval]`."
        ) from error
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return harness, model


def _prepare_all(
    entries: Sequence[Entry],
    data: list[Path],
    scratch: Path,
    settings: _Settings,
    versions: dict[str, str],
) -> list[_Work]:
    """Every entry ready to run; if data are missing, all that are missing are told at once."""
    work, missing = [], Faults(DataError)
    for entry in entries:
        with missing:
            work.append(_prepare(entry, data, scratch, settings, versions))
    missing.raise_any(f"data are missing for {len(missing)} of {len(entries)} tasks")
    return work


def _prepare(
    entry: Entry, data: list[Path], scratch: Path, settings: _Settings, versions: dict[str, str]
) -> _Work:
    harness, _ = _engine(None)
    folder, local, made_from = None, None, ""
    if entry.local is not None:
        written = write_local_task(entry, data, scratch / re.sub(r"\W", "_", entry.task))
        folder, made_from = written.folder, written.digest
    else:
        folder = task_folder(entry)
        local = harness.LocalDatasets(data) if data else None
    tasks = harness.load_tasks(entry, folder, settings.fewshot_seed, local)
    if local is not None:
        made_from = local.digest
    kind = settings.device.partition(":")[0]
    decided_by = [entry.to_json(), settings.to_json(), kind, versions, made_from]
    return _Work(entry, tasks, tasks.count_items(settings.limit), digest_of(decided_by))


def _data_folders(data: Any) -> list[Path]:
    given = [] if data is None else [data] if isinstance(data, str | Path) else list(data)
    folders = [Path(folder) for folder in given]
    absent = [f"{folder} is not a folder" for folder in folders if not folder.is_dir()]
    if absent:
        raise DataError(
            "the data cannot be read", problems=absent, remedy="Give --data folders that are there."
        )
    return folders


def _evaluate_model(
    name: str,
    given: str,
    folder: Path,
    work: Sequence[_Work],
    settings: _Settings,
    *,
    out: Path | None,
    tell: Tell,
) -> ModelScores:
    """All entries of one model: taken from its items file, or measured and added to it."""
    digest = model_digest(folder)
    stem = re.sub(r"[^\w.-]", "_", name)
    file = items_folder(out) / f"{stem}-{digest}.jsonl.gz" if out else None
    store = ItemStore(file)
    entries: dict[str, EntryItems] = {}
    with ExitStack() as until_measured:
        loaded: WatchedModel | None = None
        for each in work:
            label = f"{name}: {each.entry.task}"
            found = store.get(each.entry.task, each.fingerprint)
            if found is None:
                if loaded is None:
                    loaded = _load(folder, settings)
                    until_measured.callback(loaded.release)
                found = _measure(loaded, each, settings, store, partial(tell, label))
                _check_columns(each.entry, found)
                store.put(found)
            entries[each.entry.task] = found
            tell(label, each.items)
    return ModelScores(name, given, digest, entries, file)


def _load(folder: Path, settings: _Settings) -> "WatchedModel":
    load = load_by_vllm if settings.backend == "vllm" else load_by_transformers
    return load(
        folder,
        device=settings.device,
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        add_bos_token=settings.add_bos_token,
    )


def _measure(
    loaded: "WatchedModel", work: _Work, settings: _Settings, store: ItemStore, tell: Callable[[float], None]
) -> EntryItems:
    """An entry's tasks in lots, each kept when it is done, if there are several; `tell` gets the items done."""
    harness, _ = _engine(None)
    lots = work.tasks.lots(settings.limit)
    found: list[EntryItems] = []
    done = 0
    for number, lot in enumerate(lots, start=1):
        size, name = lot.count_items(settings.limit), lot_name(work.entry.task, number)
        kept = store.get(name, work.fingerprint)
        if kept is None:
            kept = _run(loaded, work, lot, settings, partial(_tell_share, tell, done, size))
            if len(lots) > 1:
                store.put(replace(kept, entry=name))
        found.append(kept)
        done += size
    whole = joined(work.entry.task, found)
    whole.notes = harness.notes_of(whole, work.tasks, loaded)
    return whole


def _tell_share(tell: Callable[[float], None], before: int, items: int, share: float) -> None:
    tell(before + share * items)


def _run(
    loaded: "WatchedModel",
    work: _Work,
    lot: "LoadedTasks",
    settings: _Settings,
    on_share: Callable[[float], None],
) -> EntryItems:
    harness, _ = _engine(None)
    items: EntryItems = harness.run_tasks(
        loaded,
        lot,
        entry=work.entry,
        fingerprint=work.fingerprint,
        limit=settings.limit,
        apply_chat_template=settings.apply_chat_template,
        fewshot_seed=settings.fewshot_seed,
        on_share=on_share,
    )
    return items


def _earlier_models(report: EvalReport, out: Path | None) -> list[ModelScores]:
    """The models of an existing results file; raises `SettingError` if it is of another suite or settings."""
    if out is None or not out.exists():
        return []
    earlier = load_report(out)
    problems = [
        f"{what}: {_brief(then)} there, {_brief(now)} now"
        for what, then, now in (
            ("suite", earlier.suite.suite, report.suite.suite),
            ("tasks", *([entry.to_json() for entry in each.suite.tasks] for each in (earlier, report))),
            *((name, earlier.settings.get(name), value) for name, value in report.settings.items()),
            *((name, earlier.versions.get(name), value) for name, value in report.versions.items()),
        )
        if then != now
    ]
    if problems:
        raise SettingError(
            f"{out} holds results that these cannot stand beside",
            problems=problems,
            remedy="Choose another --out.",
        )
    return earlier.models


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"other ({digest_of(value)[:8]})"


def _merged(earlier: Sequence[ModelScores], now: Sequence[ModelScores]) -> list[ModelScores]:
    """Earlier models in their places, replaced where measured again, and the new ones behind them."""
    again = {model.name: model for model in now}
    return [again.pop(model.name, model) for model in earlier] + list(again.values())


def _check_columns(entry: Entry, found: EntryItems) -> None:
    """Every column that the suite names must be a metric that the task has."""
    known = [*found.metrics, *(metric for metrics in found.whole.values() for metric in metrics)]
    problems = [
        f"column {label}: there is no metric {metric!r}. {nearest(metric, known)} There is {', '.join(known)}."
        for label, metric in entry.columns.items()
        if metric.partition("/")[0] not in known
    ]
    if problems:
        raise SettingError(f"task {entry.task}: its columns do not fit it", problems=problems)


class _Teller:
    """Turns what each model's entry has done into items done in all."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress = progress or (lambda done, total, label: None)
        self.total = total
        self.done: dict[str, float] = {}

    def __call__(self, label: str, done: float) -> None:
        """So many items of the entry of this label are done."""
        self.done[label] = done
        self.progress(sum(self.done.values()), self.total, label)
