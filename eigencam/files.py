r"""Files that a person keeps: written whole or not at all, read only where they are regular files, refused in one line.

A file is written beside its place, under a hidden name with host and process, and renamed into it: whoever reads
meanwhile sees the old file or the new one, and a write that fails leaves the old one as it was.

>>> write_text(Path("results/table.md"), "| method |\n")  # doctest: +SKIP
>>> with replacing(Path("rows.parquet"), sync=True) as beside:  # doctest: +SKIP
...     frame.to_parquet(beside)

Every OSError that leaves this module names the file asked for, never the hidden one; `one_line` says it in a sentence.
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
_HIDDEN = re.compile(r"\.writing-(?P<host>.+)-(?P<pid>\d+)-\d+(\.[^.]*)?")
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
    errno.ENOTDIR: "a file stands where a folder should be",
    errno.EEXIST: "a file stands where a folder should be",
    errno.EISDIR: "a folder stands where a file should be",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "the link leads back to itself",
    errno.EMFILE: "too many files are open; raise the limit, as with `ulimit -n 4096`",
}


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    r"""Write a UTF-8 file as a whole; what has no UTF-8 form (a path of other bytes) is written as `\udc..`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"), sync=sync)


def write_bytes(path: Path, content: bytes, *, sync: bool = False, follow: bool = True) -> None:
    """Write a file as a whole; `follow` as of `replacing`."""
    with replacing(path, sync=sync, follow=follow) as beside:
        beside.write_bytes(content)


@contextmanager
def replacing(path: Path, *, sync: bool = False, follow: bool = True) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `path` when the block ends without an error.

    The folder is made where it is missing. A file that is replaced passes on its permissions. A pipe or device
    (`/dev/stdout`) is written to directly.

    Args:
        path: the file to write.
        sync: whether its content is on the disk before it takes the place; for the name too, see `sync_folder`.
        follow: whether the file that a link leads to is written; without, the new file takes the place of whatever
            link, pipe or device stands there.

    Raises:
        OSError: the file cannot be written; `filename` is `path`, or the other file that the block failed on.
    """
    beside = None
    try:
        there = path.exists() if follow else os.path.lexists(path)
        before = path.stat(follow_symlinks=follow) if there else None
        if before and stat.S_ISDIR(before.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        is_file = before is None or stat.S_ISREG(before.st_mode)
        if follow and not is_file:
            yield path
            return
        place = path.resolve() if follow and path.is_symlink() else path
        place.parent.mkdir(parents=True, exist_ok=True)
        name = f".writing-{socket.gethostname()}-{os.getpid()}-{next(_COUNT)}{place.suffix}"
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
    """Put the names of a folder's files on the disk, for file systems that can."""
    with naming(path):
        try:
            _sync(path)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError of the block that names no file the name of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise _named(error, path) from error


def regular(path: Path) -> Path:
    """Return the path of a regular file.

    A named pipe would wait for ever for somebody who writes, and a device such as `/dev/zero` never ends.

    Raises:
        FileNotFoundError: there is none.
        ValueError: something else stands there.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: not a regular file, but {_KINDS.get(stat.S_IFMT(mode), 'something else')}")
    return path


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match, by name, without those that are still being written."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def remove_leftovers(folder: Path, *, hours: float = 24) -> list[Path]:
    """Remove what killed processes left half-written in a folder, and return its names.

    Args:
        folder: files directly in it are looked at.
        hours: age from which a file of another machine, whose processes cannot be seen from here, is left over.
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
            here = match["host"] == socket.gethostname()
            if not _runs(int(match["pid"])) if here else path.stat().st_mtime < time.time() - hours * 3600:
                found.append(path)
    return found


def one_line(error: OSError) -> str:
    """Return the file and what is wrong with it, as a person reads it.

    >>> one_line(PermissionError(13, "Permission denied", "/data/rows.parquet"))
    '/data/rows.parquet: no permission'
    """
    reason = _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    reason = " ".join(str(reason).split())
    names = [text for name in (error.filename, error.filename2) if (text := _text(name))]
    return f"{' -> '.join(names)}: {reason}" if names else reason


def first_line(error: BaseException) -> str:
    r"""Return what is wrong in one line; the kind of the error comes first where its text is for programmers.

    >>> first_line(ValueError("a\nb")), first_line(KeyError("a"))
    ('a', "KeyError: 'a'")
    """
    if isinstance(error, OSError) and error.errno:
        return one_line(error)
    line = next(iter(str(error).splitlines()), "")
    return line if isinstance(error, ValueError | OSError) and line else f"{type(error).__name__}: {line}"


def _named(error: OSError, path: Path) -> OSError:
    """Return the error of the same kind that names the file."""
    return OSError(error.errno, error.strerror or str(error) or type(error).__name__, str(path))


def _text(name: object) -> str | None:
    return None if name is None else os.fsdecode(name) if isinstance(name, bytes) else str(name)


def _runs(pid: int) -> bool:
    """Whether a process of this machine has this number."""
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
