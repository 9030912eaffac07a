"""Which images a threshold is chosen on, and with which boxes; by default the threshold is an oracle's.

`tune` is a share of the images, in (0, 1), drawn by a hash of their ids, independent of the other images; or a file
that lists ids, one per line. The metric is reported on the remaining images.

`pseudo` is a file of boxes that replace the truth where it may not be used, such as those of selective search in
S. Murtaza et al., "A realistic protocol for evaluation of weakly supervised object localization", WACV 2025: lines
`path,x0,y0,x1,y1` in pixels of the original image, in the format of wsolevaluation's localization.txt and the authors'
files (github.com/shakeebmurtaza/wsol_model_selection). `eigencam fit fit=pseudo_boxes` makes such
a file.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import Dataset, Truth
from eigencam.datasets.boxes import Boxes, as_boxes
from eigencam.datasets.names import image_id
from eigencam.datasets.reading import Reading, decimal, expand, read_lines

Tune = float | str | None
_EXPECTED = "the ids of the images that the threshold is chosen on, one per line"
_IN_TUNE = "in_tune"


def check_tune(tune: Tune) -> None:
    """Raise a ValueError unless `tune` is a share, the name of a file, or None."""
    share = isinstance(tune, float) and 0 < tune < 1
    if tune is not None and not share and not (isinstance(tune, str) and tune):
        raise ValueError(f"tune={tune!r}; allowed: a share of the images, 0 < tune < 1, a file of ids, or null")


def is_tuned_on(tune: Tune, image_id: str) -> bool:
    """Whether the threshold is chosen on an image."""
    if isinstance(tune, str):
        return image_id in _listed(tune)
    digest = hashlib.sha256(f"tune/{image_id}".encode()).digest()
    return tune is not None and int.from_bytes(digest[:8], "big") < tune * 2**64


def tune_column(tune: Tune, image_id: str) -> dict[str, bool]:
    """The column of a row that says whether the threshold is chosen on its image; none without `tune`."""
    return {} if tune is None else {_IN_TUNE: is_tuned_on(tune, image_id)}


def tuned_rows(tune: Tune, rows: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,): the rows of images that the threshold is chosen on, from `tune_column`; none without `tune`."""
    return np.zeros(len(rows), bool) if tune is None else rows[_IN_TUNE].to_numpy(bool)


def choice_note(tune: Tune, pseudo: str | None, n: int) -> str:
    """How a threshold was chosen, on `n` images, for a footnote; like identities, it has no file names."""
    by = "" if pseudo is None else " by boxes in place of the truth's"
    drawn = "listed" if isinstance(tune, str) else f"tune={tune}"
    return f"threshold chosen{by} on {n} " + ("images" if tune is None else f"other images ({drawn})")


def tune_sources(tune: Tune, dataset: Dataset) -> dict[str, str]:
    """SHA-256 of the list, if there is one.

    Raises:
        ValueError: it has none of the dataset's images, or all of them.
    """
    if not isinstance(tune, str):
        return {}
    inside = len(_listed(tune) & set(dataset.ids))
    if inside in (0, len(dataset.ids)):
        listed, n = next(iter(sorted(_listed(tune))), "nothing"), len(dataset.ids)
        raise ValueError(
            f"tune={tune}: lists {'none' if inside == 0 else 'all'} of the {n} images of {dataset.name}, e.g. "
            f"{dataset.ids[0]}, but {listed}; allowed are some of them, the others are reported on"
        )
    return {"tune": hashlib.sha256(expand(tune).read_bytes()).hexdigest()}


def stand_in(file: str, truth: Truth) -> Truth:
    """The ground truth of an image with the boxes of a file in place of its own, all of them of target objects."""
    boxes = pseudo_boxes(file, truth.image_id)
    labels, easy = np.zeros(len(boxes), np.int64), np.zeros(len(boxes), bool)
    return replace(truth, boxes=boxes, box_labels=labels, difficult=easy, foreground="any", source=file)


def pseudo_boxes(file: str, name: str) -> Boxes:
    """(B, 4) inclusive: the boxes that replace an image's truth; empty if the file has none."""
    return _boxes(file).get(name, np.zeros((0, 4)))


def pseudo_sources(file: str | None, dataset: Dataset) -> dict[str, str]:
    """SHA-256 of the file of boxes, if there is one. Raises a ValueError if it has none of the dataset's images."""
    if file is None:
        return {}
    if not _boxes(file).keys() & set(dataset.ids):
        first = next(iter(_boxes(file)), "no image")
        raise ValueError(f"pseudo={file}: none of the images of {dataset.name}, e.g. {dataset.ids[0]}, but {first}")
    return {"pseudo": hashlib.sha256(expand(file).read_bytes()).hexdigest()}


@lru_cache(maxsize=4)
def _boxes(file: str) -> Mapping[str, Boxes]:
    """Boxes by image id, and by the id's last part if that is unique: ILSVRC's ids have no folder."""
    found: dict[str, list[list[float]]] = {}
    with Reading(expand(file), "`path,x0,y0,x1,y1`") as lines:
        for path, *corners in lines.columns(",", 5):
            box = [decimal(corner) for corner in corners]
            if not np.isfinite(box).all() or box[2] < box[0] or box[3] < box[1]:
                raise ValueError(f"box {box}; allowed are finite x0 <= x1 and y0 <= y1")
            found.setdefault(image_id(path), []).append(box)
    last: dict[str, list[str]] = {}
    for name in found:
        last.setdefault(name.rpartition("/")[2], []).append(name)
    short = {end: found[names[0]] for end, names in last.items() if len(names) == 1}
    return {name: as_boxes(boxes) for name, boxes in {**short, **found}.items()}


@lru_cache(maxsize=4)
def _listed(file: str) -> frozenset[str]:
    return frozenset(read_lines(expand(file), _EXPECTED))
