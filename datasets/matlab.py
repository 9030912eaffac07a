"""MATLAB files of version 5 to 7: arrays of numbers, texts, structs and cells, read without MATLAB.

    file       header of 128 bytes, elements
    element    type, number of bytes, data padded to a multiple of 8 bytes; with up to 4 bytes of data, 8 bytes in all
    array      an element made of elements: flags, dimensions, name, content

Every access is checked against the lengths that the file states and the bytes that it has. scipy's reader trusts the
file: one wrong byte may crash the process.

Reference: "MAT-File Format", The MathWorks.
"""

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.reading import LARGEST, Reading

EXPECTED = "a MATLAB file, version 5 to 7"
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_ARRAY, _COMPRESSED = 14, 15
_CELL, _STRUCT, _TEXT = 1, 2, 4
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x0800
_DEEPEST = 32


def read_matlab(file: Reading, names: Collection[str]) -> dict[str, Any]:
    """Read variables.

    Args:
        file: the file, within its `with` block.
        names: names of the variables; others are skipped.

    Returns:
        The value of each variable that exists: an array, a text, a list of dictionaries for a struct array, or
        a list of a cell array's elements.
    """
    data = file.raw()
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        kept = "; version 7.3 is HDF5, save it with -v7" if data[:8] == b"\x89HDF\r\n\x1a\n" else ""
        raise ValueError(f"no header of a MATLAB file{kept}")
    found: dict[str, Any] = {}
    whole = _Elements(data, order)
    for kind, start, stop in whole.between(128, len(data)):
        elements = whole
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(data[start:stop], LARGEST)
            elements = _Elements(unpacked, order)
            kind, start, stop, _ = elements.at(0, len(unpacked))
        if kind != _ARRAY:
            raise ValueError(f"an element of type {kind}, {stop - start} bytes, where an array should be")
        name, value = elements.array(start, stop, names)
        if name in names:
            found[name] = value
    return found


class _Elements:
    """The elements of a file, by their position in it."""

    __slots__ = ("data", "numbers", "order", "tag")

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order = data, order
        self.tag = struct.Struct(order + "II").unpack_from
        self.numbers = {kind: np.dtype(order + name) for kind, name in _NUMBERS.items()}

    def at(self, start: int, end: int) -> tuple[int, int, int, int]:
        """The element at a position: type, first byte, end (exclusive), position of the next element."""
        if start + 8 > end:
            raise ValueError("it ends within an element")
        kind, length = self.tag(self.data, start)
        if kind >> 16:  # type and length share four bytes, then the data
            length = kind >> 16
            if length > 4:
                raise ValueError(f"a short element of {length} bytes")
            return kind & 0xFFFF, start + 4, start + 4 + length, start + 8
        start += 8
        if start + length > end:
            raise ValueError(f"an element of {length} bytes where {end - start} are left")
        return kind, start, start + length, start + length + (0 if kind == _COMPRESSED else -length % 8)

    def between(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Type, first byte and end (exclusive) of each element."""
        while start < end:
            kind, first, last, start = self.at(start, end)
            yield kind, first, last

    def array(self, start: int, end: int, names: Collection[str] | None = None, depth: int = 0) -> tuple[str, Any]:
        """Name and content of an array; the content is None if the name is not requested."""
        if depth > _DEEPEST:
            raise ValueError("arrays nested too deeply")
        if start == end:  # MATLAB's empty cell
            return "", np.zeros((0, 0))
        _, first, last, start = self.at(start, end)
        if last - first != 8:
            raise ValueError(f"flags of {last - first} bytes")
        flags, _ = self.tag(self.data, first)
        dimensions, start = self._read(start, end)
        shape = tuple(dimensions.tolist())
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError(f"an array of the dimensions {shape}")
        _, first, last, start = self.at(start, end)
        name, kind = self.data[first:last].decode("latin-1"), flags & 0xFF
        if names is not None and name not in names:
            return name, None
        if kind in (_CELL, _STRUCT):
            nested = self._cells if kind == _CELL else self._structs
            return name, nested(start, end, math.prod(shape), depth + 1)
        if kind == _TEXT:
            return name, self._text(start, end)
        if kind not in _CLASSES or flags & _COMPLEX:
            raise ValueError(f"{name!r} is an array of class {kind}{', complex' if kind in _CLASSES else ''}")
        values, _ = self._read(start, end)
        if len(values) != math.prod(shape):
            raise ValueError(f"{len(values)} numbers of an array of {shape}")
        return name, values.astype(_CLASSES[kind]).reshape(shape, order="F")

    def _cells(self, start: int, end: int, count: int, depth: int) -> list[Any]:
        """The content of a cell array."""
        cells = [self.array(first, last, None, depth)[1] for _, first, last in self.between(start, end)]
        if len(cells) != count:
            raise ValueError(f"{len(cells)} cells of an array of {count}")
        return cells

    def _structs(self, start: int, end: int, count: int, depth: int) -> list[dict[str, Any]]:
        """The elements of a struct array."""
        width, start = self._read(start, end)
        _, first, last, start = self.at(start, end)
        step = int(width[0]) if len(width) == 1 else 0
        if not 0 < step <= 64 or (last - first) % step:
            raise ValueError("a struct without names of its fields")
        ends = range(first, last, step)
        fields = [self.data[k : k + step].partition(b"\0")[0].decode("latin-1") for k in ends]
        values = self._cells(start, end, count * len(fields), depth)
        starts = range(0, len(values), max(1, len(fields)))
        return [dict(zip(fields, values[k : k + len(fields)], strict=True)) for k in starts]

    def _read(self, start: int, end: int) -> tuple[NDArray[Any], int]:
        """The numbers of the element at a position, as stored, and the position of the next."""
        kind, first, last, start = self.at(start, end)
        dtype = self.numbers.get(kind)
        if dtype is None or (last - first) % dtype.itemsize:
            raise ValueError(f"{last - first} bytes of type {kind}, which is not a type of numbers")
        return np.frombuffer(self.data, dtype, (last - first) // dtype.itemsize, first), start

    def _text(self, start: int, end: int) -> str:
        kind, first, last, _ = self.at(start, end)
        encoding = _TEXTS.get(kind, "")
        if not encoding:
            raise ValueError(f"a text of type {kind}")
        wide = {"<": "-le", ">": "-be"}[self.order] if encoding in ("utf-16", "utf-32") else ""
        return self.data[first:last].decode(encoding + wide)
