"""Cache for data read from many files: an Arrow file that later runs memory-map.

    table = kept("ilsvrc-xml", files, read, version=1)     # `read` runs only if a file is new, changed or gone

The key is made of the files' paths, sizes and modification times. The cache file ends with a SHA-256 of everything
before it; a damaged one is rebuilt from its sources. Processes that map it share its memory.

The folder is `EIGENCAM_CACHE`, or `eigencam` in `XDG_CACHE_HOME` (`~/.cache`); if neither is writable, nothing is
cached.
"""

import hashlib
import mmap
import operator
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eigencam.datasets.names import image_id
from eigencam.datasets.reading import beginning
from eigencam.files import replacing

_SHA256 = 32
_CHUNK = 65_536  # number of names that are Python strings at the same time


class Names(Sequence[str]):
    """A sequence of texts that takes 8 bytes per text in addition to its characters.

    Attributes:
        texts: the UTF-8 of the texts, as an Arrow array.
    """

    def __init__(self, texts: "Iterable[str] | pa.Array | pa.ChunkedArray") -> None:
        """Pack the texts, or wrap an Arrow array of them."""
        found: Any = texts
        if isinstance(texts, pa.ChunkedArray):
            found = found.combine_chunks() if found.num_chunks != 1 else found.chunk(0)
        if not isinstance(found, pa.Array):  # a file's name may have bytes that are not text
            found = pa.array((text.encode("utf-8", "surrogatepass") for text in found), pa.large_binary())
        self.texts: Any = found.cast(pa.large_binary())

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> "Names": ...
    def __getitem__(self, i: int | slice) -> "str | Names":
        if isinstance(i, slice):
            return Names(self.texts.take(pa.array(range(len(self))[i], pa.int64())))
        return self.texts[i].as_py().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            yield from (text.decode("utf-8", "surrogatepass") for text in self.texts.slice(start, _CHUNK).to_pylist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self.texts.equals(other.texts)
        return isinstance(other, list) and list(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({len(self)}: {', '.join(map(repr, self[:3]))}{', ...' if len(self) > 3 else ''})"


class Files(Sequence[Path]):
    """Paths that take 12 bytes each in addition to the characters of the file's name.

    Attributes:
        folders: the files' folders, each once.
        codes: (N,) int32, the index of each file's folder in `folders`.
        names: the files' names, without the folder.
    """

    def __init__(self, paths: Iterable[Path | str]) -> None:
        """Pack the paths, in order."""
        known: dict[str, int] = {}
        codes, chunks = array("i"), []
        rest = (os.path.split(path) for path in paths)
        while some := list(islice(rest, _CHUNK)):
            codes.extend(known.setdefault(folder, len(known)) for folder, _ in some)
            chunks.append(Names(name for _, name in some).texts)
        self.folders = list(map(Path, known))
        self.codes: NDArray[np.int32] = np.frombuffer(codes, np.int32) if codes else np.zeros(0, np.int32)
        self.names = Names(pa.chunked_array(chunks, pa.large_binary()))

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, i: int) -> Path: ...
    @overload
    def __getitem__(self, i: slice) -> list[Path]: ...
    def __getitem__(self, i: int | slice) -> Path | list[Path]:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        return self.folders[self.codes[i]] / self.names[i]

    def __iter__(self) -> Iterator[Path]:
        return (self.folders[code] / name for code, name in zip(self.codes, self.names, strict=True))


class FileIds(Sequence[str]):
    """The ids of files below a folder: their paths without the suffix, computed on access."""

    def __init__(self, files: Files, top: Path) -> None:
        """Keep a reference to the files."""
        self._files = files
        self._folders = ["" if folder == top else f"{folder.relative_to(top).as_posix()}/" for folder in files.folders]

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        return image_id(self._folders[self._files.codes[i]] + self._files.names[i])

    def __iter__(self) -> Iterator[str]:
        pairs = zip(self._files.codes, self._files.names, strict=True)
        return (image_id(self._folders[code] + name) for code, name in pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]


def cache_folder() -> Path:
    """Return the cache folder."""
    if own := os.environ.get("EIGENCAM_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "eigencam"


def kept(name: str, files: Iterable[Path | str], read: Callable[[], pa.Table], *, version: int) -> pa.Table:
    """Return the result of `read`, from the cache if none of its sources has changed.

    Args:
        name: name of the cached data; part of the cache file's name.
        files: everything that `read` reads.
        read: makes the table; its errors are raised.
        version: version of `read`, to be raised when `read` makes another table from the same files.
    """
    digest, here = hashlib.sha256(f"{name}/{version}".encode()), beginning(Path.cwd())
    for path in (os.fspath(file) for file in files):
        found, start = os.stat(path), "" if path.startswith(os.sep) else here  # noqa: PTH116
        digest.update(f"\0{start}{path}\0{found.st_size}\0{found.st_mtime_ns}".encode(errors="surrogateescape"))
    place = cache_folder() / f"{name}-{digest.hexdigest()[:32]}.arrow"
    if (found_table := _mapped(place)) is not None:
        return found_table
    table = read()
    with suppress(OSError):
        _write(place, table)
        return _mapped(place) or table
    return table


def _write(place: Path, table: pa.Table) -> None:
    with replacing(place) as beside:
        with pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        with beside.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").digest()
        with beside.open("ab") as file:
            file.write(digest)


def _mapped(place: Path) -> pa.Table | None:
    """The table of a cache file, with columns in the mapped memory; None if there is no intact file."""
    try:
        with place.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return None
    content = memoryview(memory)
    if len(content) < _SHA256 or hashlib.sha256(content[:-_SHA256]).digest() != bytes(content[-_SHA256:]):
        return None
    return pa.ipc.open_file(pa.py_buffer(content[:-_SHA256])).read_all()
