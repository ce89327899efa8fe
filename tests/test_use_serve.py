"""A tuned model behind a server: an OpenAI client gets its answers, whole and in pieces, and they stop."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from openai import BadRequestError, OpenAI

import dusk
from dusk.cli.main import dusk as command_line
from dusk.errors import CheckpointError, SettingError
from dusk.use.serve import plan_service
from serving import free_port, serving
from use_models import ANSWERS, tuned_model


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned_model(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def client(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    log = tmp_path_factory.mktemp("log") / "server.txt"
    with serving(["-m", "dusk", "serve", str(tuned), "--engine", "transformers"], log) as address:
        assert f"{tuned} by transformers, at {address}" in log.read_text()
        with OpenAI(base_url=address, api_key="none", max_retries=0) as client:
            yield client


def request(tuned: Path, asked: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": asked}]
    return {"model": str(tuned), "messages": messages, "max_tokens": 60, "temperature": 0}


@pytest.mark.parametrize("asked", ANSWERS)
def test_an_answer_ends_by_itself(client: OpenAI, tuned: Path, asked: str):
    answer = client.chat.completions.create(**request(tuned, asked)).choices[0]
    assert (answer.message.content, answer.finish_reason) == (ANSWERS[asked], "stop")


def test_an_answer_in_pieces(client: OpenAI, tuned: Path):
    asked, said = next(iter(ANSWERS.items()))
    parts = [
        part.choices[0]
        for part in client.chat.completions.create(**request(tuned, asked), stream=True)
        if part.choices
    ]
    pieces = [part.delta.content for part in parts if part.delta.content]
    assert "".join(pieces) == said
    assert len(pieces) > 1
    assert parts[-1].finish_reason == "stop"


def test_a_wrong_model_name(client: OpenAI, tuned: Path):
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(**(request(tuned, "the") | {"model": "gpt-4"}))
    told = refused.value.response.json()["detail"]
    assert told == f"Server is pinned to '{tuned}'; requested 'gpt-4'."


def test_the_list_of_models_is_the_one_that_is_served(client: OpenAI, tuned: Path):
    assert [model.id for model in client.models.list()] == [str(tuned)]


def test_a_cut_answer_says_so(client: OpenAI, tuned: Path):
    answer = client.chat.completions.create(**(request(tuned, "the model") | {"max_tokens": 1})).choices[0]
    assert answer.finish_reason == "length"


def test_a_port_that_is_taken(tuned: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(SettingError, match="nothing can listen at"):
            plan_service(tuned, port=other.getsockname()[1])


def test_no_model_and_no_engine(tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CheckpointError, match="There is no folder"):
        plan_service(tmp_path / "none")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SettingError, match="vLLM is not installed"):
        plan_service(tuned, engine="vllm")


def test_vllm_needs_the_config_class_of_solar_pro(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.which", lambda name: name)
    solar, portable = tmp_path / "solar", tmp_path / "portable"
    dusk.scale(tuned, solar, layers="0-1", architecture="solar-pro", skips="none")
    dusk.scale(solar, portable, layers="0-1", with_remote_code=True)
    with pytest.raises(CheckpointError, match="--layers 0-1 --with-remote-code"):
        plan_service(solar, engine="vllm")
    with pytest.raises(SettingError, match="--trust-remote-code"):
        plan_service(portable, engine="vllm")
    more = ["--trust-remote-code"]
    assert plan_service(portable, engine="vllm", port=free_port(), more=more).arguments[-1] == more[0]


def test_vllm_is_started_with_the_name_that_was_given(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its command alone: a server of vLLM's needs a GPU."""
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda file, words: started.append(words))
    port = free_port()
    words = ["serve", str(tuned), "--engine", "vllm", "--port", str(port), "--dtype", "bfloat16"]
    done = CliRunner().invoke(command_line, [*words, "--", "--tensor-parallel-size", "2"])
    assert done.exit_code == 0, done.output
    address = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16"]
    named = ["--served-model-name", str(tuned)]
    assert started == [["vllm", "serve", str(tuned), *named, *address, "--tensor-parallel-size", "2"]]
