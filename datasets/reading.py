"""Reading of foreign files: all annotations, lists and predictions are read through this module.

    with Reading(path, "`path,class`") as file:
        for line in file.lines():
            name, label = line.split(",")
            labels[name] = int(label)

Any error inside becomes a `FileError`: one line with the file, the position in it and what was expected
(`FileNotFoundError` if there is no such file). Examples are a folder instead of a file, a truncated archive, a line in
another format, a missing key, or more numbers than fit in memory. A reader checks only what is specific to it.

Text is UTF-8, with or without a byte-order mark, or UTF-16 or UTF-32 with one; line ends may be those of any system.
Other encodings cannot be distinguished from each other, so they are refused. A gzipped file is recognised by its
content.
"""

import codecs
import csv
import gzip
import io
import json
import math
import operator
import os
import re
import stat
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
LARGEST = 4 << 30
"""Maximum number of bytes after unpacking a gzipped file."""

_MARKS = (  # UTF-32's mark begins like UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GZIP = b"\x1f\x8b"
_LONGEST = 300  # characters of a reason; a file may have lines of any length


class FileError(ValueError):
    """A file that is not as expected, with its path, the position in it ("" for the whole file) and the reason."""

    def __init__(self, path: Path | str, place: str, reason: str) -> None:
        super().__init__(str(path), place, reason)
        self.path, self.place, self.reason = Path(path), place, reason

    def __str__(self) -> str:
        return f"{', '.join(filter(None, (str(self.path), self.place)))}: {self.reason}"


class Reading:
    """One file while it is read; a context manager that turns every error into one line about the file.

    Attributes:
        path: the file.
        place: current position, e.g. `line 3`; the methods set it, and a reader may.
    """

    __slots__ = ("expected", "path", "place")

    def __init__(self, path: Path | str, expected: str = "") -> None:
        """Store the arguments; nothing is read yet.

        Args:
            path: the file.
            expected: noun for what the file, or its line, should be; it ends the message.
        """
        self.path, self.expected, self.place = Path(path), expected, ""

    def __enter__(self) -> "Reading":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not isinstance(error, Exception) or (isinstance(error, ValueError) and hasattr(error, "path")):
            return  # a FileError of another file
        if isinstance(error, FileNotFoundError):
            if error.errno is None:  # our own, which says what is missing
                return
            raise FileNotFoundError(f"{self.path}: no such file{self._ending()}") from error
        text = reason(error)
        complete = "; allowed" in text or "expected" in text
        raise FileError(self.path, self.place, text if complete else text + self._ending()) from error

    def regular(self) -> Path:
        """The path. Raises a ValueError for anything but a regular file, such as a folder or a pipe."""
        mode = os.stat(self.path).st_mode  # noqa: PTH116
        if not stat.S_ISREG(mode):
            raise ValueError("a folder" if stat.S_ISDIR(mode) else "no regular file")
        return self.path

    def raw(self) -> bytes:
        """The content as stored."""
        return self.regular().read_bytes()

    def bytes(self) -> bytes:
        """The content, unpacked if it is gzipped."""
        data = self.raw()
        if data[:2] != _GZIP:
            return data
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            data = packed.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"unpacks to more than {LARGEST >> 30} GiB")
        return data

    def text(self) -> str:
        r"""The text, with `\n` as line ends and without a byte-order mark."""
        data = self.bytes()
        encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            if encoding.startswith("utf-8"):
                before = data.count(b"\n", 0, error.start)
                self.place = f"line {before + 1}"
            raise ValueError(
                f"byte 0x{data[error.start]:02x} is not {encoding.removesuffix('-sig').upper()}; save the file as UTF-8"
            ) from None
        if "\0" in text:
            raise ValueError("NUL characters: not text, or UTF-16 without its byte-order mark; save the file as UTF-8")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def lines(self) -> Iterator[str]:
        """The lines that are not blank, stripped; `place` is the current line."""
        for number, line in enumerate(self.text().split("\n"), start=1):
            if stripped := line.strip():
                self.place = f"line {number}"
                yield stripped
        self.place = ""

    def columns(self, separator: str | None, count: int) -> Iterator[list[str]]:
        """The values of each line, stripped; `separator=None` means any white space."""
        for line in self.lines():
            values = [value.strip() for value in line.split(separator)]
            if len(values) != count:
                raise ValueError(f"{len(values)} values in {line!r}")
            yield values

    def table(self) -> Iterator[list[str]]:
        """The rows of a CSV file that are not blank; `place` is the row's last line."""
        rows = csv.reader(io.StringIO(self.text(), newline=""), strict=True)
        while True:
            self.place = f"line {rows.line_num + 1}"
            row = next(rows, None)
            if row is None:
                break
            if row:
                self.place = f"line {rows.line_num}"
                yield row
        self.place = ""

    def json(self) -> Any:
        """The content as JSON. An object with a key twice is an error: one of its values would be lost."""
        text = self.text()
        try:
            return json.loads(text, object_pairs_hook=distinct_keys)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None

    def xml(self) -> ET.Element:
        """The root of the content as XML, in the encoding that it declares."""
        return ET.fromstring(self.bytes())

    def each(self, what: str, items: Iterable[T]) -> Iterator[T]:
        """The items, counted from 0; `place` is, for example, `annotations 17`."""
        for number, item in enumerate(items):
            self.place = f"{what} {number}"
            yield item
        self.place = ""

    def _ending(self) -> str:
        return f"; expected: {self.expected}" if self.expected else ""


def distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of these pairs, for `json.loads`. Raises a ValueError if a key occurs twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for k, (key, _) in enumerate(pairs) if key in dict(pairs[:k]))
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return made


def reason(error: BaseException) -> str:
    """The error in one line of bounded length, for any type of exception."""
    if isinstance(error, KeyError) and error.args:
        text = f"no {error.args[0]!r}"
    elif isinstance(error, OSError):
        text = (error.strerror or str(error)).lower() if error.errno else str(error)
    elif isinstance(error, MemoryError):
        text = "larger than the memory"
    elif isinstance(error, RecursionError):
        text = "nested too deeply"
    else:
        text = str(error)
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def read_lines(path: Path | str, expected: str = "") -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    with Reading(path, expected) as file:
        return list(file.lines())


def integer(word: object) -> int:
    """A whole number that fits in 64 bits. Raises a ValueError for anything else."""
    try:
        plain = isinstance(word, int) and not isinstance(word, bool)
        plain = plain or (isinstance(word, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", word) is not None)
        number = int(word) if plain else math.nan  # type: ignore[call-overload]
    except ValueError:  # also raised by Python for too many digits
        number = math.nan
    if not abs(number) < 2**62:
        raise ValueError(f"{word!r} is no whole number of less than 64 bits")
    return int(number)


def decimal(word: str) -> float:
    """A number in digits of ASCII. Raises a ValueError for anything else, such as Python's `1_000`."""
    try:
        if "_" not in word and word.isascii():
            return float(word)
    except ValueError:
        pass  # reported like the others
    raise ValueError(f"{word!r} is no number")


def expand(path: Path | str) -> Path:
    """A user's path with `~`, `$NAME` and `${NAME}` replaced. Raises a ValueError for an unset variable.

    >>> os.environ["DATA"] = "/data"
    >>> expand("$DATA/VOC").as_posix()
    '/data/VOC'
    """
    text = os.path.expanduser(os.path.expandvars(os.fspath(path)))  # noqa: PTH111
    if (unset := re.search(r"\$(\w+|\{\w+\})", text)) and not os.path.lexists(text):
        raise ValueError(f"{path}: the variable {unset[0]} is not set")
    return Path(text)


def is_file(path: Path | str) -> bool:
    """Whether there is a file, for any text; False for a text that cannot be a file name."""
    return os.path.isfile(path)  # noqa: PTH113


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden or left by a system: `._a.jpg`, `.DS_Store`, `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


def files_in(folder: Path, suffixes: Sequence[str], depth: int = 0) -> Iterator[Path]:
    """The files of `paths_in`, as paths."""
    return map(Path, paths_in(folder, suffixes, depth))


def paths_in(folder: Path | str, suffixes: Sequence[str], depth: int = 0) -> Iterator[str]:
    """The files with certain suffixes, sorted by name in each folder; hidden files and folders are skipped.

    Args:
        folder: where to look; one that does not exist has no files.
        suffixes: in lower case, with the dot; matched case-insensitively.
        depth: levels of subfolders to search as well; -1 for all.
    """
    if not os.path.isdir(folder):  # noqa: PTH112
        return
    with os.scandir(folder) as entries:
        kept = sorted((entry for entry in entries if not hidden(entry.name)), key=operator.attrgetter("name"))
    top, endings = beginning(folder), tuple(suffixes)
    for entry in kept:
        if entry.name.lower().endswith(endings) and _leads_to(entry.is_file):
            yield top + entry.name
        # Without a bound, a symbolic link could make a cycle.
        elif depth and _leads_to(lambda entry=entry: entry.is_dir(follow_symlinks=depth > 0)):
            yield from paths_in(top + entry.name, suffixes, depth - 1)


def beginning(folder: Path | str) -> str:
    """The common beginning of the paths of all files in a folder."""
    return "" if Path(folder) == Path() else os.path.join(folder, "")  # noqa: PTH118


def _leads_to(kind: Callable[[], bool]) -> bool:
    """Whether an entry of a folder is of a kind; False for a broken link."""
    try:
        return kind()
    except OSError:
        return False
