"""Locks that end with their process: one process at a time writes a result, or uses a GPU.

The kernel holds them (`flock`), so a killed process leaves nothing locked, even if the machine is renamed meanwhile.
A file system without such locks (NFS without lockd, some FUSE mounts) is reported. There is no substitute, since
a file that only stands for a lock outlives its process.
"""

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""Errors of file systems if another process holds the lock."""

MISSING = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
"""Errors of file systems without such locks, or without locks for read-only files."""

TRIES = 10
"""Attempts, 20 ms apart, before a lock counts as held: a process that calls `is_held` holds it for a moment."""


class HeldError(ValueError):
    """Another process holds the lock."""


class NoLocksError(ValueError):
    """The file system has no locks."""


@dataclass(slots=True)
class Lock:
    """A lock that this process holds until it is released or the process ends."""

    path: Path
    _number: int | None

    def stands(self) -> bool:
        """Whether its file still exists: whoever removes a folder also removes the files of its locks."""
        if self._number is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._number), self.path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._number is not None:
            os.close(self._number)
            self._number = None

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def take(path: Path, *, wait: bool = False, for_everybody: bool = False, needed: bool = True) -> Lock:
    """Take the lock of a file. The file is made if it is missing, and stays.

    Args:
        path: the file.
        wait: whether to wait until the lock is free.
        for_everybody: whether other users of the machine may take it, too.
        needed: whether to refuse a file system without locks; if not, a lock there has no effect.

    Raises:
        HeldError: another process holds it.
        NoLocksError: the file system has no locks.
        OSError: the file cannot be made or opened.
    """
    number = _opened(path, for_everybody=for_everybody)
    try:
        for left in reversed(range(TRIES)):
            try:
                _flock(number, shared=False, wait=wait)
            except OSError as error:
                if error.errno in MISSING and not needed:
                    return Lock(path, number)
                if error.errno in MISSING:
                    raise NoLocksError(_without(path, error)) from None
                if error.errno not in HELD:
                    raise OSError(error.errno, error.strerror, str(path)) from error
                if not left:
                    raise HeldError(f"{path}: another process has this lock") from None
                time.sleep(0.02)
            else:
                return Lock(path, number)
    except BaseException:
        os.close(number)
        raise
    raise AssertionError("the last attempt returns or raises")


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; False if the file may not be read."""
    with suppress(OSError):
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)  # O_NONBLOCK for pipes
        try:
            _flock(number, shared=True, wait=False)
        except OSError as error:
            return error.errno in HELD
        finally:
            os.close(number)
    return False


def _flock(number: int, *, shared: bool, wait: bool) -> None:
    if fcntl is None:
        raise OSError(errno.ENOSYS, "no file locks on this system")
    fcntl.flock(number, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def _opened(path: Path, *, for_everybody: bool) -> int:
    """Return the file's descriptor; another user's file is opened for reading, which is enough on a local disk."""
    common = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | common, 0o666)
    except FileExistsError:  # in a folder such as /tmp, O_CREAT would refuse another user's file
        try:
            return os.open(path, os.O_RDWR | common)
        except PermissionError:
            return os.open(path, os.O_RDONLY | common)
    if for_everybody:
        os.fchmod(number, 0o666)
    return number


def _without(path: Path, error: OSError) -> str:
    return (
        f"{path.parent}: this file system has no file locks ({error.strerror}), which keep two processes from writing "
        "one result; own_folder=true lets every process write a folder of its own, which `eigencam merge` puts "
        "together afterwards"
    )
