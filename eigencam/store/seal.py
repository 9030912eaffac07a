r"""Sealed files: the first line holds a checksum of every byte that follows it.

    {"seal": "9f86d081884c7d65…",        JSON
    # seal: 9f86d081884c7d65…            YAML

A flipped bit or a truncated end is detected when the file is read. A seal shows damage; it is no signature, since
whoever can write the file can seal it again.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eigencam.files import one_line, regular, write_bytes

BYTES = 16
"""Length of a checksum; 32 hexadecimal digits."""

LARGEST = 64 * 2**20
"""Largest size of a sealed file in bytes."""

DEEPEST = 50
"""Deepest nesting of mappings and lists in a JSON or YAML file."""

_JSON_LINE = re.compile(rb'\{"seal": "([0-9a-f]{32})",?\n')
_YAML_LINE = re.compile(rb"# seal: ([0-9a-f]{32})\n")


class DamagedError(ValueError):
    """A file of a result that has changed since it was written; holds the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: damaged: {self.reason}"


def digest(content: bytes) -> str:
    """Return the BLAKE2b checksum of some bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=BYTES).hexdigest()


def file_digest(path: Path) -> str:
    """Return the checksum of a file; a file that has not changed since the last call is not read again.

    Raises:
        FileNotFoundError: there is none.
        PermissionError: it may not be read.
        DamagedError: it cannot be read for another reason, or is not a regular file.
    """
    with _reading(path):
        about = regular(path).stat()
        return _file_digest(path, about.st_size, about.st_mtime_ns, about.st_ino)


@functools.lru_cache(maxsize=4096)
def _file_digest(path: Path, _size: int, _mtime_ns: int, _inode: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=BYTES)).hexdigest()


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        FileNotFoundError: there is none.
        PermissionError: it may not be read.
        DamagedError: it cannot be read, is larger, or is not a regular file.
    """
    with _reading(path):
        if (size := regular(path).stat().st_size) > most:
            raise DamagedError(path, f"{size} bytes; at most {most} were written")
        return path.read_bytes()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise DamagedError for read errors other than a missing file or missing permission."""
    try:
        yield
    except (FileNotFoundError, PermissionError, DamagedError):
        raise
    except OSError as error:
        raise DamagedError(path, one_line(error).removeprefix(f"{path}: ")) from None
    except ValueError as error:
        raise DamagedError(path, str(error).removeprefix(f"{path}: ")) from None


def write_json(path: Path, content: Mapping[str, Any], *, sync: bool = False) -> None:
    """Write a sealed JSON object; NaN becomes null, a tuple a list.

    Raises:
        ValueError: an infinite number, which JSON cannot represent.
    """
    body = json.dumps(strict(content), indent=1, allow_nan=False)[2:] + "\n" if content else "}\n"
    comma = "," if content else ""
    sealed = f'{{"seal": "{digest(body.encode())}"{comma}\n{body}'
    write_bytes(path, sealed.encode(), sync=sync, follow=False)


def write_yaml(path: Path, text: str) -> None:
    """Write sealed YAML text."""
    write_bytes(path, f"# seal: {digest(text.encode())}\n{text}".encode(), follow=False)


def read_json(path: Path) -> dict[str, Any]:
    """Read a sealed JSON object, without its seal.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it has changed since it was written.
    """
    content, body = _opened(path, _JSON_LINE)
    try:
        found = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DamagedError(path, f"no JSON ({type(error).__name__})") from None
    if not isinstance(found, dict) or not body:
        raise DamagedError(path, "no JSON object")
    if content.count(b"{") + content.count(b"[") > DEEPEST:
        check_depth(path, found)
    del found["seal"]
    return _encodable(found) if b"\\ud" in content.lower() else found


def read_yaml(path: Path) -> str:
    """Read sealed YAML text, without its seal; raises the errors of `read_json`."""
    try:
        return _opened(path, _YAML_LINE)[1].decode()
    except UnicodeDecodeError:
        raise DamagedError(path, "no UTF-8 text") from None


def check_depth(path: Path, content: object) -> None:
    """Raise DamagedError if mappings and lists are nested deeper than `DEEPEST`."""

    def is_deeper(value: object, left: int) -> bool:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return inside is not None and (not left or any(is_deeper(item, left - 1) for item in inside))

    if is_deeper(content, DEEPEST):
        raise DamagedError(path, f"mappings and lists nested more than {DEEPEST} deep")


def _encodable(value: Any) -> Any:
    r"""Return the value with characters that UTF-8 cannot encode replaced by text such as `\ud800`."""
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def strict(value: Any) -> Any:
    """Return the value with null for NaN and lists for tuples, so that every JSON reader accepts it."""
    if isinstance(value, Mapping):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _opened(path: Path, line: re.Pattern[bytes]) -> tuple[bytes, bytes]:
    """Return the whole content of a sealed file, and the part after the first line."""
    content = read_bytes(path, LARGEST)
    first = line.match(content)
    if not first:
        raise DamagedError(path, "no seal in its first line")
    body = content[first.end() :]
    if digest(body) != first[1].decode():
        raise DamagedError(path, "its content does not match its seal")
    return content, body
