"""Tests of contamination: the numbers by hand, the losses against transformers, what is detected, bad input."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import dusk
from dusk.cli.main import _status
from dusk.errors import DataError, InputError, SettingError
from dusk.evaluate.contamination import area_interval, area_under, contamination, min_k, roc, run
from dusk.evaluate.contamination.statistics import share_below, split_words

BASE = Path(dusk.__file__).parent / "base" / "constant"
SEEN = [
    f"What does the function number {n} give back? It gives back the value {n * n} as text" for n in range(6)
]


def rows(path: Path, texts) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    split = (text.split("? ") for text in texts)
    path.write_text("".join(json.dumps({"question": f"{q}?", "answer": a}) + "\n" for q, a in split))
    return path


def test_a_prefix_has_two_fifths_of_the_words_rounded_up():
    assert split_words("a b c d e f") == ("a b c", 3)
    assert split_words("a b c d e") == ("a b", 3)


def test_a_text_is_compared_with_its_neighbours():
    assert share_below(2.0, [1.0, 2.0, 3.0, 1.5]) == 0.5


def test_min_k_is_the_mean_of_the_least_likely_fifth():
    logs = np.array([-1.0, -9.0, -2.0, -3.0, -4.0, -7.0, -1.0, -1.0, -1.0, -1.0])
    assert min_k(logs) == -8.0
    assert min_k(logs[:1]) == -1.0


def test_the_curve_and_its_area():
    """The area is the chance that a seen text scores above an unseen one, ties counting half."""
    seen, unseen = [3.0, 2.0, 1.0], [2.0, 0.0]
    curve = roc(seen, unseen)
    assert (curve[0], curve[-1]) == ((0.0, 0.0), (1.0, 1.0))
    pairs = [(s > u) + 0.5 * (s == u) for s in seen for u in unseen]
    assert area_under(curve) == pytest.approx(sum(pairs) / len(pairs))
    assert area_under(roc([1.0], [0.0])) == 1.0


def test_the_interval_of_an_area_covers_it_as_often_as_it_says():
    """Normal scores whose means are one deviation apart have the area Phi(1 / sqrt 2)."""
    true = 0.5 * (1 + math.erf(0.5))
    drawn = np.random.default_rng(1)
    covered = []
    for _ in range(100):
        low, high = area_interval(drawn.normal(1, 1, 40), drawn.normal(0, 1, 40), resamples=200)
        covered.append(low <= true <= high)
    assert 88 <= sum(covered) <= 99
    assert area_interval([2.0, 3.0], [0.0, 1.0]) == (1.0, 1.0)


@pytest.fixture(scope="module")
def language():
    from dusk.evaluate.contamination.language import Language

    return Language(BASE, device="cpu", dtype="auto")


def test_losses_are_those_of_transformers(language):
    """Of texts of different length in one batch, as of each alone."""
    import torch

    texts = ["The quick brown fox", *SEEN[:2], "Return the list of all names, sorted."]
    for text, loss in zip(texts, language.losses(texts), strict=True):
        ids = language.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert loss == pytest.approx(float(language.model(ids, labels=ids).loss), abs=1e-5)
    assert language.losses([""]) == [math.inf]


def test_continuations_begin_with_the_prefix(language):
    drawn = language.continuations("Return the list", 5, most_tokens=6)
    assert len(set(drawn)) > 1
    assert all(text.startswith("Return the list") for text in drawn)
    most = len(language.tokenizer("Return the list")["input_ids"]) + 6
    assert all(len(language.tokenizer(text)["input_ids"]) <= most + 1 for text in drawn)


class Stub:
    """A model whose losses are told: of what it has learnt by heart, of other items, and of all else."""

    def __init__(self, learnt=()):
        self.learnt = set(learnt)
        self.tokenizer = self

    def get_vocab(self):
        return {"a": 0}

    def losses(self, texts):
        return [0.1 if text in self.learnt else 2.0 if text in SEEN else 1.0 for text in texts]

    def log_probabilities(self, texts):
        return [np.full(4, -loss) for loss in self.losses(texts)]

    def continuations(self, prefix, count, *, most_tokens):
        return [f"{prefix} {'x' * number}" for number in range(count)]


@pytest.mark.parametrize(("learnt", "result", "likely"), [(6, 1.0, True), (3, 0.5, False), (0, 0.0, False)])
def test_what_is_learnt_by_heart_is_found(monkeypatch, tmp_path, learnt, result, likely):
    """Every text that is likelier than all that the reference writes counts, as in the paper's Table 9."""
    monkeypatch.setattr(run, "_models", lambda *_: (Stub(SEEN[:learnt]), Stub()))
    file = rows(tmp_path / "gsm8k" / "test.jsonl", SEEN)
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"text": f"before {text} after"}) + "\n" for text in SEEN[:2]))
    for task in ("gsm8k", str(file)):
        (found,) = contamination(
            "m", reference="r", task=task, data=tmp_path, items=6, samples=20, train=[train]
        ).tasks
        assert (found.result, found.likely, found.items) == (result, likely, 6)
        assert found.min_k_above == result
        assert found.overlap == pytest.approx(2 / 6)
    assert found.task == "test"


def test_the_same_seed_gives_the_same_result(tmp_path):
    file = rows(tmp_path / "mine.jsonl", SEEN)
    options = {"reference": BASE, "task": str(file), "items": 3, "samples": 4}
    first, again = (contamination(BASE, **options, out=tmp_path / f"{n}.json") for n in range(2))
    assert first == again
    assert json.loads((tmp_path / "1.json").read_text())["tasks"][0]["shares"] == first.tasks[0].shares
    assert first.tasks[0].min_k_reference == first.tasks[0].min_k_scores
    assert first.tasks[0].min_k_above == 0.0  # it is its own reference


def test_what_the_reference_wrote_is_not_drawn_again(monkeypatch, tmp_path):
    """By a run that goes on where one was stopped, or for another model; another seed draws anew."""
    file = rows(tmp_path / "mine.jsonl", SEEN)
    drawn = []
    monkeypatch.setattr(run, "_models", lambda *_: (Stub(SEEN), Counting(drawn)))
    options = {"reference": "r", "task": str(file), "items": 3, "samples": 4}
    first = contamination("m", **options, out=tmp_path / "r.json")
    kept = tmp_path / "r.neighbours.jsonl"
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(lines[:2]) + lines[2][:9])  # killed while writing
    assert contamination("m", **options, neighbours=kept).tasks == first.tasks
    assert len(drawn) == 3 + 1
    contamination("other", **options, neighbours=kept, seed=9)
    assert len(drawn) == 3 + 1 + 3


class Counting(Stub):
    digest = "d"

    def __init__(self, drawn):
        super().__init__()
        self.drawn = drawn

    def continuations(self, prefix, count, *, most_tokens):
        self.drawn.append(prefix)
        return super().continuations(prefix, count, most_tokens=most_tokens)


def test_bad_input_is_told(tmp_path):
    file = rows(tmp_path / "arc_challenge" / "test.jsonl", SEEN)
    with pytest.raises(DataError, match="has 6 items of 3 words or more; 100 are needed"):
        contamination(BASE, reference=BASE, task="arc", data=tmp_path)
    with pytest.raises(DataError, match="no benchmark of that name") as caught:
        contamination(BASE, reference=BASE, task="gsm8", data=tmp_path)
    assert "gsm8k" in caught.value.remedy
    with pytest.raises(DataError, match=r"winogrande/validation\.jsonl is missing"):
        contamination(BASE, reference=BASE, task="winogrande", data=tmp_path)
    with pytest.raises(DataError, match="2 of 3 tasks cannot be tested") as caught:
        contamination(BASE, reference=BASE, task=["arc", "gsm8", "winogrande"], data=tmp_path)
    assert "Did you mean gsm8k?" in caught.value.problems[0]
    assert "winogrande/validation.jsonl is missing" in caught.value.problems[1]
    absent = [tmp_path / "no-model", tmp_path / "no-reference"]
    with pytest.raises(InputError, match="2 of 2 models") as told:
        contamination(absent[0], reference=absent[1], task=str(file), items=6)
    assert all(str(path) in problem for path, problem in zip(absent, told.value.problems, strict=True))
    with pytest.raises(DataError, match="its rows are needed"):
        contamination(BASE, reference=BASE, task="arc")
    with pytest.raises(SettingError, match="samples is 0"):
        contamination(BASE, reference=BASE, task=str(file), samples=0)


def test_the_command_prints_table_9(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "_models", lambda *_: (Stub(SEEN), Stub()))
    file = rows(tmp_path / "mine.jsonl", SEEN)
    command = [
        "contamination",
        "m",
        "--reference",
        "r",
        "--task",
        str(file),
        "--items",
        "6",
        "--samples",
        "9",
    ]
    assert _status(command) in (0, None)
    told = capsys.readouterr().out
    assert "result < 0.1, %" in told
    assert "1.00" in told
    assert "above 0.9" in told
    assert max(map(len, told.splitlines())) <= 80
