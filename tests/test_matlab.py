"""MATLAB files compared with scipy's reader, and damaged files that crash that reader."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ilsvrc_files import struct
from scipy.io import loadmat, savemat

from eigencam.datasets.matlab import read_matlab
from eigencam.datasets.reading import FileError, Reading

NUMBERS = ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


def read(path: Path, *names: str) -> dict[str, Any]:
    with Reading(path) as file:
        return read_matlab(file, names)


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_those_that_scipy_reads(compressed: bool, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "a.mat"
    shapes = [(1, 1), (3, 4), (0, 0), (5, 1), (2, 3, 4), (0, 4), (1, 3)]
    content: dict[str, Any] = {
        f"{name}_{k}": rng.integers(0, 100, shape).astype(name) for name in NUMBERS for k, shape in enumerate(shapes)
    }
    content["flags"] = np.array([[True, False]])
    savemat(path, content, do_compression=compressed)
    ours, theirs = read(path, *content), loadmat(path)
    assert set(ours) == set(content)
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], strict=name != "flags")
    assert set(read(path, "f8_1", "nowhere")) == {"f8_1"}


def test_structs_cells_and_texts(tmp_path: Path) -> None:
    cells = np.empty((1, 3), object)
    cells[0, 0], cells[0, 1], cells[0, 2] = "Zoë, 象", np.arange(3.0), np.zeros((0, 0))
    rows = [{"name": "a", "inner": struct([{"x": 1}, {"x": 2}])}, {"name": "", "inner": struct([{"x": 3}])}]
    savemat(tmp_path / "a.mat", {"cells": cells, "rows": struct(rows)})
    found = read(tmp_path / "a.mat", "cells", "rows")
    assert found["cells"][0] == "Zoë, 象"
    assert found["cells"][1].tolist() == [[0, 1, 2]]
    assert found["cells"][2].shape == (0, 0)
    assert [row["name"] for row in found["rows"]] == ["a", ""]
    assert [[one["x"].item() for one in row["inner"]] for row in found["rows"]] == [[1, 2], [3]]


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"a": np.array([[1j]])})
    with pytest.raises(FileError, match="'a' is an array of class 6, complex"):
        read(path, "a")
    assert read(path, "b") == {}
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(FileError, match=r"version 7\.3 is HDF5, save it with -v7"):
        read(path, "a")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_end_in_one_line(compressed: bool, tmp_path: Path) -> None:
    path, rng = tmp_path / "a.mat", random.Random(0)
    rows = [{"name": "a", "boxes": np.arange(8.0).reshape(2, 4)}, {"name": "b", "boxes": np.zeros((0, 4))}]
    savemat(path, {"rows": struct(rows), "boxes": np.ones((3, 4))}, do_compression=compressed)
    content, refused = path.read_bytes(), 0
    for _ in range(300):
        changed = bytearray(content[: rng.randrange(120, len(content))] if rng.random() < 0.2 else content)
        for _ in range(rng.choice((1, 2, 8))):
            changed[rng.randrange(100, len(changed))] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            read(path, "rows", "boxes")
        except FileError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            refused += 1
    assert refused > 100
