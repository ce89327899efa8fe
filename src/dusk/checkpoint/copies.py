"""Bytes from file to file, in runs and in constant memory: shared where the file system can, else copied.

Three ways, each where the one before is not offered:
1. FICLONERANGE: the file system shares the blocks (XFS, btrfs); whole blocks at equal places in them.
2. On a disk of this machine: read into a buffer and write past the page cache (O_DIRECT). copy_file_range
   copies page by page there, for four times the processor's time, and leaves the disk to wait for.
3. copy_file_range, which a network file system can answer without moving a byte; then plain reads and
   writes (macOS, Windows, old kernels).
"""

import errno
import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from dusk.checkpoint.pickles import PICKLE_SUFFIX
from dusk.checkpoint.positioned import (
    PAGE_BYTES,
    InputFile,
    InputFiles,
    open_direct,
    page_memory,
    set_apart,
    write_at,
)
from dusk.checkpoint.runs import Run, runs
from dusk.checkpoint.shards import BLOCK_BYTES, Shard, write_index
from dusk.checkpoint.threads import in_threads

Progress = Callable[[int, int], None]
"""Told the bytes done and the bytes in all."""

_BUFFER_BYTES = 4 << 20
_KERNEL_BYTES = 64 << 20  # one call of copy_file_range; between two of them Ctrl-C is heard
_FICLONERANGE = 0x4020940D  # linux/fs.h: _IOW(0x94, 13, struct file_clone_range)
_NOT_OFFERED = {
    *(errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.ENOTTY),
    *(errno.ETXTBSY, errno.EISDIR),
}


@dataclass(frozen=True, slots=True)
class Part:
    """`length` bytes from `begin` of the file `source`, for `position` of the target."""

    source: InputFile
    begin: int
    position: int
    length: int

    def cut(self, first: int, last: int) -> Iterator["Part"]:
        """What lies between these offsets of the part; nothing where that is empty."""
        if last > first:
            yield Part(self.source, self.begin + first, self.position + first, last - first)


def write_copies(
    folder: Path,
    shards: Sequence[Shard],
    metadata: Mapping[str, str],
    progress: Progress | None = None,
    digests: dict[str, str] | None = None,
) -> int:
    """Writes the shards and their index into `folder`, every tensor copied from its source or constant.

    Where `digests` are asked for, those (SHA-256) of the tensors whose bytes pass through memory are put there by
    name; not those of tensors that are shared or constant.
    Returns how many bytes the file system shares with the sources.
    """
    told = _Told(sum(shard.data_bytes for shard in shards), progress)
    shared = 0
    with InputFiles() as sources:
        for shard in shards:
            with Target(folder / shard.file_name) as target:
                parts = target.begin(shard, metadata, sources, told)
                rest = [piece for part in parts for piece in target.share(part)]
                saved = sum(part.length for part in parts) - sum(piece.length for piece in rest)
                shared += saved
                told.add(saved)
                if digests is not None:
                    whole, rest = _whole_tensors(shard, rest, len(shard.header(metadata)))
                    target.copy_tensors(whole, told, digests)
                target.copy(rest, told)
    write_index(folder, shards)
    return shared


def _whole_tensors(
    shard: Shard, parts: Sequence[Part], position: int
) -> tuple[list[tuple[str, Part]], list[Part]]:
    """The tensors that lie whole in one of the parts, and the rest; the shard's data begin at `position`."""
    whole: list[tuple[str, Part]] = []
    rest = list(parts)
    for tensor in shard.tensors:
        for part in rest:
            first = position - part.position
            if first >= 0 and first + tensor.bytes <= part.length and tensor.bytes:
                whole += [(tensor.name, piece) for piece in part.cut(first, first + tensor.bytes)]
                rest.remove(part)
                rest += [*part.cut(0, first), *part.cut(first + tensor.bytes, part.length)]
                break
        position += tensor.bytes
    return whole, rest


class Target:
    """A file that is being written: shared, past the page cache, or as the system can."""

    def __init__(self, file: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        self.handle = os.open(file, flags, 0o666)
        self.direct = open_direct(file) if _is_on_a_disk(self.handle) else None
        self._kernel_copies = self.direct is None and hasattr(os, "copy_file_range")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.handle)
        if self.direct is not None:
            os.close(self.direct)

    def begin(
        self, shard: Shard, metadata: Mapping[str, str], sources: InputFiles, told: "_Told"
    ) -> list[Part]:
        """Writes the header and the constants and gives the file its length.

        Zeros are written by nobody: the file has holes there, which take no room.
        """
        header = shard.header(metadata)
        write_at(self.handle, header, 0)
        os.truncate(self.handle, len(header) + shard.data_bytes)
        parts, position = [], len(header)
        for run in runs(shard.tensors):
            if run.file is None:
                self._fill(run, position)
                told.add(run.length)
            else:
                parts.append(Part(sources[run.file], run.begin, position, run.length))
            position += run.length
        return parts

    def _fill(self, run: Run, position: int) -> None:
        if not any(run.element):
            return
        constants = run.element * (_BUFFER_BYTES // len(run.element))
        for begin in range(0, run.length, len(constants)):
            write_at(self.handle, constants[: run.length - begin], position + begin)

    def share(self, part: Part) -> Iterator[Part]:
        """Shares the part's whole blocks; what is left to copy."""
        first = -part.begin % BLOCK_BYTES
        last = part.length - (part.begin + part.length) % BLOCK_BYTES
        apart = (part.begin - part.position) % BLOCK_BYTES
        if apart or last <= first or not share_range(self.handle, next(part.cut(first, last))):
            yield part
            return
        yield from part.cut(0, first)
        yield from part.cut(last, part.length)

    def copy(self, parts: Sequence[Part], told: "_Told") -> None:
        """Copies the parts, several pieces at a time."""

        def work(pieces: Iterator[Part]) -> None:
            buffer = memoryview(page_memory(_BUFFER_BYTES))
            for piece in pieces:
                self._copy_piece(piece, buffer, self._by_kernel(piece) if self._kernel_copies else 0)
                told.add(piece.length)

        self._set_apart(parts)
        step = _KERNEL_BYTES if self._kernel_copies else _BUFFER_BYTES
        in_threads(work, [piece for part in parts for piece in _pieces(part, step)])

    def copy_tensors(self, parts: Sequence[tuple[str, Part]], told: "_Told", digests: dict[str, str]) -> None:
        """Copies named parts, several at a time, and notes the digest of each under its name."""

        def work(share: Iterator[tuple[str, Part]]) -> None:
            buffer = memoryview(page_memory(_BUFFER_BYTES))
            for name, part in share:
                digest = hashlib.sha256()
                for piece in _pieces(part, _BUFFER_BYTES):
                    self._copy_piece(piece, buffer)
                    digest.update(buffer[: piece.length])
                    told.add(piece.length)
                digests[name] = digest.hexdigest()

        self._set_apart([part for _, part in parts])
        in_threads(work, parts)

    def _set_apart(self, parts: Sequence[Part]) -> None:
        """Blocks for what is copied; what is shared has them, and zeros need none."""
        if self.direct is not None:
            for part in parts:
                set_apart(self.handle, part.length, part.position)

    def _copy_piece(self, piece: Part, buffer: memoryview, done: int = 0) -> None:
        while done < piece.length:
            length = min(len(buffer), piece.length - done)
            (step,) = piece.cut(done, done + length)
            with buffer[:length] as content:
                step.source.read_into(content, step.begin)
                self._write(content, step.position)
            done += length

    def _write(self, content: memoryview, position: int) -> None:
        if self.direct is not None and position % PAGE_BYTES == len(content) % PAGE_BYTES == 0:
            try:
                write_at(self.direct, content, position)
                return
            except OSError as error:
                if error.errno != errno.EINVAL:  # a device with larger sectors
                    raise
        write_at(self.handle, content, position)

    def _by_kernel(self, piece: Part) -> int:
        """How much of the piece copy_file_range copied; nothing where it is not offered."""
        source, done = piece.source.handle, 0
        try:
            while done < piece.length:
                left = piece.length - done
                step = os.copy_file_range(
                    source, self.handle, left, piece.begin + done, piece.position + done
                )
                if step == 0:
                    break
                done += step
        except OSError as error:
            if error.errno in _NOT_OFFERED:
                self._kernel_copies = False
            elif error.errno != errno.EIO:  # whose fault that is, reading and writing the rest will tell
                raise
        return done


class _Told:
    """The bytes done, told to whoever wants to know."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many bytes more are done."""
        with self._lock:
            self._done += count
            if self._progress and count:
                self._progress(self._done, self._total)


def share_range(target: int, part: Part) -> bool:
    """Lets the target share these blocks of the source; whether the file system does that."""
    try:
        import fcntl  # not on Windows
    except ImportError:
        return False
    request = struct.pack("qQQQ", part.source.handle, part.begin, part.length, part.position)
    try:
        fcntl.ioctl(target, _FICLONERANGE, request)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        return False
    return True


def can_share(source: Path, folder: Path) -> bool:
    """Whether files in `folder` can share the blocks of `source`; tried with one block."""
    trial = folder / "trial-of-sharing"
    try:
        with InputFiles() as sources, Target(trial) as target:
            if source.stat().st_size < BLOCK_BYTES or source.suffix == PICKLE_SUFFIX:
                return False
            return share_range(target.handle, Part(sources[source], 0, 0, BLOCK_BYTES))
    finally:
        trial.unlink(missing_ok=True)


def _is_on_a_disk(handle: int) -> bool:
    """Whether a file lies on a block device, not on a network, memory or stacked file system."""
    return hasattr(os, "major") and os.major(os.fstat(handle).st_dev) != 0


def _pieces(part: Part, step: int) -> Iterator[Part]:
    """The part in pieces, of whole pages where it can be."""
    first = min(-part.position % PAGE_BYTES, part.length)
    last = part.length - min((part.position + part.length) % PAGE_BYTES, part.length - first)
    yield from part.cut(0, first)
    for begin in range(first, last, step):
        yield from part.cut(begin, min(begin + step, last))
    yield from part.cut(last, part.length)
