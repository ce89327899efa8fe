"""Mathematics in other words: by rule, by a server that behaves, and by servers that do not."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from dusk.data.arithmetic import distinct_problems
from dusk.data.math_sets import load_prompts, math_alignment, math_instruct
from dusk.data.rephrase import final_number
from dusk.errors import DataError, SettingError, WorkError
from flawed_server import Flawed, cut_off, serving, stall

PROBLEMS = distinct_problems(4, 30, part="train", seed=3)
QUICK: dict[str, Any] = {"timeout_seconds": 5.0}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dusk.data.server._wait", lambda attempt, told: min(told or 0.0, 0.05))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    file = tmp_path / "seeds.jsonl"
    file.write_text(
        "".join(json.dumps({"question": p.question, "answer": p.answer}) + "\n" for p in PROBLEMS)
    )
    return file


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def good(handler: Flawed, body: dict[str, Any], number: int) -> None:
    """Rephrase as a model would: other words around the same numbers, or steps told at length."""
    asked = body["messages"][0]["content"]
    if "Answer:" in asked:
        original = asked.rpartition("Answer:\n")[2].strip()
        handler.answer(f"Let us go through it together. {original}")
        return
    question = asked.rpartition("Question:\n")[2].strip()
    handler.answer("Suppose the following happened one day: " + ", and then ".join(question.split(". ")))


def test_by_rule_and_what_is_preferred(tmp_path: Path, seeds: Path) -> None:
    told = math_instruct(tmp_path / "i", data=[seeds], seed=4)
    math_alignment(tmp_path / "a", data=[seeds], seed=4)
    tuned, aligned = read(tmp_path / "i"), read(tmp_path / "a")
    assert told["kept"] == len(tuned) == len(aligned) > 25
    assert told["rows"] == 30 == told["kept"] + sum(told["left_out"].values())
    answers = {p.answer for p in PROBLEMS}
    for one, pair in zip(tuned, aligned, strict=True):
        assert (pair["prompt"], pair["chosen"]) == (one["prompt"], one["completion"])
        assert pair["rejected"] in answers
        assert final_number(pair["rejected"]) == final_number(pair["chosen"])


def test_a_server_that_behaves(tmp_path: Path, seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-key")
    cache = tmp_path / "answers.jsonl"
    both = Barrier(2)

    def together(handler: Flawed, body: dict[str, Any], number: int) -> None:
        if number <= 2:
            both.wait(30)  # for the other: they are asked at a time
        good(handler, body, number)

    with serving(together) as (url, server):
        how = {
            "server": url,
            "model": "m",
            "concurrency": 4,
            "key_variable": "MY_KEY",
            "cache": cache,
            "timeout_seconds": 60.0,
        }
        told = math_alignment(tmp_path / "a", data=[seeds], price_in=100.0, price_out=200.0, **how)
        again = math_instruct(tmp_path / "b", data=[seeds], **how)
        assert len(server.asked) == 60
        assert set(server.keys) == {"Bearer secret-key"}
        assert 2 <= server.at_once[1] <= 4
    assert (told["kept"], told["usage"]["requests"], told["cost"]) == (30, 60, 0.12)
    assert (again["usage"]["requests"], again["usage"]["cached"]) == (0, 60)
    assert [row["prompt"] for row in read(tmp_path / "a")] == [row["prompt"] for row in read(tmp_path / "b")]
    for problem, row in zip(PROBLEMS, read(tmp_path / "a"), strict=True):
        assert row["rejected"] == problem.answer  # in the order of the seeds, whoever answered first
    written = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any("secret-key" in text for text in written)


def wrong_number(handler: Flawed, body: dict[str, Any], number: int) -> None:
    asked = body["messages"][0]["content"]
    if "Answer:" in asked:
        handler.answer("It is surely more. #### 123456")
    else:
        good(handler, body, number)


def copies(handler: Flawed, body: dict[str, Any], number: int) -> None:
    asked = body["messages"][0]["content"]
    handler.answer(re.split(r"Answer:\n|Question:\n", asked)[-1].strip())


def one_word_changed(handler: Flawed, body: dict[str, Any], number: int) -> None:
    asked = body["messages"][0]["content"]
    if "Answer:" in asked:
        good(handler, body, number)
    else:
        question = asked.rpartition("Question:\n")[2].strip()
        handler.answer(f"{question} Thanks!")


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (wrong_number, "the final number changed"),
        (copies, "the question is a copy"),
        (one_word_changed, "the question is nearly a copy"),
        (lambda handler, body, n: handler.answer("nonsense without end"), "the final number changed"),
        (
            lambda handler, body, n: handler.answer("7 " * 9, "length"),
            "not answered: the answer is longer than max_tokens",
        ),
    ],
)
def test_what_is_rejected(tmp_path: Path, seeds: Path, behaviour: Any, reason: str) -> None:
    with serving(behaviour) as (url, _):
        out = {"rejects": tmp_path / "rejects.jsonl"}
        told = math_instruct(tmp_path / "out", data=[seeds], server=url, model="m", **out, **QUICK)
    assert told["rows"] == 30 == told["kept"] + sum(told["left_out"].values())
    assert told["left_out"].get(reason, 0) >= 28
    rejects = (tmp_path / "rejects.jsonl").read_text().splitlines()
    assert len(rejects) == sum(told["left_out"].values())


def test_the_same_question_twice_is_nearly_a_repeat(tmp_path: Path) -> None:
    problem = PROBLEMS[0]
    rows = [{"question": problem.question, "answer": problem.answer}] * 2
    file = tmp_path / "twice.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(good) as (url, _):
        told = math_instruct(tmp_path / "out", data=[file], server=url, model="m", **QUICK)
    assert (told["kept"], told["left_out"]) == (1, {"the question nearly stands twice": 1})


def every(n: int, trouble: Any) -> Any:
    """Trouble in each n-th request that is made for the first time, else a good answer."""

    def behave(handler: Flawed, body: dict[str, Any], number: int) -> None:
        first = handler.asked.count(body) == 1
        (trouble if first and number % n == 0 else good)(handler, body, number)

    return behave


TROUBLES: dict[str, Any] = {
    "cut off": lambda handler, body, n: cut_off(handler),
    "error 500": lambda handler, body, n: handler.send(500, b"no"),
    "too many": lambda handler, body, n: handler.send(429, b"{}", Retry_After="0.01"),
    "no JSON": lambda handler, body, n: handler.send(200, b"<html>busy</html>"),
    "other JSON": lambda handler, body, n: handler.send(200, b'{"choices": []}'),
    "no text": lambda handler, body, n: handler.answer(None),
    "empty": lambda handler, body, n: handler.answer(" "),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_passing_troubles_are_overcome(tmp_path: Path, seeds: Path, name: str) -> None:
    with serving(every(3, TROUBLES[name])) as (url, server):
        told = math_instruct(tmp_path / "out", data=[seeds], server=url, model="m", **QUICK)
    assert told["kept"] == 30
    assert told["usage"]["retries"] == len(server.asked) - 60 >= 10


def test_a_server_that_stalls(tmp_path: Path, seeds: Path) -> None:
    stalls = every(10, lambda handler, body, n: stall(handler, 1.0))
    with serving(stalls) as (url, _):
        told = math_instruct(tmp_path / "out", data=[seeds], server=url, model="m", timeout_seconds=0.5)
    assert told["kept"] == 30
    assert told["usage"]["retries"] >= 3


def test_what_is_refused_is_counted_and_not_asked_again(tmp_path: Path, seeds: Path) -> None:
    first = PROBLEMS[0].question

    def picky(handler: Flawed, body: dict[str, Any], number: int) -> None:
        if first in body["messages"][0]["content"]:
            handler.send(400, b"unsafe")
        else:
            good(handler, body, number)

    with serving(picky) as (url, server):
        told = math_instruct(tmp_path / "out", data=[seeds], server=url, model="m", **QUICK)
        assert len(server.asked) == 59
    assert (told["kept"], told["left_out"]) == (29, {"not answered: status 400": 1})


def test_a_run_that_was_stopped_asks_only_for_the_rest(tmp_path: Path, seeds: Path) -> None:
    def dies(handler: Flawed, body: dict[str, Any], number: int) -> None:
        if number > 30:
            handler.send(401, b"the key has expired")
        else:
            good(handler, body, number)

    how: dict[str, Any] = {
        "data": [seeds],
        "server": "",
        "model": "m",
        "cache": tmp_path / "answers",
        **QUICK,
    }
    with serving(dies) as (url, _), pytest.raises(WorkError, match="status 401") as caught:
        math_instruct(tmp_path / "out", **how | {"server": url})
    assert "OPENAI_API_KEY" in str(caught.value)
    assert not (tmp_path / "out").exists()
    answered = (tmp_path / "answers").read_bytes()
    assert answered.count(b"\n") == 30
    (tmp_path / "answers").write_bytes(answered + b'{"request": "cut o')
    with serving(good) as (url, server):
        math_instruct(tmp_path / "out", **how | {"server": url})
        assert len(server.asked) == 30
    assert len(read(tmp_path / "out")) == 30


def test_a_server_that_is_down(tmp_path: Path, seeds: Path) -> None:
    with serving(good) as (url, _):
        pass
    with pytest.raises(WorkError, match="gives no answer: the connection failed"):
        math_instruct(tmp_path / "out", data=[seeds], server=url, model="m", **QUICK)
    assert not (tmp_path / "out").exists()


def test_the_rate_is_kept(tmp_path: Path, seeds: Path) -> None:
    begin = time.monotonic()
    with serving(good) as (url, _):
        math_instruct(
            tmp_path / "out", data=[seeds], server=url, model="m", requests_per_minute=6000, **QUICK
        )
    assert time.monotonic() - begin > 59 * 0.01


def test_settings_that_cannot_be_used(tmp_path: Path, seeds: Path) -> None:
    with pytest.raises(SettingError, match="together"):
        math_instruct(tmp_path / "out", data=[seeds], server="http://x/v1")
    with pytest.raises(SettingError, match="is no URL"):
        math_instruct(tmp_path / "out", data=[seeds], server="localhost:8000", model="m")
    (tmp_path / "question.txt").write_text("no place")
    with pytest.raises(SettingError) as caught:
        load_prompts(tmp_path)
    assert len(caught.value.problems) == 2
    chosen = tmp_path / "pairs.jsonl"
    chosen.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(DataError, match="no question with an answer"):
        math_instruct(tmp_path / "out", data=[chosen])


def test_results_in_boxes() -> None:
    assert final_number(r"so $\boxed{\frac{1}{2}}$ is it, not 3") == r"\frac{1}{2}"
    assert final_number(r"\boxed{1} or \boxed{ 2 }") == "2"
    assert final_number(r"\boxed{1 and 7") == "7"


@pytest.mark.soak
def test_a_real_server(tmp_path: Path, seeds: Path) -> None:
    """`transformers serve` on loopback with the shipped base model: every row is answered, kept or counted."""
    pytest.importorskip("uvicorn")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import dusk
    from dusk.data.templates import SOLAR

    base = Path(dusk.__file__).parent / "base" / "constant"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = SOLAR.jinja
    tokenizer.save_pretrained(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "model")
    port = 18431
    command = [Path(sys.executable).parent / "transformers", "serve", tmp_path / "model", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--device", "cpu"], env={**os.environ}, **quiet
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", 120)
        url = f"http://127.0.0.1:{port}/v1"
        how: dict[str, Any] = {"concurrency": 2, "max_tokens": 24, "timeout_seconds": 60.0}
        told = math_instruct(tmp_path / "out", data=[seeds], server=url, model=str(tmp_path / "model"), **how)
    finally:
        process.terminate()
        process.wait(30)
    assert told["rows"] == 30 == told["kept"] + sum(told["left_out"].values())
    answered = told["usage"]["requests"]
    refused = told["usage"]["failed"].get("the answer is longer than max_tokens", 0)
    assert answered + refused >= 30
    assert set(told["usage"]["failed"]) <= {"the answer is longer than max_tokens"}


def wait_for(url: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(url)
