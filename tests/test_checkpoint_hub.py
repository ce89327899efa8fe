"""Hub ids against a small local server that speaks the hub's endpoints."""

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

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Serves one repository, owner/model, from `folder` at `main` and `v2`; all else is not found.

    `breaks` are the files whose first download ends half-way; `ranges` what was asked for from a byte on.
    """

    folder: Path
    asked: list[str]
    ranges: list[tuple[str, str]]
    breaks: set[str]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        revision = path.removeprefix("/api/models/owner/model/revision/")
        if "/owner/gated" in path:
            self.send(403, b"", with_body, code="GatedRepo")
        elif "/owner/private" in path:
            self.send(401, b"", with_body)
        elif revision not in (path, "main", "v2", COMMIT):
            self.send(404, b"", with_body, code="RevisionNotFound")
        elif revision != path:
            files = [{"rfilename": name} for name in self.files()]
            info = {"id": "owner/model", "sha": COMMIT, "siblings": files}
            self.send(200, json.dumps(info).encode(), with_body)
        elif path == f"/api/models/owner/model/tree/{COMMIT}":
            tree = [{"type": "file", "path": name, "size": 1, "oid": name} for name in self.files()]
            self.send(200, json.dumps(tree).encode(), with_body)
        elif path.startswith("/owner/model/resolve/"):
            self.send_file(path.split("/", 5)[5], with_body)
        else:
            self.send(404, b'{"error": "Repository not found"}', with_body, code="RepoNotFound")

    def send_file(self, name: str, with_body: bool) -> None:
        content = (self.folder / name).read_bytes()
        asked = self.headers["Range"] or ""
        if with_body and asked:
            self.ranges.append((name, asked))
            begin = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send(206, content[begin:], with_body, of=content, begin=begin)
        elif with_body and name in self.breaks:
            self.breaks.remove(name)
            self.send(200, content[: len(content) // 2], with_body, of=content)
            self.close_connection = True
        else:
            self.send(200, content, with_body)

    def files(self) -> list[str]:
        return [str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file()]

    def send(
        self, status: int, body: bytes, with_body: bool, *, code: str = "", of: bytes = b"", begin: int = 0
    ) -> None:
        """An answer, or with `of` a part of that: from `begin` on, or its beginning alone."""
        whole = of or body
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(whole) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
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
    Hub.folder, Hub.asked, Hub.ranges, Hub.breaks = folder, [], [], set()
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
    assert fetched(server) == {"config.json", "generation_config.json", "model.safetensors"}


def fetched(server: type[Hub]) -> set[str]:
    return {path.split("/", 5)[5] for path in server.asked if "/resolve/" in path}


def test_shards_with_an_index_and_the_digests_that_the_hub_states(
    hub: tuple[str, type[Hub]], model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """The second copies of the weights that published folders hold are not asked for."""
    endpoint, server = hub
    (server.folder / "model.safetensors").unlink()
    for file in model_folder("llama", shard="40KB").iterdir():
        shutil.copy(file, server.folder)
    done = scale(endpoint, tmp_path, "owner/model@v2")
    assert done.returncode == 0, done.stderr
    shards = {file.name for file in server.folder.glob("model-*.safetensors")}
    assert len(shards) > 2
    assert fetched(server) == {
        "config.json", "generation_config.json", "model.safetensors.index.json", *shards
    }  # fmt: skip
    (source,) = json.loads((tmp_path / "out" / "dusk.json").read_text())["inputs"]
    for name in shards:
        content = (server.folder / name).read_bytes()
        assert source["files"][name]["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_download_that_breaks_goes_on_where_it_stopped(
    hub: tuple[str, type[Hub]], model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """The hub's client writes 10 MB at a time: of 26 MB the first ten are kept when it breaks half-way."""
    endpoint, server = hub
    for file in model_folder("llama", vocab_size=100_000).iterdir():
        shutil.copy(file, server.folder)
    server.breaks = {"model.safetensors"}
    done = scale(endpoint, tmp_path, "owner/model")
    if done.returncode:  # the client gave up at once: the same command again
        assert "Traceback" not in done.stderr
        done = scale(endpoint, tmp_path, "owner/model")
    assert done.returncode == 0, done.stderr
    ((name, begin),) = server.ranges
    assert name == "model.safetensors"
    assert int(begin.removeprefix("bytes=").removesuffix("-")) >= 10_000_000
    (tmp_path / "out").rename(tmp_path / "resumed")
    assert scale(endpoint, tmp_path, str(server.folder)).returncode == 0
    for file in (tmp_path / "out").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "resumed" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("owner/gated", "owner/gated is gated: the hub gives it to those who accepted its conditions"),
        ("owner/private", "the hub does not give it (401)"),
        ("owner/model@v3", "The hub has owner/model, but no revision v3 of it"),
    ],
)
def test_what_the_hub_refuses(hub: tuple[str, type[Hub]], tmp_path: Path, model: str, message: str) -> None:
    done = scale(hub[0], tmp_path, model)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert ("HF_TOKEN" in done.stderr) == ("revision" not in message)


def test_a_model_that_the_hub_does_not_have(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    done = scale(hub[0], tmp_path, "owner/modle")
    assert done.returncode == 1
    assert "owner/modle is no folder here, and the hub does not give it (404)" in done.stderr
    assert "Traceback" not in done.stderr
