"""Merges that are killed, run out of disk, meet a broken disk or each other; file systems that offer less."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dusk.checkpoint import positioned
from dusk.errors import CheckpointError, OutputError
from dusk.merge import merge

Models = Callable[..., Path]
WEIGHTS = "model.safetensors"


@pytest.fixture
def pair(model_folder: Models) -> list[Path]:
    return [model_folder("llama", dtype="bfloat16", seed=seed) for seed in (1, 2)]


def merged(pair: list[Path], out: Path) -> bytes:
    merge(pair, out)
    return (out / WEIGHTS).read_bytes()


def failing(kind: int, after: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """A system call that fails from the `after`-th time on."""
    calls = iter(range(10**9))

    def call(*arguments: Any) -> Any:
        if next(calls) >= after:
            raise OSError(kind, os.strerror(kind))
        return real(*arguments)

    return call


@pytest.mark.parametrize("after", [0, 5])
def test_an_input_that_cannot_be_read_is_named(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(os, "preadv", failing(errno.EIO, after, os.preadv))
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} cannot be read: Input/output error"):
        merge(pair, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_input_that_shrinks_is_named(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        merge(pair, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_gives_up(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    monkeypatch.setattr(os, "pwrite", failing(kind, 0, os.pwrite))
    with pytest.raises(OutputError, match=f"could not be written: {os.strerror(kind)}"):
        merge(pair, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_small_disk_is_refused_before_the_first_byte(
    small_disk: Callable[[str], Path], pair: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = small_disk("64k")
    with pytest.raises(OutputError, match="bytes, the disk has"):
        merge(pair, disk / "out")
    assert not list(disk.iterdir())
    monkeypatch.setattr("dusk.checkpoint.OutputFolder.require_space", lambda *_: None)
    with pytest.raises(OutputError, match="No space left on device"):
        merge(pair, disk / "out")
    assert not list(disk.iterdir())


def test_two_processes_on_one_output(pair: list[Path], tmp_path: Path) -> None:
    refused = []

    def second(*_: int) -> None:
        with pytest.raises(OutputError, match="Another process is writing") as caught:
            merge(pair, tmp_path / "out")
        refused.append(caught)

    merge(pair, tmp_path / "out", progress=second)
    assert refused
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("lack", ["O_DIRECT", "direct open", "direct write", "preadv", "pwrite", "fadvise"])
def test_systems_that_offer_less(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    expected = merged(pair, tmp_path / "plain")
    direct, real_open, real_write = positioned._DIRECT, os.open, os.pwrite
    tries = []

    def refusing_open(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if direct and flags & direct:
            tries.append(flags)
            raise OSError(errno.EINVAL, "no direct files here")
        return real_open(path, flags, *rest, **more)

    def refusing_write(handle: int, data: memoryview, position: int) -> int:
        if direct and fcntl.fcntl(handle, fcntl.F_GETFL) & direct:
            tries.append(position)
            raise OSError(errno.EINVAL, "not aligned enough")
        return real_write(handle, data, position)

    if lack == "O_DIRECT":
        monkeypatch.setattr(positioned, "_DIRECT", 0)
    elif lack == "direct open":
        monkeypatch.setattr(os, "open", refusing_open)
    elif lack == "direct write":
        monkeypatch.setattr(os, "pwrite", refusing_write)
    else:
        monkeypatch.delattr(os, {"fadvise": "posix_fadvise"}.get(lack, lack))
    assert merged(pair, tmp_path / "out") == expected
    assert bool(tries) == (lack.startswith("direct") and bool(direct))


KILLER = """
import hashlib, os, pathlib, random, shutil, signal, sys, time
from dusk.merge import merge

models, work, kills, draw = sys.argv[1:3], pathlib.Path(sys.argv[3]), int(sys.argv[4]), random.Random(sys.argv[5])
out, methods, found = work / "out", ["linear", "slerp"], {"whole": 0, "partial": 0, "nothing": 0}

def digest():
    assert {"config.json", "dusk.json", "model.safetensors"} <= set(os.listdir(out))
    assert not (work / "out.partial").exists()
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()

def child(method):
    pid = os.fork()
    if pid == 0:
        try:
            merge(models, out, method=method)
        finally:
            os._exit(0 if out.exists() else 1)
    return pid

def run_whole(method):
    begin = time.monotonic()
    assert os.waitpid(child(method), 0)[1] == 0
    seconds[method] = time.monotonic() - begin

whole, seconds = {}, {}
for method in methods:
    run_whole(method)
    whole[method] = digest()
    shutil.rmtree(out)
for number in range(kills):
    method = methods[number % 2]
    pid = child(method)
    time.sleep(draw.uniform(0, seconds[method] * 1.1))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if out.exists():
        found["whole"] += 1
        seconds[method] *= 0.8  # the machine has become faster since; whole runs tell when it is slower
        assert digest() == whole[method], number
    else:
        found["partial" if (work / "out.partial").exists() else "nothing"] += 1
        run_whole(method)
        assert digest() == whole[method], number
    assert os.listdir(work) == ["out"], number
    shutil.rmtree(out)
print(found)
assert found["partial"] > kills // 4
"""


@pytest.mark.soak
def test_killed_at_random_moments(model_folder: Models, tmp_path: Path) -> None:
    kills = 30 if os.environ.get("DUSK_SOAK") == "short" else 200
    sizes = {"vocab_size": 20_000, "hidden_size": 256, "num_hidden_layers": 2}
    models = [str(model_folder("llama", dtype="bfloat16", seed=seed, **sizes)) for seed in (1, 2)]
    (tmp_path / "work").mkdir()
    seed = os.environ.get("DUSK_SOAK_SEED", "0")
    command = [sys.executable, "-c", KILLER, *models, str(tmp_path / "work"), str(kills), seed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_disk_that_fills_up(model_folder: Models, tmp_path: Path, file_size_limit: Any) -> None:
    model = model_folder("llama")
    with file_size_limit(100_000), pytest.raises(OutputError, match="could not be written: File too large"):
        merge([model] * 2, tmp_path / "out")
    assert not list(tmp_path.iterdir())
