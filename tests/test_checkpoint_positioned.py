"""Files written in blocks by several threads: past the page cache, and where that is not to be had."""

import ctypes
import errno
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dusk.checkpoint import positioned
from dusk.checkpoint.positioned import BLOCK_BYTES, OutputFile, page_memory, set_apart

SIZE = 3 * BLOCK_BYTES + 12_345
CONTENT = b"".join(bytes([number]) * BLOCK_BYTES for number in range(4))[:SIZE]


def write_all(file: OutputFile) -> None:
    def write(position: int) -> None:
        block = page_memory(BLOCK_BYTES)
        part = CONTENT[position : position + BLOCK_BYTES]
        block[: len(part)] = part
        file.write(memoryview(block), len(part), position)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, reversed(range(0, SIZE, BLOCK_BYTES))))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("apart", [True, False])
def test_blocks_in_any_order_make_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool, apart: bool
) -> None:
    if not direct:
        monkeypatch.setattr(positioned, "open_direct", lambda *_: None)
    if not apart:
        monkeypatch.setattr(positioned, "set_apart", lambda *_: False)
    with OutputFile(tmp_path / "out", SIZE) as file:
        write_all(file)
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_blocks_that_cannot_go_past_the_page_cache_go_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, refused = positioned.write_at, []

    def refusing(handle: int, content: memoryview, position: int) -> None:
        if file._direct and position == BLOCK_BYTES:
            refused.append(position)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        original(handle, content, position)

    monkeypatch.setattr(positioned, "write_at", refusing)
    with OutputFile(tmp_path / "out", SIZE) as file:
        if not file._direct:
            pytest.skip("this file system has no direct writes")
        write_all(file)
    assert refused == [BLOCK_BYTES]
    assert (tmp_path / "out").read_bytes() == CONTENT


@pytest.mark.skipif(sys.platform != "linux", reason="fallocate is Linux's")
def test_a_file_has_its_blocks_before_its_first_byte(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        if not set_apart(file.fileno(), 1 << 20):
            pytest.skip("this file system sets nothing apart")
        found = os.fstat(file.fileno())
        assert found.st_size == 1 << 20
        assert found.st_blocks * 512 >= 1 << 20
        assert set_apart(file.fileno(), 4096, 3 << 20)
        found = os.fstat(file.fileno())
    assert found.st_size == (3 << 20) + 4096  # with a hole before
    assert found.st_blocks * 512 < 2 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="fallocate is Linux's")
def test_a_disk_that_is_too_small_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def fallocate(self, *_: object) -> int:
            ctypes.set_errno(errno.ENOSPC)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Full())
    monkeypatch.setattr(positioned, "open_direct", lambda path, flags=0: os.open(path, os.O_WRONLY | flags))
    with pytest.raises(OSError, match="No space left") as refused:
        OutputFile(tmp_path / "out", SIZE)
    assert refused.value.errno == errno.ENOSPC
