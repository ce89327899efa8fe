"""Publishing against a small local server that speaks the hub's endpoints."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import ModelCard

import dusk

TOKEN = "hf_a_secret_that_nobody_may_see"
COMMIT = "b" * 40
API = "/api/models/owner/model"


class Hub(BaseHTTPRequestHandler):
    """One repository, owner/model: `files` as they were committed, `blobs` as they were uploaded."""

    created: list[dict[str, Any]]
    files: dict[str, bytes]
    blobs: dict[str, bytes]
    uploads: list[str]
    refused_uploads: int

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.send(401, {"error": f"Invalid token {self.headers['Authorization']}"})
        if self.path.partition("?")[0] != API or not self.created:
            return self.send(404, {"error": f"there is no {self.path}"})
        return self.send(200, {"id": "owner/model", "private": self.created[0]["visibility"] == "private"})

    def do_POST(self) -> None:
        body, path = self.body(), self.path.partition("?")[0]
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.send(401, {"error": f"Invalid token {self.headers['Authorization']}"})
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return self.send(200, {"url": f"{self.address()}/owner/model", "id": "owner/model"})
        if path == "/api/validate-yaml":  # the card's
            return self.send(200, {"errors": [], "warnings": []})
        if path == f"{API}/preupload/main":
            return self.send(200, {"files": [self.mode(file) for file in json.loads(body)["files"]]})
        if path == "/owner/model.git/info/lfs/objects/batch":
            objects = [self.wanted(item) for item in json.loads(body)["objects"]]
            return self.send(200, {"transfer": "basic", "objects": objects})
        if path == f"{API}/commit/main":
            self.commit(body)
            return self.send(
                200, {"commitUrl": f"{self.address()}/owner/model/commit/{COMMIT}", "commitOid": COMMIT}
            )
        return self.send(404, {"error": f"there is no {self.path}"})

    def do_PUT(self) -> None:
        body, digest = self.body(), self.path.rpartition("/")[2]
        if Hub.refused_uploads:
            Hub.refused_uploads -= 1
            return self.send(400, {"error": "no room"})
        assert hashlib.sha256(body).hexdigest() == digest
        self.blobs[digest] = body
        self.uploads.append(digest)
        return self.send(200, {})

    def mode(self, file: dict[str, Any]) -> dict[str, Any]:
        kind = "lfs" if file["path"].endswith(".safetensors") else "regular"
        return {"path": file["path"], "uploadMode": kind, "shouldIgnore": False}

    def wanted(self, item: dict[str, Any]) -> dict[str, Any]:
        upload = {"upload": {"href": f"{self.address()}/blob/{item['oid']}"}}
        return item | ({} if item["oid"] in self.blobs else {"actions": upload})

    def commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]

    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.created, Hub.files, Hub.blobs, Hub.uploads, Hub.refused_uploads = [], {}, {}, [], 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    dusk.scale(model_folder("llama"), tmp_path / "deep", drop=2)
    (tmp_path / "deep" / "optimizer.pt").write_bytes(b"a pickle")
    return tmp_path / "deep"


def push(
    endpoint: str, tmp_path: Path, *words: Any, token: str = TOKEN, **more: str
) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_TOKEN": token, "NO_PROXY": "*", "HF_HUB_OFFLINE": "0", "DUSK_TRACEBACK": "1"} | more
    return subprocess.run(
        [sys.executable, "-m", "dusk", "push", *map(str, words)],
        cwd=tmp_path,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_its_card_and_its_report_are_published_privately(hub: str, model: Path, tmp_path: Path):
    (tmp_path / "report.html").write_text("<h1>A report</h1>")
    done = push(hub, tmp_path, model, "owner/model", "--report", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "its owners alone" in done.stdout
    assert (Hub.created[0]["visibility"], Hub.created[0]["name"]) == ("private", "model")
    assert set(Hub.files) == {
        *(file.name for file in model.iterdir() if file.name != "optimizer.pt"),
        "report.html",
    }
    for name in ("model.safetensors", "config.json", "README.md"):
        assert Hub.files[name] == (model / name).read_bytes()
    assert done.stderr == ""
    assert TOKEN not in done.stdout


def test_the_manifest_is_published_without_paths_of_this_machine(hub: str, model: Path, tmp_path: Path):
    push(hub, tmp_path, model, "owner/model")
    published, own = (
        json.loads(text) for text in (Hub.files["dusk.json"], (model / "dusk.json").read_text())
    )
    assert Path(own["inputs"][0]["path"]).is_absolute()
    assert published["inputs"][0]["path"] == Path(own["inputs"][0]["path"]).name
    assert str(tmp_path.parent) not in Hub.files["dusk.json"].decode()
    assert published["layer_map"] == own["layer_map"]


def test_the_same_command_continues(hub: str, model_folder: Callable[..., Path], tmp_path: Path):
    """Of two files the second upload fails; the next time only that one is sent."""
    model = Path(shutil.copytree(model_folder("llama", shard="60KB"), tmp_path / "model"))
    shards = {hashlib.sha256(file.read_bytes()).hexdigest() for file in model.glob("*.safetensors")}
    assert len(shards) > 1
    Hub.refused_uploads = 1
    failed = push(hub, tmp_path, model, "owner/model")
    assert failed.returncode == 1
    assert "owner/model: the hub refuses (400)" in failed.stderr
    assert "The same command continues" in failed.stderr
    assert not Hub.files
    sent_before = set(Hub.uploads)
    assert push(hub, tmp_path, model, "owner/model").returncode == 0
    assert sorted(Hub.uploads) == sorted(shards)
    assert sent_before < shards
    assert {name for name in Hub.files if name.endswith(".safetensors")} == {
        file.name for file in model.glob("*.safetensors")
    }


def test_the_card_is_published_with_scores(hub: str, model: Path, tmp_path: Path):
    score = {"value": 0.5, "stderr": 0.1, "n": 25, "higher_is_better": True}
    column = {"label": "ARC", "entry": "arc_challenge", "metric": "acc_norm"}
    row = {"name": "x", "path": str(model), "scores": {"arc_challenge": {"acc_norm": score}}}
    told = {"suite": "openllm", "versions": {}, "columns": [column], "models": [row]}
    (tmp_path / "scores.json").write_text(json.dumps({**told, "tasks": [{"task": "arc_challenge"}]}))
    done = push(hub, tmp_path, model, "owner/model", "--scores", "scores.json")
    assert done.returncode == 0, done.stderr
    data = ModelCard(Hub.files["README.md"].decode()).data
    assert [result.metric_value for result in data.eval_results] == [50.0]
    assert data.tags == ["dusk", "depth-up-scaling"]
    assert (model / "README.md").read_bytes() != Hub.files["README.md"]


def test_a_public_repository_is_asked_for(hub: str, model: Path, tmp_path: Path):
    done = push(hub, tmp_path, model, "owner/model", "--public", "--json")
    assert json.loads(done.stdout)["private"] is False
    assert Hub.created[0]["visibility"] == "public"


def test_a_token_that_is_refused_is_not_shown(hub: str, model: Path, tmp_path: Path):
    wrong = TOKEN.replace("a_secret", "another")
    done = push(hub, tmp_path, model, "owner/model", token=wrong)
    assert done.returncode == 2
    assert "the hub refuses (401)" in done.stderr
    assert wrong not in done.stdout + done.stderr


def test_a_hub_that_is_not_there(model: Path, tmp_path: Path):
    done = push("http://127.0.0.1:9", tmp_path, model, "owner/model")
    assert done.returncode == 1
    assert "owner/model: the hub does not answer as it should (ConnectError)" in done.stderr
    assert TOKEN not in done.stderr


def test_a_hub_that_is_switched_off(model: Path, tmp_path: Path):
    done = push("http://127.0.0.1:9", tmp_path, model, "owner/model", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "Unset HF_HUB_OFFLINE" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["deep", "model"], "'model' names no repository"),
        (["nowhere", "owner/model"], "There is no folder nowhere"),
        (["deep", "owner/model", "--report", "none.html"], "There is no report none.html"),
        (["deep", "owner/model", "--scores", "none.json"], "none.json holds no results of `dusk eval`"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(
    hub: str, model: Path, tmp_path: Path, words: list[str], told: str
):
    done = push(hub, tmp_path, *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert not Hub.created


def test_half_a_model_is_not_published(hub: str, model: Path, tmp_path: Path):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = push(hub, tmp_path, model, "owner/model")
    assert done.returncode == 2
    assert not Hub.created
