"""Bytes from file to file: tensors that are copied, in runs, in constant memory, in the kernel."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dusk.checkpoint.header import TensorEntry
from dusk.checkpoint.shards import NewTensor, Shard, write_index
from dusk.errors import CheckpointError

Progress = Callable[[int, int], None]
"""Told the bytes done and the bytes in all."""

_STEP_BYTES = 64 << 20  # one call to the kernel; between two calls progress is told and Ctrl-C heard
_BUFFER_BYTES = 1 << 20
_NOT_OFFERED = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Run:
    """A range of bytes that stays together: of `file` from `begin`; `element` over and over without one."""

    file: Path | None
    begin: int
    length: int
    element: bytes = b""


def runs(tensors: Sequence[NewTensor]) -> list[Run]:
    """The ranges to write one after the other, neighbours in the source joined."""
    joined: list[Run] = []
    for new in (part for tensor in tensors for part in _parts(tensor)):
        last = joined[-1] if joined else None
        alike = last and (last.file, last.element) == (new.file, new.element)
        if last and alike and (new.file is None or last.begin + last.length == new.begin):
            joined[-1] = Run(last.file, last.begin, last.length + new.length, last.element)
        elif new.length:
            joined.append(new)
    return joined


def _parts(tensor: NewTensor) -> Iterator[Run]:
    """A tensor's bytes: its source, and constants as far as it is larger (rows of a padded vocabulary)."""
    source = tensor.source
    if source:
        yield Run(source.file, source.begin, source.bytes)
    yield Run(None, 0, tensor.bytes - (source.bytes if source else 0), tensor.element)


def write_copies(
    folder: Path, shards: Sequence[Shard], metadata: Mapping[str, str], progress: Progress | None = None
) -> None:
    """Writes the shards and their index into `folder`, every tensor copied from its source or constant."""
    total = sum(tensor.bytes for shard in shards for tensor in shard.tensors)
    done = 0
    with ExitStack() as stack:
        sources: dict[Path, int] = {}
        for shard in shards:
            with (folder / shard.file_name).open("wb", buffering=0) as target:
                target.write(shard.header(metadata))
                for run in runs(shard.tensors):
                    for step in _write_run(run, sources, stack, target.fileno()):
                        done += step
                        if progress:
                            progress(done, total)
    write_index(folder, shards)


def read_all(entry: TensorEntry) -> bytes:
    """A tensor's bytes, for small tensors."""
    with entry.file.open("rb") as stream:
        stream.seek(entry.begin)
        return stream.read(entry.bytes)


def _write_run(run: Run, sources: dict[Path, int], stack: ExitStack, target: int) -> Iterator[int]:
    if run.file is None:
        yield from _write_constant(target, run.length, run.element)
        return
    if run.file not in sources:
        sources[run.file] = os.open(run.file, os.O_RDONLY)
        stack.callback(os.close, sources[run.file])
    yield from copy_range(sources[run.file], run.begin, run.length, target)


def copy_range(source: int, begin: int, length: int, target: int) -> Iterator[int]:
    """Copies a range of one open file to the position of another; yields the bytes of each step.

    copy_file_range lets the file system share or copy the blocks; where it is not offered, sendfile
    copies in the kernel; where that is not either, the bytes pass through a buffer.

    Raises `CheckpointError` when the source ends early: somebody has cut it since its header was read.
    """
    ways = [getattr(os, "copy_file_range", None) and _by_copy_file_range, _by_sendfile, _by_buffer]
    way = 0
    position, end = begin, begin + length
    while position < end:
        copy = ways[way]
        try:
            step = copy(source, position, min(end - position, _STEP_BYTES), target) if copy else None
        except OSError as error:
            if copy is _by_buffer or error.errno not in _NOT_OFFERED:
                raise
            step = None
        if step is None:
            way += 1
            continue
        if step == 0:
            raise CheckpointError(f"A weight file ended {end - position} bytes early while it was copied.")
        position += step
        yield step


def _by_copy_file_range(source: int, position: int, length: int, target: int) -> int:
    return os.copy_file_range(source, target, length, offset_src=position)


def _by_sendfile(source: int, position: int, length: int, target: int) -> int | None:
    return os.sendfile(target, source, position, length) if hasattr(os, "sendfile") else None


def _by_buffer(source: int, position: int, length: int, target: int) -> int:
    os.lseek(source, position, os.SEEK_SET)
    data = os.read(source, min(length, _BUFFER_BYTES))
    _write_all(target, data)
    return len(data)


def _write_constant(target: int, length: int, element: bytes) -> Iterator[int]:
    buffer = element * (min(length, _BUFFER_BYTES) // len(element))
    for position in range(0, length, _BUFFER_BYTES):
        step = min(_BUFFER_BYTES, length - position)
        _write_all(target, buffer[:step])
        yield step


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
