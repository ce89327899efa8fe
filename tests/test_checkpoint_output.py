"""The output folder: whole or not there, one writer at a time, leftovers continued or cleared."""

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from dusk.checkpoint import Manifest, OutputFolder, Source, output, read_manifest, write_card, write_manifest
from dusk.errors import CheckpointError, OutputError, SettingError


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_commit_is_a_rename(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "deep" / "out") as folder:
        (folder.path / "sub").mkdir()
        (folder.path / "sub" / "file").write_text("x")
        assert folder.path == tmp_path / "deep" / "out.partial"
        assert not folder.out.exists()
        assert folder.commit() == tmp_path / "deep" / "out"
    assert names(tmp_path / "deep") == {"out"}
    assert names(tmp_path / "deep" / "out") == {"sub"}


def test_windows_syncs_files_open_for_writing_and_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, flags = os.open, {}

    def as_windows(path: Path, mode: int) -> int:
        if path.is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        flags[path.name] = mode
        return real(path, mode)

    with OutputFolder(tmp_path / "out") as folder:
        (folder.path / "sub").mkdir()
        (folder.path / "sub" / "file").write_text("x")
        monkeypatch.setattr(output, "os", SimpleNamespace(**vars(os) | {"name": "nt", "open": as_windows}))
        folder.commit()
    assert flags == {".dusk-partial": os.O_RDWR, "file": os.O_RDWR}
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_an_existing_output_is_refused(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("")
    else:
        out.symlink_to("nowhere")
    with pytest.raises(SettingError, match="exists already"), OutputFolder(out):
        pass
    assert names(tmp_path) == {"out"}


def fail_half_way(out: Path, key: str | None = None) -> tuple[bool, set[str]]:
    """A run that dies; whether it continued an earlier one, and what it found."""
    found: tuple[bool, set[str]] = (False, set())
    with suppress(ZeroDivisionError), OutputFolder(out, key) as folder:
        found = folder.resumed, names(folder.path)
        (folder.path / "half").write_text("x")
        raise ZeroDivisionError
    return found


def test_a_failure_leaves_nothing_without_a_key(tmp_path: Path) -> None:
    fail_half_way(tmp_path / "out")
    assert names(tmp_path) == set()


def test_a_failure_is_continued_with_the_same_key_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert fail_half_way(out, "a") == (False, {".dusk-partial"})
    assert fail_half_way(out, "a") == (True, {".dusk-partial", "half"})
    with OutputFolder(out, "b") as folder:
        assert not folder.resumed
        assert not (folder.path / "half").exists()
        folder.commit()
    assert names(out) == set()


def test_the_leftover_of_a_kill_is_cleared(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from dusk.checkpoint import OutputFolder\n"
        "with OutputFolder(sys.argv[1]) as folder:\n"
        "    (folder.path / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert "half" in names(tmp_path / "out.partial")
    with OutputFolder(tmp_path / "out") as folder:
        assert not (folder.path / "half").exists()
        folder.commit()
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"resume_key": 3}'])
def test_a_half_written_marker_is_a_leftover(tmp_path: Path, content: str) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / ".dusk-partial").write_text(content)
    (tmp_path / "out.partial" / "half").write_text("")
    with OutputFolder(tmp_path / "out", "a") as folder:
        assert not folder.resumed
        assert names(folder.path) == {".dusk-partial"}


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").write_text("x")
    with pytest.raises(SettingError, match="no leftover of dusk"), OutputFolder(tmp_path / "out"):
        pass
    assert (tmp_path / "out.partial" / "thesis.tex").exists()


def test_two_processes_cannot_write_one_output(tmp_path: Path) -> None:
    code = (
        "import sys; from dusk.checkpoint import OutputFolder\n"
        "from dusk.errors import OutputError\n"
        "try:\n    OutputFolder(sys.argv[1]).__enter__()\n"
        "except OutputError as error: print(error.message)"
    )
    with OutputFolder(tmp_path / "out", "a") as folder:
        (folder.path / "mine").write_text("x")
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, check=True
        )
        assert "Another process is writing" in other.stdout
        assert (folder.path / "mine").exists()
        folder.commit()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_gives_up_is_one_clear_message(tmp_path: Path, number: int) -> None:
    with pytest.raises(OutputError, match="could not be written") as caught, OutputFolder(tmp_path / "out"):
        raise OSError(number, os.strerror(number))
    assert os.strerror(number) in str(caught.value)
    assert names(tmp_path) == set()
    with pytest.raises(OutputError, match="No space left"), OutputFolder(tmp_path / "out"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(FileNotFoundError), OutputFolder(tmp_path / "out"):
        raise FileNotFoundError(errno.ENOENT, "an input's own fault stays what it is")


def test_space_is_asked_for_first(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="needs 1,000,000,000,000,000,000 bytes"),
        OutputFolder(tmp_path / "out") as folder,
    ):
        folder.require_space(10**18)
    with pytest.raises(OutputError, match="could not be written"), OutputFolder(Path("/proc/nowhere/out")):
        pass


def test_manifests_round_trip(tmp_path: Path) -> None:
    manifest = Manifest(
        "sft",
        (Source("/a", "owner/a@main", "sha256:1"),),
        settings={"lr": 1e-5, "x": "a|b"},
        results={"loss": 1.25},
    )
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    data = json.loads((tmp_path / "dusk.json").read_text())
    assert list(data) == ["dusk", "command", "inputs", "layer_map", "settings", "versions", "results"]
    card = write_card(tmp_path).read_text()
    assert 'base_model:\n- "owner/a"\n' in card
    assert "| x | a\\|b |" in card
    (tmp_path / "dusk.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no manifest"):
        read_manifest(tmp_path)
    (tmp_path / "dusk.json").unlink()
    assert read_manifest(tmp_path) is None
    with pytest.raises(CheckpointError, match=r"no dusk\.json"):
        write_card(tmp_path)
