"""Scaling that is killed, that fills the disk, and that runs twice: never a folder that passes for whole."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dusk.checkpoint import OutputFolder, verify
from dusk.errors import OutputError
from dusk.scale import scale

Models = Callable[..., Path]
KILLS = 20 if os.environ.get("DUSK_SOAK") == "short" else 200
SCALE = """
import sys
from dusk.errors import DuskError
from dusk.scale import scale
sys.stdin.readline()  # everything is imported: begin
try:
    scale(*sys.argv[1:], shard_limit_bytes=1000)
except DuskError as error:
    sys.exit(str(error))
"""


@pytest.mark.soak
def test_kills_leave_nothing_that_passes_for_whole(model_folder: Models, tmp_path: Path) -> None:
    base, out = model_folder("llama", shard="40KB"), tmp_path / "out"
    draw = random.Random(os.environ.get("DUSK_SOAK_SEED", "0"))
    command = [sys.executable, "-c", SCALE, str(base), str(out)]
    seconds = 0.5  # about what a run takes; found as the kills go on, on both sides of the end
    found = {"whole": 0, "partial": 0, "nothing": 0}
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.5, 1.2) * seconds)
        process.kill()
        process.wait()
        if out.exists():
            found["whole"] += 1
            seconds *= 0.95
            assert verify(out).ok
            shutil.rmtree(out)
        else:
            seconds *= 1.05
            found["partial" if Path(f"{out}.partial").exists() else "nothing"] += 1
    print(found)
    assert found["whole"], "the kills must fall on both sides of the end"
    assert found["partial"]
    scale(base, out)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_of_two_processes_on_one_output_one_wins(model_folder: Models, tmp_path: Path) -> None:
    base, out = model_folder("llama", vocab_size=50_000), tmp_path / "out"
    command = [sys.executable, "-c", SCALE, str(base), str(out)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    time.sleep(1)  # both stand before the first line
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    (loser,) = (text for text in told if text)
    assert "Another process is writing" in loser or "exists already" in loser
    assert verify(out).ok
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_small_disk_is_refused_before_the_first_byte(
    model_folder: Models, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("200k")
    with pytest.raises(OutputError, match=r"out needs [\d,]+ bytes, the disk has [\d,]+ left"):
        scale(model_folder("llama"), disk / "out")
    assert not list(disk.iterdir())


def test_a_disk_that_is_full_in_the_midst(
    model_folder: Models, small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program takes the room after it was asked for."""
    disk = small_disk("200k")
    monkeypatch.setattr(OutputFolder, "require_space", lambda *_: None)
    with pytest.raises(OutputError, match="could not be written: No space left on device"):
        scale(model_folder("llama"), disk / "out")
    assert not list(disk.iterdir())
