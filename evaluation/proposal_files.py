"""Proposals made by any other program, in addition to COCO's JSON (`eigencam.evaluation.predictions`).

mat  a folder in detection-proposals' format: `<id>.mat`, optionally in folders named by the first letters of the id,
     with `boxes` (K, 4) `x1 y1 x2 y2`, inclusive, and optionally `scores` (K, 1)
txt  a file, plain or .gz, of lines `id x1 y1 x2 y2 score`, inclusive, or a folder of `<id>.txt` with lines
     `x1 y1 x2 y2 score`; the score may be omitted in all lines of a file

Boxes are ranked by descending or ascending score; ties, and boxes without a score, are in the order of the file.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.boxes import Boxes, area
from eigencam.datasets.matlab import EXPECTED, read_matlab
from eigencam.datasets.names import match, unique
from eigencam.datasets.reading import Reading, decimal, expand, files_in
from eigencam.evaluation.predictions import some

Order = Literal["falling", "rising", "file"]
Floats = NDArray[np.float64]


def read_mat(folder: Path | str, ids: Sequence[str], order: Order = "falling", origin: int = 1) -> dict[str, Boxes]:
    """Boxes (K, 4) of each image that has a file, 0-based inclusive pixels, best first.

    Args:
        folder: folder with the files, at any depth.
        ids: ids of the truth's images.
        order: whether high (`falling`) or low (`rising`) scores are good; `file`: scores are ignored.
        origin: index of the first pixel, 0 or 1.

    Raises:
        FileNotFoundError: there is no such folder, or it has no file for any of the images.
        ValueError: a file has no `boxes` (K, 4), or a different number of scores.
    """
    return {name: _mat(path, order, origin) for name, path in _files(expand(folder), ".mat", ids).items()}


def read_txt(path: Path | str, ids: Sequence[str], order: Order = "falling", origin: int = 0) -> dict[str, Boxes]:
    """Boxes (K, 4) of each image in the file or folder; arguments and errors as in `read_mat`."""
    path = expand(path)
    if path.is_dir():
        found = _files(path, ".txt", ids)
        return {name: _txt(file, order, origin) for name, file in found.items()}
    with Reading(path, "lines `id x1 y1 x2 y2 score`, the score in all or in none") as file:
        lines = _lines(file)
        names = np.array([line.split()[0] for line in lines], np.str_)
        given = sorted(set(names.tolist()))
        meant = {key: name for name, key in match(ids, given, lambda key: f"the lines of {key}", "names").items()}
        if unknown := [key for key in given if key not in meant]:
            raise ValueError(
                f"{len(unknown)} images that the truth does not have, e.g. {some(unknown)}; it has {some(ids)}"
            )
        values = _numbers(file, [line.split(maxsplit=1)[1] if " " in line else "" for line in lines])
        by_name = np.argsort(names, kind="stable")
        parts = np.flatnonzero(np.append(True, names[by_name][1:] != names[by_name][:-1])[: len(names)])
        return {
            meant[str(names[rows[0]])]: _ranked(values[rows], order, origin) for rows in np.split(by_name, parts)[1:]
        }


def _files(folder: Path, suffix: str, ids: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; allowed is one with {suffix} files")
    files = list(files_in(folder, (suffix,), depth=-1))
    keys = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    by_key = dict(zip(unique(keys, files, "files"), files, strict=True))
    found = match(ids, by_key, by_key.__getitem__, "files")
    if not found:
        raise FileNotFoundError(
            f"{folder}: no {suffix} file of an image of the truth ({some(ids)}); there are: {some(by_key) or 'none'}"
        )
    return {name: by_key[found[name]] for name in ids if name in found}


def _mat(path: Path, order: Order, origin: int) -> Boxes:
    with Reading(path, f"{EXPECTED}, with `boxes`, one array (K, 4) of x1 y1 x2 y2") as file:
        content = read_matlab(file, ("boxes", "scores"))
        boxes, scores = content.get("boxes"), content.get("scores", np.zeros(0))
        if not isinstance(boxes, np.ndarray) or (boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4)):
            seen = f"{boxes.shape} of {boxes.dtype}" if isinstance(boxes, np.ndarray) else type(boxes).__name__
            raise ValueError("no `boxes`" if boxes is None else f"`boxes` {seen}")
        values = boxes.astype(np.float64).reshape(-1, 4)
        if not isinstance(scores, np.ndarray):
            raise ValueError(f"`scores` {type(scores).__name__}")
        if scores.size:
            if scores.size != len(values):
                raise ValueError(f"{scores.size} scores of {len(values)} boxes; allowed is one each, or none")
            values = np.column_stack([values, scores.astype(np.float64).ravel()])
        return _ranked(values, order, origin)


def _txt(path: Path, order: Order, origin: int) -> Boxes:
    with Reading(path, "lines `x1 y1 x2 y2 score`, the score in all or in none") as file:
        return _ranked(_numbers(file, _lines(file)), order, origin)


def _lines(file: Reading) -> list[str]:
    return [line for line in file.text().replace(",", " ").split("\n") if line.strip()]


def _numbers(file: Reading, lines: Sequence[str]) -> Floats:
    """(K, 4) or (K, 5) numbers of the lines."""
    if not lines:
        return np.zeros((0, 4))
    counts = np.array([len(line.split()) for line in lines])
    wrong = (counts != counts[0]) | ~np.isin(counts, (4, 5))
    if wrong.any():
        k = int(np.argmax(wrong))
        file.place = f"box {k}"
        raise ValueError(f"{lines[k]!r}; allowed are four numbers, or five, in all lines")
    return np.array([[decimal(word) for word in line.split()] for line in lines], np.float64)


def _ranked(values: Floats, order: Order, origin: int) -> Boxes:
    if order not in get_args(Order):
        raise ValueError(f"order {order!r}: allowed are {', '.join(get_args(Order))}")
    if not np.isfinite(values).all():
        raise ValueError("a box or score that is not finite")
    if (empty := area(values[:, :4]) == 0).any():
        k = int(empty.argmax())
        raise ValueError(
            f"box {values[k, :4].tolist()}; allowed are x1 y1 x2 y2 with x1 <= x2 and y1 <= y2, not x y width height"
        )
    if values.shape[1] == 5 and order != "file":
        values = values[np.argsort(values[:, 4] * (-1 if order == "falling" else 1), kind="stable")]
    return values[:, :4] - origin


READERS: dict[str, tuple[Callable[..., dict[str, Boxes]], int]] = {"mat": (read_mat, 1), "txt": (read_txt, 0)}
"""For each format the reader, and the default index of the first pixel."""
