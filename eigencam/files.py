r"""Files: written completely or not at all, read only if they are regular files, with errors in one line.

A file is written next to its destination, under a hidden name with host and process, and then renamed. Readers
see either the old file or the new one, and a write that fails leaves the old one unchanged.

>>> write_text(Path("results/table.md"), "| method |\n")  # doctest: +SKIP
>>> with replacing(Path("rows.parquet"), sync=True) as beside:  # doctest: +SKIP
...     frame.to_parquet(beside)

An OSError that leaves this module names the requested file, or another that failed, such as its folder, but never the
hidden one; `one_line` puts it in one line.
"""

import errno
import itertools
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_COUNT = itertools.count()
_TOKEN = os.urandom(3).hex()
_HIDDEN = re.compile(r"\.writing-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]+(\.[^.]*)?")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a file is in the place of a folder",
    errno.EEXIST: "a file is in the place of a folder",
    errno.EISDIR: "a folder is in the place of a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "the link leads back to itself",
    errno.EMFILE: "too many files are open; raise the limit, for example by `ulimit -n 4096`",
}


def machine() -> str:
    """Return a name of the scope in which process ids are unique: the machine and, on Linux, its process namespace.

    Containers may share the name of their machine, but each numbers its processes from 1.
    """
    try:
        return f"{socket.gethostname()}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def unique_name() -> str:
    """Return a name that no other process has, on any machine."""
    return f"{socket.gethostname()}-{os.getpid()}-{_TOKEN}"


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    r"""Write a UTF-8 file completely; for a path in it, bytes that are not UTF-8 are written as `\udc..`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"), sync=sync)


def write_bytes(path: Path, content: bytes, *, sync: bool = False, follow: bool = True) -> None:
    """Write a file completely; `follow` as in `replacing`."""
    with replacing(path, sync=sync, follow=follow) as beside:
        beside.write_bytes(content)


@contextmanager
def replacing(path: Path, *, sync: bool = False, follow: bool = True) -> Iterator[Path]:
    """Yield a path to write to, which replaces `path` when the block ends without an error.

    The folder is made if it is missing. A replaced file passes on its permissions. A pipe or device
    (`/dev/stdout`) is written to directly.

    Args:
        path: the file to write.
        sync: whether its content is flushed to the disk before it replaces `path`; `sync_folder` flushes the name.
        follow: whether to write the file that a link points to; otherwise the new file replaces the link, pipe or
            device itself.

    Raises:
        OSError: the file cannot be written; `filename` is `path`, the folder that cannot be made, or the other file on
            which the block failed.
    """
    beside = None
    try:
        existed = path.exists() if follow else os.path.lexists(path)
        before = path.stat(follow_symlinks=follow) if existed else None
        if before and stat.S_ISDIR(before.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        is_file = before is None or stat.S_ISREG(before.st_mode)
        if follow and not is_file:
            yield path
            return
        place = path.resolve() if follow and path.is_symlink() else path
        place.parent.mkdir(parents=True, exist_ok=True)
        name = f".writing-{machine()}-{os.getpid()}-{_TOKEN}{next(_COUNT)}{place.suffix}"
        beside = place.with_name(name)
        yield beside
        if before and is_file:
            beside.chmod(stat.S_IMODE(before.st_mode))
        if sync:
            _sync(beside)
        beside.replace(place)
    except BaseException as error:
        if beside:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and _text(error.filename) in (None, str(beside), str(path)):
            raise _named(error, path) from error
        raise


def sync_folder(path: Path) -> None:
    """Flush the names of a folder's files to the disk, if the file system supports it."""
    with naming(path):
        try:
            _sync(path)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the name of `path` to an OSError of the block that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise _named(error, path) from error


def regular(path: Path) -> Path:
    """Return the path of a regular file.

    A named pipe would block until somebody writes to it, and a device such as `/dev/zero` never ends.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: something else is there.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: not a regular file, but {_KINDS.get(stat.S_IFMT(mode), 'something else')}")
    return path


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return the paths in a folder that match, sorted, without hidden ones, such as files still being written."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def remove_leftovers(folder: Path, *, hours: float = 24) -> list[Path]:
    """Remove the files that killed processes left half-written in a folder, and return their paths.

    Args:
        folder: only files directly in it are considered.
        hours: minimum age of a leftover from another machine, whose processes cannot be checked from here.
    """
    removed = []
    for path in leftovers(folder, hours=hours):
        with suppress(OSError):
            path.unlink()
            removed.append(path)
    return removed


def leftovers(folder: Path, *, hours: float = 24) -> list[Path]:
    """Return what `remove_leftovers` would remove."""
    found = []
    for path in sorted(folder.glob(".writing-*")):
        if (match := _HIDDEN.fullmatch(path.name)) is None:
            continue
        with suppress(OSError):
            here = match["host"] == machine()
            if not _runs(int(match["pid"])) if here else path.stat().st_mtime < time.time() - hours * 3600:
                found.append(path)
    return found


def one_line(error: OSError) -> str:
    """Return the file and the fault in one line for a person.

    >>> one_line(PermissionError(13, "Permission denied", "/data/rows.parquet"))
    '/data/rows.parquet: no permission'
    """
    reason = _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    reason = " ".join(str(reason).split())
    names = [text for name in (error.filename, error.filename2) if (text := _text(name))]
    return f"{' -> '.join(names)}: {reason}" if names else reason


def first_line(error: BaseException) -> str:
    r"""Return the fault in one line; the kind of the error comes first where its text is meant for programmers.

    >>> first_line(ValueError("a\nb")), first_line(KeyError("a"))
    ('a', "KeyError: 'a'")
    """
    if isinstance(error, OSError) and error.errno:
        return one_line(error)
    line = next(iter(str(error).splitlines()), "")
    return line if isinstance(error, ValueError | OSError) and line else f"{type(error).__name__}: {line}"


def _named(error: OSError, path: Path) -> OSError:
    """Return an error of the same kind that names the file."""
    return OSError(error.errno, error.strerror or str(error) or type(error).__name__, str(path))


def _text(name: object) -> str | None:
    return None if name is None else os.fsdecode(name) if isinstance(name, bytes) else str(name)


def _runs(pid: int) -> bool:
    """Whether a process of this machine has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
