"""Hub ids against a small local server that speaks the hub's endpoints."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Serves one repository, owner/model, from `folder`; everything else is not found."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path.startswith("/api/models/owner/model/revision/"):
            files = [{"rfilename": name} for name in self.files()]
            info = {"id": "owner/model", "sha": COMMIT, "siblings": files}
            self.send(200, json.dumps(info).encode(), with_body)
        elif path == f"/api/models/owner/model/tree/{COMMIT}":
            tree = [{"type": "file", "path": name, "size": 1, "oid": name} for name in self.files()]
            self.send(200, json.dumps(tree).encode(), with_body)
        elif path.startswith("/owner/model/resolve/"):
            name = path.split("/", 5)[5]
            self.send(200, (self.folder / name).read_bytes(), with_body)
        else:
            self.send(404, b'{"error": "Repository not found"}', with_body)

    def files(self) -> list[str]:
        return [str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file()]

    def send(self, status: int, body: bytes, with_body: bool) -> None:
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(
    model_folder: Callable[..., Path], copy_of: Callable[[Path], Path]
) -> Iterator[tuple[str, type[Hub]]]:
    folder = copy_of(model_folder("llama"))
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "consolidated.safetensors").write_bytes(b"the same weights again")
    Hub.folder, Hub.asked = folder, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Hub
    server.shutdown()
    server.server_close()


def scale(endpoint: str, tmp_path: Path, model: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    code = (
        "import sys; from dusk.errors import DuskError; from dusk.scale import scale\n"
        "try: print(scale(sys.argv[1], 'out').parameters)\n"
        "except DuskError as error: sys.exit(f'{error}')"
    )
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, model],
        cwd=tmp_path,
        env={**os.environ, **settings, "NO_PROXY": "*", "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_of_the_hub(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, server = hub
    done = scale(endpoint, tmp_path, "owner/model@main")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'base_model:\n- "owner/model"\n' in card
    fetched = {path.rpartition("/")[2] for path in server.asked if "/resolve/" in path}
    assert fetched == {"config.json", "generation_config.json", "model.safetensors"}


def test_a_model_that_the_hub_does_not_have(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    done = scale(hub[0], tmp_path, "owner/modle")
    assert done.returncode == 1
    assert "owner/modle is no folder here, and the hub does not give it (404)" in done.stderr
    assert "Traceback" not in done.stderr
