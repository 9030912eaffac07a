"""Proposals made by any other program, besides COCO's JSON (`eigencam.evaluation.predictions`).

mat  a folder as detection-proposals writes it: `<id>.mat`, in folders named by the first letters of the id or not, with
     `boxes` (K, 4) `x1 y1 x2 y2`, inclusive, and `scores` (K, 1) or nothing
txt  a file, plain or .gz, of lines `id x1 y1 x2 y2 score`, inclusive, or a folder of `<id>.txt` of lines
     `x1 y1 x2 y2 score`; the score may be left out in all lines of a file

Boxes are ranked by falling or rising score, equal ones and those without a score in the order of the file.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from eigencam.datasets.boxes import Boxes, area
from eigencam.evaluation.predictions import read_text, some
from eigencam.files import regular

Order = Literal["falling", "rising", "file"]
Floats = NDArray[np.float64]


def read_mat(folder: Path | str, ids: Sequence[str], order: Order = "falling", origin: int = 1) -> dict[str, Boxes]:
    """Boxes (K, 4) of each picture that has a file, 0-based inclusive pixels, best first.

    Args:
        folder: with the files, at any depth.
        ids: of the truth's pictures.
        order: which scores are good; `file`: not asked.
        origin: what the first pixel is called, 0 or 1.

    Raises:
        FileNotFoundError: there is no such folder, or no file in it is of one of the pictures.
        ValueError: a file has no `boxes` (K, 4), or not as many scores.
    """
    return {name: _mat(path, order, origin) for name, path in _files(Path(folder), ".mat", ids).items()}


def read_txt(path: Path | str, ids: Sequence[str], order: Order = "falling", origin: int = 0) -> dict[str, Boxes]:
    """Boxes (K, 4) of each picture that is in the file or folder; arguments and errors as `read_mat`."""
    path = Path(path)
    if path.is_dir():
        found = _files(path, ".txt", ids)
        return {name: _ranked(_numbers(file, _lines(file)), order, origin, file) for name, file in found.items()}
    lines = _lines(path)
    names = np.array([line.split()[0] for line in lines])
    if unknown := sorted(set(names) - set(ids)):
        raise ValueError(
            f"{path}: {len(unknown)} pictures that the truth does not have, e.g. {some(unknown)}; it has {some(ids)}"
        )
    values = _numbers(path, [line.split(maxsplit=1)[1] if " " in line else "" for line in lines])
    by_name = np.argsort(names, kind="stable")
    parts = np.flatnonzero(np.append(True, names[by_name][1:] != names[by_name][:-1])[: len(names)])
    return {str(names[rows[0]]): _ranked(values[rows], order, origin, path) for rows in np.split(by_name, parts)[1:]}


def _files(folder: Path, suffix: str, ids: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; allowed is one with {suffix} files")
    there = {path.name.removesuffix(suffix): path for path in sorted(folder.rglob(f"*{suffix}"))}
    found = {name: there[name] for name in ids if name in there}
    if not found:
        raise FileNotFoundError(
            f"{folder}: no {suffix} file of a picture of the truth ({some(ids)}); there are: {some(there) or 'none'}"
        )
    return found


def _mat(path: Path, order: Order, origin: int) -> Boxes:
    try:
        content = loadmat(regular(path))
    except (ValueError, OSError, MatReadError, NotImplementedError) as error:
        raise ValueError(f"{path}: {error}; allowed are MATLAB files up to version 7") from None
    boxes, scores = content.get("boxes"), content.get("scores")
    if boxes is None or boxes.dtype == object or (boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4)):
        seen = "no `boxes`" if boxes is None else f"`boxes` {boxes.shape} of {boxes.dtype}"
        raise ValueError(f"{path}: {seen}; allowed is (K, 4), x1 y1 x2 y2, of one run of the method")
    values = boxes.astype(np.float64).reshape(-1, 4)
    if scores is not None and scores.size:
        if scores.size != len(values):
            raise ValueError(f"{path}: {scores.size} scores of {len(values)} boxes; allowed is one each, or none")
        values = np.column_stack([values, scores.astype(np.float64).ravel()])
    return _ranked(values, order, origin, path)


def _lines(path: Path) -> list[str]:
    return [line for line in read_text(path).replace(",", " ").splitlines() if line.strip()]


def _numbers(path: Path, lines: Sequence[str]) -> Floats:
    """(K, 4) or (K, 5) numbers of the lines."""
    if not lines:
        return np.zeros((0, 4))
    counts = np.array([len(line.split()) for line in lines])
    wrong = (counts != counts[0]) | ~np.isin(counts, (4, 5))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ValueError(f"{path}, box {k}: {lines[k]!r}; allowed are four numbers, or five, in all lines")
    try:
        return np.array([line.split() for line in lines], np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; allowed are numbers") from None


def _ranked(values: Floats, order: Order, origin: int, path: Path) -> Boxes:
    if order not in get_args(Order):
        raise ValueError(f"order {order!r}: allowed are {', '.join(get_args(Order))}")
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: a box or score that is not finite; allowed are numbers")
    if (empty := area(values[:, :4]) == 0).any():
        k = int(empty.argmax())
        raise ValueError(
            f"{path}: box {values[k, :4].tolist()}; allowed are x1 y1 x2 y2 with x1 <= x2 and y1 <= y2, "
            "not x y width height"
        )
    if values.shape[1] == 5 and order != "file":
        values = values[np.argsort(values[:, 4] * (-1 if order == "falling" else 1), kind="stable")]
    return values[:, :4] - origin


READERS: dict[str, tuple[Callable[..., dict[str, Boxes]], int]] = {"mat": (read_mat, 1), "txt": (read_txt, 0)}
"""By format: the reader, and what it calls the first pixel unless told."""
