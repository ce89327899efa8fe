"""`dusk eval --backend vllm`, in an environment that has vLLM, beside the hf backend here.

Skipped unless DUSK_VLLM names that environment; docs/use.md says how it is made.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

import benchmark_rows
import evaluation_cases
from dusk.evaluate import EvalReport, evaluate, harness
from dusk.evaluate.results import load_report
from vllm_environment import in_vllm, needs_vllm, with_vllm

pytestmark = needs_vllm

CLOSE: dict[str, float] = {"abs": 1e-4, "rel": 1e-6}  # nats; of a long text float32 tells no finer sum
HEADS = 32  # vLLM's attention on a CPU has no smaller ones
SHORT = {"until": ["Question:"], "max_gen_toks": 16}
TASKS: list[dict[str, Any]] = [
    {"task": "arc_challenge_v1", "task_files": "leaderboard", "columns": {"ARC": "acc_norm"}},
    {"task": "gsm8k_v1", "task_files": "leaderboard", "settings": {"generation_kwargs": SHORT}},
    {"task": "heldout", "local": "documents", "data": "heldout.jsonl", "items": 4},
]
STOPPED_CODE = """
import json, sys
from dusk.evaluate import evaluate, harness
from dusk.evaluate.watched import WatchedModel

model, suite, data, out = sys.argv[1:]
harness.LOT_ITEMS = 4
asked, answer = [], WatchedModel.loglikelihood

def stopped_once(self, requests, **options):
    asked.append(len(requests))
    if len(asked) == 3:
        raise KeyboardInterrupt
    return answer(self, requests, **options)

WatchedModel.loglikelihood = stopped_once
for _ in range(2):
    try:
        evaluate(model, suite=suite, data=data, limit=1, out=out, backend="vllm")
    except KeyboardInterrupt:
        asked.append(0)
print(json.dumps(asked))
"""


def write_suite(folder: Path, tasks: list[dict[str, Any]]) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"suite": "several", "tasks": tasks}, sort_keys=False))
    return path


def save_model(folder: Path, *, context: int, seed: int = 0) -> Path:
    return benchmark_rows.save_model(folder, context=context, seed=seed, hidden_size=2 * HEADS)


def answers(report: EvalReport, model: str) -> dict[str, Any]:
    """What the model answered to each item."""
    entries = report.model(model).entries.values()
    return {f"{item.task} {item.id}": item.output for entry in entries for item in entry.items}


def values(report: EvalReport, model: str) -> list[dict[str, float]]:
    return [item.values for entry in report.model(model).entries.values() for item in entry.items]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvalReport, EvalReport]:
    """Two models by hf and by vLLM; ARC's shots do not fit the second one's context."""
    folder = tmp_path_factory.mktemp("vllm")
    data = evaluation_cases.write_data(benchmark_rows.write(folder / "data", []))
    suite = write_suite(folder, TASKS)
    models = [save_model(folder / "long", context=4096), save_model(folder / "short", context=512, seed=1)]
    out = folder / "vllm.json"
    given = ["--suite", suite, "--data", data, "--out", out, "--backend", "vllm"]
    done = with_vllm("-m", "dusk", "eval", *models, *given)
    assert done.returncode == 0, done.stderr[-3000:]
    return evaluate(models, suite=suite, data=data), load_report(out)


def test_log_likelihoods_and_texts_are_those_of_hf(reports: tuple[EvalReport, EvalReport]):
    hf, vllm = (answers(report, "long") for report in reports)
    assert list(hf) == list(vllm)
    assert len(hf) == 16
    assert len({str(answer) for answer in hf.values()}) > 12
    for item, answer in hf.items():
        if isinstance(answer, str):
            assert vllm[item] == answer
        else:
            assert vllm[item] == pytest.approx(answer, **CLOSE)
    for there, here in zip(*(values(report, "long") for report in reports), strict=True):
        assert there == pytest.approx(here, abs=1e-5)


def test_prompts_that_are_cut_are_counted(reports: tuple[EvalReport, EvalReport]):
    hf, vllm = reports
    assert vllm.notes == hf.notes
    assert "arc_challenge_v1: the prompts of 8 of 8 items do not fit the context of 512" in vllm.notes[0]
    assert vllm.settings["backend"] == "vllm"
    assert vllm.versions["vllm"]


def test_a_group_goes_on_where_it_was_stopped(tmp_path: Path):
    """13 subjects in lots of four; the engine is started twice in one process."""
    subjects = sorted(harness._own_tasks().task_index["mmlu_humanities_tasks"].tags)
    data = benchmark_rows.write(tmp_path / "data", [name.removeprefix("mmlu_") for name in subjects])
    suite = write_suite(tmp_path, [{"task": "mmlu_humanities", "num_fewshot": 1, "columns": {"MMLU": "acc"}}])
    model = save_model(tmp_path / "model", context=1024)
    out = tmp_path / "vllm.json"
    assert in_vllm(STOPPED_CODE, model, suite, data, out) == [16, 16, 16, 0, 16, 4]
    hf, vllm = evaluate(model, suite=suite, data=data, limit=1), load_report(out)
    assert answers(vllm, "model") == {
        item: pytest.approx(answer, **CLOSE) for item, answer in answers(hf, "model").items()
    }


def test_what_vllm_cannot_load_is_told(tmp_path: Path):
    data = evaluation_cases.write_data(tmp_path)
    suite = write_suite(tmp_path, TASKS[-1:])
    model = save_model(tmp_path / "model", context=512)
    config = model / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "UnheardOfForCausalLM"))
    given = ["--suite", suite, "--data", data, "--out", tmp_path / "out.json", "--backend", "vllm"]
    done = with_vllm("-m", "dusk", "eval", model, *given)
    assert done.returncode == 2
    assert f"{model}: vLLM cannot load this model" in done.stderr
    assert "['UnheardOfForCausalLM'] are not supported" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.json").exists()
