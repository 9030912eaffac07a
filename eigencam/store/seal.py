r"""Sealed files: the first line holds a checksum of every byte that follows it.

    {"seal": "9f86d081884c7d65…",        JSON
    # seal: 9f86d081884c7d65…            YAML

A flipped bit or a missing end is seen when the file is read. A seal shows damage; it is no signature, and whoever can
write the file can seal it again.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eigencam.files import write_bytes

BYTES = 16
"""Length of a checksum; 32 hexadecimal digits."""

LARGEST = 64 * 2**20
"""Bytes that a sealed file may have."""

_JSON_LINE = re.compile(rb'\{"seal": "([0-9a-f]{32})",?\n')
_YAML_LINE = re.compile(rb"# seal: ([0-9a-f]{32})\n")


class DamagedError(ValueError):
    """A file of a result that is not what was written; carries the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: damaged: {self.reason}"


def digest(content: bytes) -> str:
    """Return the BLAKE2b checksum of some bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=BYTES).hexdigest()


def file_digest(path: Path) -> str:
    """Return the checksum of a file; a file that has not changed since is not read again."""
    about = path.stat()
    return _file_digest(path, about.st_size, about.st_mtime_ns, about.st_ino)


@functools.lru_cache(maxsize=4096)
def _file_digest(path: Path, _size: int, _mtime_ns: int, _inode: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=BYTES)).hexdigest()


def write_json(path: Path, content: Mapping[str, Any], *, sync: bool = False) -> None:
    """Write a sealed JSON object; NaN becomes null, a tuple a list.

    Raises:
        ValueError: an infinite number, which JSON has no form for.
    """
    body = json.dumps(strict(content), indent=1, allow_nan=False)[2:] + "\n" if content else "}\n"
    comma = "," if content else ""
    write_bytes(path, f'{{"seal": "{digest(body.encode())}"{comma}\n{body}'.encode(), sync=sync)


def write_yaml(path: Path, text: str) -> None:
    """Write sealed YAML text."""
    write_bytes(path, f"# seal: {digest(text.encode())}\n{text}".encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a sealed JSON object, without its seal.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not what was written.
    """
    content, body = _opened(path, _JSON_LINE)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedError(path, f"no JSON ({type(error).__name__})") from None
    if not isinstance(found, dict) or not body:
        raise DamagedError(path, "no JSON object")
    del found["seal"]
    return found


def read_yaml(path: Path) -> str:
    """Read sealed YAML text, without its seal; raises as `read_json`."""
    return _opened(path, _YAML_LINE)[1].decode()


def strict(value: Any) -> Any:
    """Return the same with null for NaN and lists for tuples: what every JSON reader takes."""
    if isinstance(value, Mapping):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _opened(path: Path, line: re.Pattern[bytes]) -> tuple[bytes, bytes]:
    """Return the whole content of a sealed file, and what follows the first line."""
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST:
            raise DamagedError(path, f"{size} bytes; at most {LARGEST} were written")
        content = file.read()
    first = line.match(content)
    if not first:
        raise DamagedError(path, "no seal in its first line")
    body = content[first.end() :]
    if digest(body) != first[1].decode():
        raise DamagedError(path, "its content does not match its seal")
    return content, body
