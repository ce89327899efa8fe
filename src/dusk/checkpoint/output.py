"""The output folder that is either whole or not there.

Work goes on in OUT.partial under a lock; `commit` puts it on the disk and renames it to OUT in one
step. A failure or a kill leaves OUT.partial; the next run continues it when it does the same work
(the same resume key), and clears it away when it does not.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from dusk.errors import OutputError, SettingError

MARKER = ".dusk-partial"
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}


class OutputFolder:
    """A context that owns OUT until it is whole.

    `path` is OUT.partial. With a `resume_key`, a leftover of the same key is kept (`resumed` is true)
    and a failure keeps what was done; without, each run starts empty and a failure leaves nothing.

    Entering raises `SettingError` when OUT exists, `OutputError` when another process is writing it or
    the disk refuses. With `waits` it waits for the other process instead, and raises `SettingError` when that
    has made OUT. A full or failing disk inside the context becomes an `OutputError`.
    """

    def __init__(self, out: str | Path, resume_key: str | None = None, *, waits: bool = False) -> None:
        self.out = Path(out)
        self.path = Path(f"{self.out}.partial")
        self.resume_key = resume_key
        self.waits = waits
        self.resumed = False
        self._lock: int | None = None
        self._committed = False

    def __enter__(self) -> Self:
        refuse_existing(self.out)
        try:
            self.out.absolute().parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquire()
            self._prepare()
        except OSError as error:
            self._release()
            raise _disk_error(self.path, error) from error
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._committed and self.resume_key is None:
                with suppress(OSError):
                    _clear(self.path)
                    self.path.rmdir()
        finally:
            self._release()
        if _is_disk_error(error):
            raise _disk_error(self.out, error) from error

    def require_space(self, needed_bytes: int) -> None:
        """Raises `OutputError` when the disk has less than this left."""
        free = shutil.disk_usage(self.path).free
        if needed_bytes > free:
            raise OutputError(
                f"{self.out} needs {needed_bytes:,} bytes, the disk has {free:,} left.",
                remedy="Make room or choose another disk; nothing was written.",
            )

    def commit(self) -> Path:
        """Writes everything through to the disk and renames OUT.partial to OUT."""
        try:
            for entry in [*_walk(self.path), self.path]:
                _sync(entry)
            refuse_existing(self.out)
            self.path.rename(self.out)
            (self.out / MARKER).unlink(missing_ok=True)  # last: a kill before it leaves OUT whole
            _sync(self.out.absolute().parent)
        except OSError as error:
            raise _disk_error(self.out, error) from error
        self._committed = True
        return self.out

    def _acquire(self) -> int | None:
        """A lock on the folder itself, so that it goes with the process and leaves no file behind."""
        try:
            import fcntl  # not on Windows, where the rename alone guards OUT
        except ImportError:
            self.path.mkdir(exist_ok=True)
            return None
        while True:
            self.path.mkdir(exist_ok=True)
            try:
                lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if self.waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise OutputError(
                    f"Another process is writing {self.out} (it holds {self.path}).",
                    remedy="Wait for it, or choose another output.",
                ) from None
            if _same_folder(lock, self.path):
                return lock
            os.close(lock)  # its owner renamed or removed it between our opening and our lock
            refuse_existing(self.out)

    def _prepare(self) -> None:
        marker = self.path / MARKER
        contents = {entry.name for entry in self.path.iterdir()}
        if contents and not contents & {MARKER, "dusk.json"}:
            raise SettingError(
                f"{self.path} exists and is no leftover of dusk.",
                remedy="Move it away, or choose another output.",
            )
        self.resumed = self.resume_key is not None and _read_key(marker) == self.resume_key
        if not self.resumed:
            _clear(self.path)
            marker.write_text(json.dumps({"resume_key": self.resume_key}), encoding="utf-8")

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def refuse_existing(out: Path) -> None:
    """Raises `SettingError` when something has this name already."""
    if out.exists() or out.is_symlink():
        raise SettingError(
            f"{out} exists already; dusk never writes over a result.",
            remedy="Choose another output, or remove it.",
        )


def _same_folder(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _read_key(marker: Path) -> str | None:
    with suppress(OSError, ValueError, AttributeError):
        key = json.loads(marker.read_text(encoding="utf-8")).get("resume_key")
        return key if isinstance(key, str) else None
    return None


def _clear(folder: Path) -> None:
    """Empties the folder, the marker last, so that a kill in between leaves a known leftover."""
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name == MARKER)
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_symlink():
            continue
        if entry.is_dir():
            yield from _walk(entry)
        yield entry


def _sync(path: Path) -> None:
    """Writes a file or folder through to the disk; systems that cannot sync folders are let be."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows syncs what may be written
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


def _is_disk_error(error: BaseException | None) -> bool:
    """Whether a disk gave up; safetensors and torch report it as text."""
    if isinstance(error, OSError):
        return error.errno in _DISK_ERRORS
    return isinstance(error, Exception) and "No space left on device" in str(error)


def _disk_error(out: Path, error: BaseException | None) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) else "No space left on device"
    return OutputError(
        f"{out} could not be written: {reason}.",
        remedy="Check the disk's space and rights; no half-written result was left under that name.",
    )
