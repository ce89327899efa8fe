"""The leaderboard's tasks on local rows: against the harness's own run, and against its commit b281b09."""

import hashlib
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from lm_eval.evaluator import evaluate as run_harness
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

import benchmark_rows as rows
from dusk.cli import main
from dusk.errors import DataError
from dusk.evaluate import (
    EntryItems,
    EvalReport,
    Item,
    ModelScores,
    evaluate,
    harness,
    leaderboard,
    load_suite,
)
from dusk.evaluate import model as model_module
from dusk.evaluate.local_tasks import task_folder
from dusk.evaluate.suites import Entry

pytestmark = pytest.mark.usefixtures("no_network")

REAL = Path(os.environ.get("DUSK_TEST_DATA", "absent"))

# SHA-256 over the requests that the code of commit b281b09 makes of `benchmark_rows`, and of the real sets
REQUESTS_OF_2023 = {
    "arc_challenge_v1": "1c065d55c65fbc26",
    "hellaswag_v1": "1e15a4eb0b3365ab",
    "winogrande_v1": "ae9332363c662643",
    "gsm8k_v1": "47025ee3af1c0b3f",
    "truthfulqa_mc2": "d3cd22bd10aac3a3",
    "mmlu_abstract_algebra": "3a4dcb0e959efe76",
    "mmlu_world_religions": "463454aec33cd44f",
}
REAL_REQUESTS_OF_2023 = {
    "arc_challenge_v1": (884, "ccb2ef6b0ad7f6a5"),
    "hellaswag_v1": (750, "5edaecce8eaa9336"),  # with five shots
    "winogrande_v1": (950, "2b174c58ea526a1e"),
    "gsm8k_v1": (989, "0bee635b9d120d16"),
}


@pytest.fixture(scope="module")
def subjects():
    index = harness._own_tasks().task_index
    groups = [index[f"mmlu_{part}_tasks"].tags for part in ("stem", "other", "social_sciences", "humanities")]
    found = sorted(name.removeprefix("mmlu_") for group in groups for name in group)
    assert len(found) == 57
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory, subjects):
    return rows.write(tmp_path_factory.mktemp("data"), subjects)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rows.save_model(tmp_path_factory.mktemp("model") / "small")


def _call(*args):
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return ended.value.code


def _suite(folder, tasks, **keys):
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"suite": "some", "tasks": tasks, **keys}))
    return path


def _requests(entry, data, seed, limit=None):
    loaded = harness.load_tasks(entry, task_folder(entry), seed, harness.LocalDatasets([data]))
    (task,) = loaded.tasks.values()
    with harness.quiet(offline=True):
        task.set_fewshot_seed(seed=seed)
        task.build_all_requests(limit=limit)
    return task.instances


def _digest(instances):
    """Over the documents in their order, and of each the pairs of context and continuation or stop strings."""
    found = {}
    for each in instances:
        context, rest = each.args
        found.setdefault(each.doc_id, []).append([context, rest if isinstance(rest, str) else rest["until"]])
    total = hashlib.sha256()
    for document in sorted(found.items()):
        total.update(json.dumps(document, ensure_ascii=False).encode() + b"\n")
    return total.hexdigest()[:16]


H6_ENTRIES = {entry.task: entry for entry in load_suite("h6").tasks}


@pytest.mark.parametrize("name", REQUESTS_OF_2023)
def test_the_requests_of_h6_are_those_of_commit_b281b09(name, data):
    entry = H6_ENTRIES.get(name, Entry(name, num_fewshot=5))
    assert _digest(_requests(entry, data, load_suite("h6").fewshot_seed)) == REQUESTS_OF_2023[name]


@pytest.mark.soak
@pytest.mark.skipif(not REAL.is_dir(), reason="DUSK_TEST_DATA names no folder of data sets")
@pytest.mark.parametrize("name", REAL_REQUESTS_OF_2023)
def test_so_they_are_on_the_real_sets(name):
    found = _requests(H6_ENTRIES[name], REAL, load_suite("h6").fewshot_seed)
    count, digest = REAL_REQUESTS_OF_2023[name]
    assert (len({each.doc_id for each in found}), _digest(found)) == (count, digest)


def test_a_limit_takes_the_first_documents_that_2023_took(data):
    whole = _requests(H6_ENTRIES["arc_challenge_v1"], data, 42)
    first = _requests(H6_ENTRIES["arc_challenge_v1"], data, 42, limit=2)
    assert [each.args for each in first] == [each.args for each in whole[:8]]
    assert len({each.doc_id for each in first}) == 2


@pytest.mark.parametrize(
    ("written", "right"),
    [
        (" 5 * 1000 #### 5,000", 1.0),
        (" #### 5,000\nQuestion", 1.0),
        (" #### 5000.", 0.0),
        (" five thousand", 0.0),
        (" ####5000", 0.0),
    ],
)
def test_gsm8k_counts_what_2023_counted(written, right):
    assert leaderboard.gsm8k_results({"answer": "x\n#### 5,000"}, [written]) == {"acc": right}


HUB = {
    "arc_challenge": ("train", "test"),
    "hellaswag": ("train", "validation"),
    "mmlu_abstract_algebra": ("dev", "test"),
    "truthfulqa_mc2": ("validation",),
    "winogrande": ("train", "validation"),
    "gsm8k": ("train", "test"),
}


def _hub_rows():
    """The same rows as on the hub, written out for its own loader; HellaSwag's before they are cleaned."""

    def hellaswag(count, first=0):
        return [
            {
                "ind": row["ind"],
                "activity_label": row["query"].partition(": ")[0],
                "ctx_a": f"Somebody holds it.    Then case {row['ind']} comes.",
                "ctx_b": "they",
                "endings": [f"[step]{c}" if c.startswith(" ") else c for c in row["choices"]],
                "label": str(row["gold"]),
            }
            for row in rows.hellaswag(count, first)
        ]

    return {
        "arc_challenge": {"train": rows.arc(40, 100), "test": rows.arc(8)},
        "hellaswag": {"train": hellaswag(12, 100), "validation": hellaswag(8)},
        "mmlu_abstract_algebra": {
            "dev": rows.mmlu(["abstract_algebra"], 5, 100),
            "test": rows.mmlu(["abstract_algebra"], 4),
        },
        "truthfulqa_mc2": {"validation": rows.truthfulqa(6)},
        "winogrande": {"train": rows.winogrande(20, 100), "validation": rows.winogrande(8)},
        "gsm8k": {"train": rows.gsm8k(20, 100), "test": rows.gsm8k(4)},
    }


def _harness_alone(entries, folder, scratch):
    """The harness's tasks with their data from files, run by its own `hf` model: samples by task."""
    tasks = {}
    for entry in entries:
        files = {}
        for split, content in _hub_rows()[entry["task"]].items():
            files[split] = str(scratch / f"{entry['task']}-{split}.jsonl")
            Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in content))
        kwargs = {"data_files": files, "cache_dir": str(scratch / "cache")}
        given = {"task": entry["task"], "num_fewshot": entry["num_fewshot"], **entry.get("settings", {})}
        given |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": kwargs}
        index = harness._own_tasks().task_index
        found = index[entry["task"]]
        group = {"group": "reference", "task": [given]}
        name = f"reference {entry['task']}"
        index[name] = replace(found, name=name, kind=type(found.kind).GROUP, yaml_path=None, cfg=group)
        tasks |= harness._own_tasks().load([name])["tasks"]
    for task in tasks.values():
        task.set_fewshot_seed(seed=1234)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lm = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer=tokenizer, batch_size=4
    )
    return run_harness(lm=lm, task_dict={"tasks": tasks, "groups": {}}, bootstrap_iters=0)


def test_requests_likelihoods_and_scores_are_the_harnesss_own(data, folder, tmp_path):
    openllm = load_suite("openllm")
    entries = []
    for entry in openllm.tasks:
        name = "mmlu_abstract_algebra" if entry.task == "mmlu" else entry.task
        keys = {"task": name, "num_fewshot": entry.num_fewshot, "columns": entry.columns}
        settings = dict(entry.settings)
        if name == "gsm8k":
            settings["generation_kwargs"] = {"until": ["Question:"], "max_gen_toks": 12, "do_sample": False}
        entries.append({**keys, "settings": settings} if settings else keys)
    found = evaluate(folder, suite=_suite(tmp_path, entries), data=data, device="cpu")
    with harness.quiet(offline=True):
        expected = _harness_alone(entries, folder, tmp_path)
    for entry in entries:
        name = entry["task"]
        ours = harness.load_tasks(Entry(**entry), None, 1234, harness.LocalDatasets([data])).tasks[name]
        with harness.quiet(offline=True):
            ours.set_fewshot_seed(seed=1234)
            ours.build_all_requests()
        asked = {}
        for each in ours.instances:
            asked.setdefault(each.doc_id, []).append(each.args)
        items = {item.id: item for item in found.model("small").entries[name].items}
        assert len(items) == len(_hub_rows()[name][HUB[name][-1]])
        for sample in expected["samples"][name]:
            item = items[sample["doc_id"]]
            assert asked[sample["doc_id"]] == [tuple(pair) for pair in sample["arguments"]]
            answers = [answer[0] for answer in sample["resps"]]
            if name == "gsm8k":
                assert item.output == answers[0]
            else:
                assert item.output == pytest.approx([log for log, _ in answers], abs=1e-4)
            for metric in sample["metrics"]:
                label = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                # a metric is as near as the log-likelihoods that it is made of: processors differ in their sums
                assert item.values[label] == pytest.approx(sample[metric], abs=1e-4)
        (column,) = entry["columns"].items()
        label = column[1] if "," in column[1] else f"{column[1]},none"
        wanted = pytest.approx(expected["results"][name][label], rel=1e-4)
        assert found.cell("small", column[0]).value == wanted


def _right(request):
    """Whether a request's continuation belongs to a right answer of its document."""
    document, number = request.doc, request.idx
    if "mc2_targets" in document:
        return document["mc2_targets"]["labels"][number] == 1
    if "option1" in document:
        return str(number + 1) == document["answer"]
    if "answerKey" in document:
        return document["choices"]["label"][number] == document["answerKey"]
    return number == document.get("answer", document.get("gold"))


def _stub(patch, log_of, answer_of):
    def loglikelihood(self, requests, disable_tqdm=True):
        return [(log_of(request), False) for request in requests]

    def generate_until(self, requests, disable_tqdm=True):
        return [answer_of(request) for request in requests]

    patch.setattr(model_module.HarnessModel, "loglikelihood", loglikelihood)
    patch.setattr(model_module.HarnessModel, "generate_until", generate_until)


@pytest.mark.parametrize("suite", ["h6", "openllm"])
def test_who_knows_the_answers_scores_a_hundred(suite, data, folder, monkeypatch):
    _stub(
        monkeypatch, lambda request: -1.0 if _right(request) else -1e4, lambda request: request.doc["answer"]
    )
    found = evaluate(folder, suite=suite, data=data, device="cpu")
    labels = [column.label for column in found.columns]
    assert {label: found.cell("small", label).value for label in labels} == dict.fromkeys(labels, 1.0)
    (mean,) = found.suite.mean
    assert found.mean("small", mean).value == 1.0
    assert found.cell("small", "MMLU").n == 57 * 4


def test_h4_is_four_of_h6():
    h4, h6 = load_suite("h4"), load_suite("h6")
    assert h4.tasks == h6.tasks[:4]
    assert (h4.fewshot_seed, h4.add_bos_token) == (h6.fewshot_seed, h6.add_bos_token) == (42, False)
    assert h4.mean["H4"] == h6.mean["H6"][:4]


def test_who_knows_nothing_scores_chance(data, folder, monkeypatch):
    _stub(monkeypatch, lambda request: -3.0 * len(request.args[1]), lambda request: "I do not know")
    found = evaluate(folder, suite="h6", data=data, device="cpu")
    assert found.cell("small", "MMLU").value == 0.25
    assert found.cell("small", "Winogrande").value == 0.5
    assert found.cell("small", "GSM8K").value == 0.0
    by_length = [
        sum(math.exp(-3.0 * len(f" {c}")) for c in row["mc2_targets"]["choices"][:2])
        / sum(math.exp(-3.0 * len(f" {c}")) for c in row["mc2_targets"]["choices"])
        for row in rows.truthfulqa(6)
    ]
    assert found.cell("small", "TruthfulQA").value == pytest.approx(sum(by_length) / 6)


def test_mmlu_of_h6_counts_subjects_alike_and_openllms_counts_items():
    """One subject of 4 items all right, one of 2 all wrong."""
    items = [Item("mmlu_a", number, "", {"acc": 1.0}) for number in range(4)]
    items += [Item("mmlu_b", number, "", {"acc": 0.0}) for number in range(2)]
    measured = EntryItems("mmlu", "", {"acc": True}, {}, items)
    for name, expected in (("h6", 1 / 2), ("openllm", 4 / 6)):
        suite = load_suite(name)
        suite = replace(suite, tasks=tuple(entry for entry in suite.tasks if entry.task == "mmlu"), mean={})
        report = EvalReport(suite, {}, {}, [ModelScores("m", "m", "", {"mmlu": measured})])
        assert report.cell("m", "MMLU").value == pytest.approx(expected)
        better = replace(measured, items=[replace(item, values={"acc": 1.0}) for item in items])
        report.models.append(ModelScores("n", "n", "", {"mmlu": better}))
        assert report.compare("m", "n", resamples=50)["MMLU"].difference == pytest.approx(1 - expected)


def test_h6_gives_prompts_without_bos_and_openllm_with_it(data, folder, monkeypatch):
    given = []
    ask = model_module.HarnessModel._loglikelihood_tokens

    def note(self, requests, **options):
        given.append(requests[0][1][0])
        return ask(self, requests, **options)

    monkeypatch.setattr(model_module.HarnessModel, "_loglikelihood_tokens", note)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tasks = [{"task": "winogrande", "num_fewshot": 0}]
    for keys in ({"add_bos_token": False}, {}):
        evaluate(folder, suite=_suite(folder.parent, tasks, **keys), data=data, device="cpu", limit=1)
    assert [first == tokenizer.bos_token_id for first in given] == [False, True]


def test_prompts_that_are_cut_and_shots_that_are_missing_are_told(data, tmp_path, capsys):
    model = rows.save_model(tmp_path / "short", context=64)
    lacking = tmp_path / "data"
    for name, content in (("train_xl", rows.winogrande(3)), ("validation", rows.winogrande(8))):
        path = lacking / "winogrande" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    suite = _suite(
        tmp_path, [{"task": "winogrande", "num_fewshot": 5, "settings": {"fewshot_split": "train"}}]
    )
    out = tmp_path / "r.json"
    assert _call("eval", model, "--suite", suite, "--data", lacking, "--out", out) == 0
    printed = capsys.readouterr().out
    entry = Entry("winogrande", num_fewshot=5, settings={"fewshot_split": "train"})
    tokenizer = AutoTokenizer.from_pretrained(model)
    long = {
        each.doc_id
        for each in _requests(entry, lacking, 1234)
        if len(tokenizer("".join(each.args))["input_ids"]) > 65
    }
    assert len(long) > 0
    assert json.loads(out.read_text())["notes"] == [
        "winogrande: 3 shots, all that the data have; the suite asks for 5",
        f"winogrande: the prompts of {len(long)} of 8 items do not fit the context of 64 tokens and were cut "
        "from the left",
    ]
    assert "suite some, lm-evaluation-harness 0.4" in printed
    assert f"prompts of {len(long)} of 8 items" in " ".join(printed.split())
    assert "±" in printed


def test_a_second_model_is_compared_in_the_table(data, folder, tmp_path, capsys):
    other = rows.save_model(tmp_path / "other", seed=1)
    suite = _suite(tmp_path, [{"task": "winogrande", "columns": {"Winogrande": "acc"}}])
    args = [folder, other, "--suite", suite, "--data", data, "--out", tmp_path / "r.json"]
    assert _call("eval", *args) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "minus small, paired over items; * p < 0.05" in printed
    assert printed[-2].startswith("other")


def test_all_data_that_are_missing_are_told_with_what_to_do(folder, tmp_path):
    with pytest.raises(DataError, match="data are missing for 4 of 4 tasks") as caught:
        evaluate(folder, suite="h4", data=tmp_path)
    told = str(caught.value)
    assert f"hf download allenai/ai2_arc --repo-type dataset --local-dir {tmp_path}/allenai/ai2_arc" in told
    assert f"{tmp_path}/truthfulqa" in told
    path = tmp_path / "arc_challenge" / "train.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.arc(30)))
    with pytest.raises(DataError, match=r"\(ARC-Challenge\): there is no file for its split test"):
        evaluate(folder, suite="arc_challenge", data=tmp_path)
