"""Files read and written at given places by several threads at a time.

Writes go past the page cache where the system offers it (O_DIRECT): blocks that nobody reads again soon
cost no copy in the kernel, push no input out of its memory, and are on the disk when they are written,
so that no long flush waits at the end. Where a file's blocks can be set apart before, two writes are under way.
"""

import ctypes
import errno
import mmap
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from dusk.errors import CheckpointError

BLOCK_BYTES = 4 << 20
PAGE_BYTES = 4096  # what O_DIRECT wants places, lengths and memory to be multiples of
_WRITES_AT_ONCE = 2  # so that the disk has the next one while the processor fetches another
_DIRECT: int = getattr(os, "O_DIRECT", 0)
_BINARY: int = getattr(os, "O_BINARY", 0)


class InputFile:
    """A file to read from; any number of threads at a time. `handle` is the system's number of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.handle = os.open(path, os.O_RDONLY | _BINARY)

    def read_into(self, buffer: memoryview, position: int) -> None:
        """Fills the buffer from this position; raises `CheckpointError` where the file gives less."""
        while buffer:
            try:
                count = self._read(buffer, position)
            except OSError as error:
                raise CheckpointError(f"{self.path} cannot be read: {error.strerror}.") from error
            if count == 0:
                raise CheckpointError(f"{self.path} became shorter while it was read.")
            buffer, position = buffer[count:], position + count

    def announce(self, position: int, length: int) -> None:
        """Asks the system to read this range ahead; returns at once."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.handle, position, length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Gives the file back."""
        os.close(self.handle)

    def _read(self, buffer: memoryview, position: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.handle, [buffer], position)
        with self._lock:  # Windows reads at the file's own place only
            os.lseek(self.handle, position, os.SEEK_SET)
            data = os.read(self.handle, len(buffer))
        buffer[: len(data)] = data
        return len(data)


class InputFiles:
    """The files that are read, by their paths: each opened once, and all closed together."""

    def __init__(self) -> None:
        self._opened: dict[Path, InputFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._opened.values():
            file.close()

    def __getitem__(self, path: Path) -> InputFile:
        if path not in self._opened:
            self._opened[path] = InputFile(path)
        return self._opened[path]


class OutputFile:
    """A new file of known size, written in blocks that begin at multiples of `BLOCK_BYTES`, in any order.

    Leaving the context cuts it to its size, whatever the last block was rounded up to. Raises OSError at once
    where the disk has no room for all of it and the file system can say so.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path, self.size_bytes = path, size_bytes
        self._plain: int | None = None
        self._lock = threading.Lock()
        direct = open_direct(path, os.O_CREAT | os.O_TRUNC)
        self._direct = direct is not None
        self._handle = self._open(os.O_CREAT | os.O_TRUNC) if direct is None else direct
        # a file that grows takes no two writes at once, and waiting here costs less
        together = _WRITES_AT_ONCE if self._direct and self._set_apart() else 1
        self._turn = threading.BoundedSemaphore(together)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                os.ftruncate(self._handle, self.size_bytes)
        finally:
            os.close(self._handle)
            if self._plain is not None:
                os.close(self._plain)

    def write(self, block: memoryview, length: int, position: int) -> None:
        """Writes the first `length` bytes of page-aligned memory, which may be rounded up to a page."""
        with self._turn:
            if self._direct:
                try:
                    write_at(self._handle, block[: _in_pages(length)], position)
                    return
                except OSError as error:
                    if error.errno != errno.EINVAL:  # what the file system offered, but not for this block
                        raise
                    self._direct = False
            write_at(self._undirected(), block[:length], position)

    def _set_apart(self) -> bool:
        try:
            return set_apart(self._handle, _in_pages(self.size_bytes))
        except OSError:
            os.close(self._handle)
            raise

    def _undirected(self) -> int:
        with self._lock:
            if self._plain is None:
                self._plain = self._open()
            return self._plain

    def _open(self, flags: int = 0) -> int:
        return os.open(self.path, os.O_WRONLY | _BINARY | flags, 0o666)


def _in_pages(length: int) -> int:
    return -(-length // PAGE_BYTES) * PAGE_BYTES


def set_apart(handle: int, length: int, position: int = 0) -> bool:
    """Gives a part of an open file its blocks; False where the system cannot, OSError where the disk lacks them.

    Not by `os.posix_fallocate`, which writes to every block where the file system has no way to do it at once.
    """
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if fallocate is None:
        return False
    done = fallocate(handle, 0, ctypes.c_int64(position), ctypes.c_int64(length))
    if done != 0 and ctypes.get_errno() in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return bool(done == 0)


def open_direct(path: Path, flags: int = 0) -> int | None:
    """The file opened for writing past the page cache; None where the system does not offer that."""
    if not _DIRECT:
        return None
    try:
        return os.open(path, os.O_WRONLY | _DIRECT | flags, 0o666)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
        return None


def write_at(handle: int, content: bytes | memoryview, position: int) -> None:
    """Writes all of the content at this place of an open file."""
    rest = memoryview(content)
    while rest:
        if hasattr(os, "pwrite"):
            count = os.pwrite(handle, rest, position)
        else:  # Windows: one thread at a time, see `OutputFile.write` and `in_threads`
            os.lseek(handle, position, os.SEEK_SET)
            count = os.write(handle, rest)
        rest, position = rest[count:], position + count


def page_memory(size_bytes: int) -> mmap.mmap:
    """Memory that begins with a page, as O_DIRECT wants it."""
    return mmap.mmap(-1, size_bytes)
