"""Run folders with known numbers, for the tests of the report."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dusk.evaluate.items import EntryItems, Item, ItemStore
from dusk.evaluate.judged import Grade, JudgedReport
from dusk.evaluate.results import EvalReport, ModelScores
from dusk.evaluate.suites import Entry, Suite
from dusk.layers import LayerMap
from dusk.report import report

BASE_LEVEL = 2.4
# the scaled model passes 2.4 in the middle between 400k and 800k tokens: at 600k
RECOVERY = ((0, 2.5), (400_000, 2.42), (800_000, 2.38), (1_200_000, 2.34), (1_600_000, 2.3))
SAME_TOKENS = ((0, 2.4), (400_000, 2.38), (800_000, 2.36), (1_200_000, 2.345), (1_600_000, 2.32))
SAME_COMPUTE = ((0, 2.4), (800_000, 2.36), (1_600_000, 2.33), (2_080_000, 2.3))
BASE_PARAMETERS, SCALED_PARAMETERS = 570_000, 724_000

SUITE = Suite(
    "small",
    (
        Entry("heldout", {"Held-out bits/byte": "bits_per_byte"}),
        Entry("choice", {"Choice": "acc"}),
        Entry("sums", {"Sums": "exact_match"}),
    ),
    mean={"Mean": ["Choice", "Sums"]},
)


@dataclass
class FakeStage:
    """A stage to be written."""

    name: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    uses: tuple[str, ...] = ()
    curve: Sequence[tuple[int, float]] = ()
    layers: int | None = 12
    parameters: int | None = SCALED_PARAMETERS
    layer_map: LayerMap | None = None
    results: dict[str, Any] = field(default_factory=dict)
    status: str = "done"
    sdpo: bool = False


def whole_run() -> list[FakeStage]:
    """The demo in small: a base and its decayed form, recovery, controls, tuning, alignment, merges."""
    small = {"layers": 8, "parameters": BASE_PARAMETERS}
    after = ("recovered",)
    return [
        FakeStage("constant", "model", {"path": "dusk:constant"}, **small),
        FakeStage("decayed", "model", {"path": "dusk:decayed"}, results={"bits_per_byte": 2.37}, **small),
        FakeStage("docs", "documentation", layers=None, parameters=None),
        FakeStage(
            "scaled", "scale", {"base": "constant", "drop": 2}, ("constant",), layer_map=LayerMap.depthwise(8)
        ),
        _pretrain("recovered", "scaled", RECOVERY),
        _pretrain("base_same_tokens", "constant", SAME_TOKENS, **small),
        _pretrain("base_same_compute", "constant", SAME_COMPUTE, **small),
        FakeStage("sft_v3", "sft", {"model": "recovered"}, after, results={"tokens": 300_000}),
        FakeStage("sft_v4", "sft", {"model": "recovered"}, after, results={"tokens": 260_000}),
        FakeStage("sft_average", "merge", {"models": ["sft_v3", "sft_v4"]}, ("sft_v3", "sft_v4")),
        FakeStage("candidate_1", "align", {"model": "sft_v3"}, ("sft_v3",), sdpo=True),
        FakeStage("candidate_2", "align", {"model": "sft_average"}, ("sft_average",), sdpo=True),
        FakeStage(
            "merge_average",
            "merge",
            {"models": ["candidate_1", "candidate_2"]},
            ("candidate_1", "candidate_2"),
        ),
        FakeStage(
            "merge_slerp", "merge", {"models": ["candidate_1", "candidate_2"]}, ("candidate_1", "candidate_2")
        ),
        FakeStage(
            "scores", "evaluate", {"models": list(SCORES)}, tuple(SCORES), layers=None, parameters=None
        ),
    ]


def _pretrain(name: str, model: str, curve: Sequence[tuple[int, float]], **size: Any) -> FakeStage:
    settings = {"model": model, "data": ["docs/continue.jsonl"], "eval_data": ["docs/heldout.jsonl"]}
    return FakeStage(name, "pretrain", settings, (model, "docs"), curve, **size)


# of each model: held-out bits a byte less those of the recovered one, share of choices and sums that are right
SCORES: dict[str, tuple[float, float, float]] = {
    "constant": (0.1, 0.30, 0.10),
    "decayed": (0.07, 0.32, 0.10),
    "scaled": (0.2, 0.25, 0.05),
    "recovered": (0.0, 0.40, 0.10),
    "base_same_tokens": (0.02, 0.36, 0.10),
    "base_same_compute": (0.0, 0.38, 0.10),
    "sft_v3": (0.01, 0.45, 0.30),
    "sft_v4": (0.012, 0.46, 0.40),
    "sft_average": (0.011, 0.47, 0.40),
    "candidate_1": (0.03, 0.50, 0.55),
    "candidate_2": (0.028, 0.52, 0.50),
    "merge_average": (0.02, 0.54, 0.60),
    "merge_slerp": (0.021, 0.53, 0.60),
}


def write_run(folder: Path, stages: Sequence[FakeStage], **facts: Any) -> Path:
    """Write run.json and every stage's folder."""
    folder.mkdir(parents=True)
    rows = [_write_stage(folder, stage, place) for place, stage in enumerate(stages)]
    content = {
        "dusk": "0.1.0", "name": "small", "seed": 7, "jobs": 2, "threads": 1, "seconds": 212.0,
        **facts, "stages": rows,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content))
    (folder / "recipe.yaml").write_text("name: small\nseed: 7\nstages: {}\n")
    return folder


def _write_stage(run: Path, stage: FakeStage, place: int) -> dict[str, Any]:
    if stage.status != "done":
        return {
            "name": stage.name, "kind": stage.kind, "status": stage.status, "uses": list(stage.uses),
            "settings": stage.settings, "fingerprint": "0" * 64, "results": {}, "folder": stage.name,
        }  # fmt: skip
    folder = run / stage.name
    folder.mkdir()
    results = {**_results(stage, place), **stage.results}
    manifest = {
        "dusk": "0.1.0", "command": stage.kind, "inputs": [], "settings": {}, "results": results,
        "versions": {"dusk": "0.1.0", "torch": "2.13.0"},
        "layer_map": stage.layer_map.to_json() if stage.layer_map else None,
    }  # fmt: skip
    (folder / "dusk.json").write_text(json.dumps(manifest))
    if stage.layers:
        (folder / "config.json").write_text(
            json.dumps({"num_hidden_layers": stage.layers, "tie_word_embeddings": True})
        )
    if stage.curve or stage.sdpo or stage.kind == "sft":
        rows = _align_rows() if stage.sdpo else _train_rows(stage, results)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "name": stage.name, "kind": stage.kind, "status": "done", "uses": list(stage.uses),
        "settings": stage.settings, "fingerprint": f"{place:064x}", "seconds": 4.0 + place, "folder": stage.name,
        "results": results,
    }  # fmt: skip


def _results(stage: FakeStage, place: int) -> dict[str, Any]:
    found: dict[str, Any] = {"peak_memory_bytes": (500 + place) * 2**20}
    if stage.parameters:
        found["parameters"] = stage.parameters
    if stage.kind in ("pretrain", "sft", "align"):
        tokens = stage.curve[-1][0] if stage.curve else 100_000
        found |= {"tokens": tokens, "tokens_per_second": 25_000.0, "final_loss": 3.0}
    return found


def _train_rows(stage: FakeStage, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """40 steps, the last quarter of them in decay, and the held-out curve between them."""
    tokens = int(results["tokens"])
    rng = np.random.default_rng(len(stage.name))
    rows: list[dict[str, Any]] = [
        {
            "kind": "train", "step": step, "tokens": tokens * step // 40, "grad_norm": 1.0,
            "lr": 1e-3 if step <= 30 else 1e-4 * (40 - step), "tokens_per_second": 25_000.0,
            "loss": 3.6 - 0.5 * step / 40 + float(rng.normal(0, 0.03)),
        }
        for step in range(1, 41)
    ]  # fmt: skip
    for at, bits in stage.curve:
        row = {
            "kind": "eval",
            "step": 40 * at // tokens,
            "tokens": at,
            "loss": bits * 2,
            "bits_per_byte": bits,
        }
        rows.append({**row, "domains": {"stdlib": bits - 0.1, "torch": bits + 0.1}})
    return rows


def _align_rows() -> list[dict[str, Any]]:
    return [
        {
            "kind": "train", "sdpo_step": part, "step": step, "tokens": 1000 * step, "lr": 1e-5,
            "loss": 0.69 - 0.01 * step,
            "rewards/margins": 0.05 * step, "rewards/accuracies": 0.5 + 0.02 * step,
        }
        for part in (1, 2)
        for step in range(1, 21)
    ]  # fmt: skip


def write_scores(
    folder: Path, scores: Mapping[str, tuple[float, float, float]] = SCORES, *, items: int = 80
) -> Path:
    """A results file of `dusk eval`, with the items beside it, in an evaluation stage's folder."""
    models = []
    for name, values in scores.items():
        store = ItemStore(folder / "results.items" / f"{name}.jsonl.gz")
        for entry in _entries(values, items):
            store.put(entry)
        models.append(ModelScores(name, str(folder.parent / name), "digest", dict(store.entries), store.path))
    report = EvalReport(SUITE, {"fewshot_seed": 1234}, {"lm_eval": "0.4.13"}, models)
    report.write(folder / "results.json")
    return folder / "results.json"


def _entries(values: tuple[float, float, float], count: int) -> list[EntryItems]:
    """Documents of different length, harder and easier ones; what a model's own noise adds sums to nothing."""
    bits, choices, sums = values
    own = np.random.default_rng(int(1000 * (bits + choices + sums))).normal(0, 0.03, count)
    own -= np.average(own, weights=[_bytes(i) for i in range(count)])
    documents = [2.3 + bits + 0.1 * (-1) ** i + own[i] for i in range(count)]
    return [
        _entry("heldout", "bits_per_byte", documents, False),
        _entry("choice", "acc", [float(i < choices * count) for i in range(count)], True),
        _entry("sums", "exact_match", [float(i < sums * 20) for i in range(20)], True),
    ]


def _entry(task: str, metric: str, values: Sequence[float], higher: bool) -> EntryItems:
    weigh = metric.endswith("bits_per_byte")
    items = [
        Item(task, i, f"h{i}", {metric: value}, {metric: _bytes(i)} if weigh else {})
        for i, value in enumerate(values)
    ]
    return EntryItems(task, "f", {metric: higher}, {}, items)


def _bytes(document: int) -> float:
    return 200.0 + 10 * (document % 7)


# of each model and number of shots: what the judge gives both turns of its two questions, None is no grade
GRADES: dict[tuple[str, int], list[list[float | None]]] = {
    ("candidate_1", 0): [[4, 6], [3, 7]],
    ("candidate_1", 1): [[8, 8], [7, 9]],
    ("candidate_2", 0): [[6, 8], [6, None]],
    ("candidate_2", 1): [[7, 9], [8, 8]],
}


def judge_stage() -> FakeStage:
    """A stage that has both candidates judged."""
    models = ["candidate_1", "candidate_2"]
    settings = {"models": models, "label": "Judged"}
    return FakeStage("judged", "judge", settings, tuple(models), layers=None, parameters=None)


def write_grades(folder: Path) -> Path:
    """What `dusk judge` leaves in the stage's folder."""
    grades = [
        Grade(model, shots, str(number), category, turn, "an answer", given, "a verdict")
        for (model, shots), answers in GRADES.items()
        for number, category in enumerate(("mathematics", "<b>writing</b>"))
        for turn, given in enumerate(answers[number], start=1)
    ]
    (folder / "grades.json").write_text(json.dumps(JudgedReport("the-judge", grades).to_json()))
    return folder / "grades.json"


def without(stages: Sequence[FakeStage], *names: str) -> list[FakeStage]:
    """The stages less some, also where others name them."""
    kept = [stage for stage in stages if stage.name not in names]
    return [replace(stage, uses=tuple(name for name in stage.uses if name not in names)) for stage in kept]


# what each seed adds to the bits per byte of its recovered model: it passes its base at 650k, 600k, 550k tokens
SEED_OFFSETS = (0.005, 0.0, -0.005)


def write_seeds(folder: Path, offsets: Sequence[float] = SEED_OFFSETS, *, scores: bool = True) -> Path:
    """Runs of as many seeds, in seed-0, seed-1 and so on; stages after the controls are left out."""
    for seed, offset in enumerate(offsets):
        run = write_run(folder / f"seed-{seed}", seed_stages(offset), name="demo-full", seed=seed)
        if scores:
            own = {name: SCORES[name] for name in SEED_MODELS}
            own["recovered"] = (offset, *SCORES["recovered"][1:])
            write_scores(run / "scores", own)
    return folder


SEED_MODELS = ("decayed", "scaled", "recovered", "base_same_tokens", "base_same_compute")


def seed_stages(offset: float) -> list[FakeStage]:
    """Bases, recovery, controls and their evaluation."""
    stages = whole_run()[:7]
    stages[4].curve = [(tokens, bits + offset) for tokens, bits in RECOVERY]
    models = {"models": list(SEED_MODELS)}
    return [*stages, FakeStage("scores", "evaluate", models, SEED_MODELS, layers=None, parameters=None)]


NARROW = {
    "decayed": (0.07, 0.32, 0.10),
    "scaled": (0.3, 0.25, 0.05),
    "recovered": (-0.02, 0.44, 0.20),
}


def narrow_run() -> list[FakeStage]:
    """Another recipe: the same base, fewer layers, no tuning; its recovered model is the better one."""
    stages = whole_run()[:5]
    stages[3] = replace(stages[3], layers=10, layer_map=LayerMap.depthwise(8, drop=3))
    curve = [(tokens, bits - 0.02) for tokens, bits in RECOVERY]
    settings = {**stages[4].settings, "label": "Narrow"}
    stages[4] = replace(stages[4], settings=settings, layers=10, curve=curve)
    models = {"models": list(NARROW)}
    return [*stages, FakeStage("scores", "evaluate", models, tuple(NARROW), layers=None, parameters=None)]


def write_two(folder: Path) -> list[Path]:
    """The whole run and the narrow one, evaluated on the same items."""
    wide = write_run(folder / "wide", whole_run(), name="wide")
    write_scores(wide / "scores")
    narrow = write_run(folder / "narrow", narrow_run(), name="narrow")
    write_scores(narrow / "scores", NARROW)
    return [wide, narrow]


def arms_stages(offset: float) -> list[FakeStage]:
    """The seeds' bases, recovery and controls; a second scaled model, new layers alone, and one from scratch."""
    faster = [(0, 2.42), (400_000, 2.385 + 2 * offset), (1_600_000, 2.29 + 2 * offset)]
    scratch = _pretrain("scratch", "", [(0, 9.0), (1_600_000, 3.3 + offset)])
    scratch.settings = {"from_scratch": "config.json", "data": ["docs/continue.jsonl"]}
    return [
        *seed_stages(offset)[:-1],
        FakeStage("in_place", "scale", {"base": "constant", "rule": "in-place"}, ("constant",)),
        _pretrain("faster", "in_place", faster),
        _pretrain("new_only", "scaled", [(0, 2.5), (1_600_000, 2.41)]),
        replace(scratch, uses=("docs",)),
    ]


def write_scored_run(
    folder: Path, stages: Sequence[FakeStage], *, scores: bool = True, **facts: object
) -> Path:
    """As `write_run`, with `SCORES` unless they are not wanted."""
    write_run(folder, stages, **facts)
    if scores:
        write_scores(folder / "scores")
    return folder


def page(folder: Path) -> str:
    return report(folder).read_text(encoding="utf-8")


def sentence(folder: Path) -> str:
    found = re.search(r'<p class="lede">(.*?)</p>', page(folder), re.DOTALL)
    assert found
    return html.unescape(found[1]).replace("\u00a0", " ")
