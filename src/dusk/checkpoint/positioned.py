"""Files read and written at given places by several threads at a time, in large blocks.

Writes go past the page cache where the system offers it (O_DIRECT): blocks that nobody reads again soon
cost no copy in the kernel, push no input out of its memory, and are on the disk when they are written,
so that no long flush waits at the end.
"""

import errno
import mmap
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from dusk.errors import CheckpointError

BLOCK_BYTES = 4 << 20
_PAGE_BYTES = 4096  # what O_DIRECT wants places, lengths and memory to be multiples of
_DIRECT: int = getattr(os, "O_DIRECT", 0)
_BINARY: int = getattr(os, "O_BINARY", 0)


class InputFile:
    """A file to read from; any number of threads at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._handle = os.open(path, os.O_RDONLY | _BINARY)

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
            os.posix_fadvise(self._handle, position, length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Gives the file back."""
        os.close(self._handle)

    def _read(self, buffer: memoryview, position: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._handle, [buffer], position)
        with self._lock:  # Windows reads at the file's own place only
            os.lseek(self._handle, position, os.SEEK_SET)
            data = os.read(self._handle, len(buffer))
        buffer[: len(data)] = data
        return len(data)


class OutputFile:
    """A new file of known size, written in blocks that begin at multiples of `BLOCK_BYTES`, in any order.

    Leaving the context cuts it to its size, whatever the last block was rounded up to.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path, self.size_bytes = path, size_bytes
        self._lock = threading.Lock()
        self._direct = bool(_DIRECT)
        self._handle = self._open(os.O_CREAT | os.O_TRUNC)

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

    def write(self, block: memoryview, length: int, position: int) -> None:
        """Writes the first `length` bytes of page-aligned memory, which may be rounded up to a page.

        One at a time: a file that grows takes no two direct writes at once, and waiting here costs less.
        """
        with self._lock:
            if self._direct:
                rounded = -(-length // _PAGE_BYTES) * _PAGE_BYTES
                try:
                    self._write_all(block[:rounded], position)
                    return
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    self._reopen()
            self._write_all(block[:length], position)

    def _open(self, flags: int) -> int:
        if self._direct:
            try:
                return os.open(self.path, os.O_WRONLY | _DIRECT | flags, 0o666)
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                    raise
                self._direct = False
        return os.open(self.path, os.O_WRONLY | _BINARY | flags, 0o666)

    def _reopen(self) -> None:
        """Without O_DIRECT, which the file system offered but does not hold for this block."""
        self._direct = False
        os.close(self._handle)
        self._handle = self._open(0)

    def _write_all(self, data: memoryview, position: int) -> None:
        while data:
            os.lseek(self._handle, position, os.SEEK_SET)
            count = os.write(self._handle, data)
            data, position = data[count:], position + count


def block_memory() -> mmap.mmap:
    """Memory for one block, aligned as `OutputFile.write` wants it."""
    return mmap.mmap(-1, BLOCK_BYTES)
