"""The two numberings of the 1000 ILSVRC classes, and the development kit's files.

Networks count classes by *sorted WordNet id* (0..999, `n01440764` first); the development kit by its own *devkit id*
(1..1000, a different order). Image 1 of the validation set is devkit id 490 and sorted index 65. One taken for the
other gives an error near 100 % or, worse, a plausible one; so a devkit id is turned into an index here, by a
permutation read from a file, or not at all.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from eigencam.files import regular

VERSIONS = {"devkit": 1}
"""Raised when a change here moves a number; see `eigencam.versions`."""

N_CLASSES = 1000
MAPPINGS = ("LOC_synset_mapping.txt", "synset_words.txt")
METAS = ("meta_clsloc.mat", "meta.mat")
PERMUTATION = "devkit_id_by_sorted_index.json"
GROUND_TRUTH = "ILSVRC20*_validation_ground_truth.txt"
BOXES = "cache_groundtruth.mat"
WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True, slots=True)
class Synsets:
    """The 1000 classes in the order of their sorted WordNet ids; None for what no file told.

    Attributes:
        wnids: WordNet ids, e.g. `n01440764`.
        words: names, one a class and no two equal, e.g. `tench`.
        devkit_ids: (1000,) int64, the devkit id (1..1000) of each sorted index.
    """

    wnids: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = None
    devkit_ids: NDArray[np.int64] | None = None

    def index_by_devkit_id(self) -> NDArray[np.int64]:
        """(1001,) int64: the sorted index of each devkit id; entry 0 is -1, as there is no devkit id 0."""
        if self.devkit_ids is None:
            raise ValueError(
                f"devkit ids (1..{N_CLASSES}) cannot be turned into class indices without the devkit's {METAS[1]} or a "
                f"{PERMUTATION}: put one beside the ground truth (the first is in image-net.org's "
                "ILSVRC2012_devkit_t12.tar.gz)"
            )
        inverse = np.full(N_CLASSES + 1, -1, np.int64)
        inverse[self.devkit_ids] = np.arange(N_CLASSES)
        return inverse


def find_synsets(folders: Sequence[Path], class_folders: Sequence[Path] = ()) -> Synsets:
    """Collect what the files in `folders` say about the classes.

    Args:
        folders: where to look for `LOC_synset_mapping.txt`, `synset_words.txt`, `meta.mat`, `meta_clsloc.mat` and
            `devkit_id_by_sorted_index.json`; the first file of a kind counts.
        class_folders: folders that may hold the 1000 class folders `n01440764` ...; used when no file lists the ids.

    Raises:
        ValueError: a file does not list 1000 classes, or two files contradict each other.
    """
    mapping, meta = first_file(folders, MAPPINGS), first_file(folders, METAS)
    permutation = first_file(folders, (PERMUTATION,))
    listed = read_mapping(mapping) if mapping else Synsets()
    kit = read_meta(meta) if meta else Synsets()
    if listed.wnids and kit.wnids and listed.wnids != kit.wnids:
        odd = sorted(set(listed.wnids) ^ set(kit.wnids))[:3]
        raise ValueError(f"{mapping} and {meta} list different classes, e.g. {', '.join(odd)}: remove the wrong one")
    order = read_permutation(permutation) if permutation else None
    if order is not None and kit.devkit_ids is not None and not np.array_equal(order, kit.devkit_ids):
        raise ValueError(f"{permutation} and {meta} order the devkit ids differently: remove the wrong one")
    return Synsets(
        listed.wnids or kit.wnids or _wnids_of_folders(class_folders),
        listed.words or kit.words,
        kit.devkit_ids if kit.devkit_ids is not None else order,
    )


def read_mapping(path: Path) -> Synsets:
    """Read `n01440764 tench, Tinca tinca`, a line a class in any order."""
    lines = [
        line.strip().partition(" ") for line in regular(path).read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    return _synsets(path, [(wnid, words, None) for wnid, _, words in lines])


def read_meta(path: Path) -> Synsets:
    """Read the devkit's `meta.mat`: struct array `synsets`; ids past 1000 are inner nodes of the hierarchy.

    The id's field is `ILSVRC2012_ID`, in later years `ILSVRC2014_ID` or `ILSVRC2015_CLSLOC_ID`.
    """
    synsets = _struct(path, "synsets")
    fields: tuple[str, ...] = synsets.dtype.names or ()
    id_field = next((name for name in fields if re.fullmatch(r"ILSVRC\d{4}(_CLSLOC)?_ID", name)), None)
    if id_field is None or "WNID" not in fields:
        raise ValueError(f"{path}: `synsets` has the fields {fields}; ILSVRC2012_ID and WNID are needed")
    words = next((name for name in ("words", "description") if name in fields), None)
    rows = [
        (str(_scalar(s["WNID"])), str(_scalar(s[words])) if words else "", int(_scalar(s[id_field]))) for s in synsets
    ]
    return _synsets(path, [row for row in rows if row[2] <= N_CLASSES])


def read_permutation(path: Path) -> NDArray[np.int64]:
    """Read a JSON list of 1000: the devkit id of each sorted index. Returns (1000,) int64."""
    order = np.asarray(json.loads(regular(path).read_text()))
    if order.shape != (N_CLASSES,) or not np.array_equal(np.sort(order), np.arange(1, N_CLASSES + 1)):
        raise ValueError(f"{path}: not a list of the devkit ids 1..{N_CLASSES}, each once")
    return order.astype(np.int64)


def read_ground_truth(path: Path) -> NDArray[np.int64]:
    """Read `ILSVRC2012_validation_ground_truth.txt`: line k is the devkit id of image k. Returns (N,) int64."""
    try:
        ids = np.array([int(line) for line in regular(path).read_text().split()], np.int64)
    except ValueError as error:
        raise ValueError(f"{path}: one devkit id a line is expected: {error}") from error
    return _checked_ids(path, ids)


def read_boxes(path: Path) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """Read `cache_groundtruth.mat`: `rec(k).objects(j).{label,bbox}` is object j of image k.

    Returns:
        (N,) int64 devkit ids, and N arrays (B, 4) float64 `x1 y1 x2 y2`, 0-based inclusive pixels.

    Raises:
        ValueError: the file has another structure, a label is not a devkit id, or one image has several.
    """
    labels, boxes = [], []
    for k, record in enumerate(_struct(path, "rec"), start=1):
        objects = np.ravel(record["objects"])
        named = {float(_scalar(o["label"])) for o in objects}
        if len(named) != 1 or not (label := named.pop()).is_integer():
            seen = sorted(float(_scalar(o["label"])) for o in objects)
            raise ValueError(f"{path}: image {k} has the labels {seen}; exactly one is expected, a whole number")
        corners = [np.ravel(o["bbox"]) for o in objects]
        if not all(box.shape == (4,) and box.dtype.kind in "fiu" for box in corners):
            raise ValueError(f"{path}: image {k} has the boxes {corners}; x1 y1 x2 y2 is expected")
        labels.append(int(label))
        boxes.append(np.array(corners, np.float64))
    return _checked_ids(path, np.array(labels, np.int64)), boxes


def first_file(folders: Iterable[Path], patterns: Sequence[str]) -> Path | None:
    """The first file that matches one of the patterns, folder by folder."""
    found = (path for folder in folders for pattern in patterns for path in sorted(folder.glob(pattern)))
    return next((path for path in found if path.is_file()), None)


def _checked_ids(path: Path, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    wrong = np.flatnonzero((ids < 1) | (ids > N_CLASSES))
    if len(wrong):
        raise ValueError(
            f"{path}: image {wrong[0] + 1} has the label {ids[wrong[0]]}; devkit ids are 1..{N_CLASSES} "
            "(0..999 would be indices of the sorted WordNet ids, another order)"
        )
    return ids


def _synsets(path: Path, rows: list[tuple[str, str, int | None]]) -> Synsets:
    wnids = sorted({wnid for wnid, _, _ in rows if WNID.fullmatch(wnid)})
    if len(wnids) != N_CLASSES or len(rows) != N_CLASSES:
        raise ValueError(
            f"{path}: {len(rows)} classes, {len(wnids)} of them distinct WordNet ids; {N_CLASSES} expected"
        )
    rows = sorted(rows)
    short = [words.split(",")[0].strip() for _, words, _ in rows]
    # Names are not keys: there are two `crane` (bird, machine) and two `maillot`.
    twice = {name for name, n in Counter(short).items() if n > 1}
    names = tuple(f"{name} ({wnid})" if name in twice else name for name, wnid in zip(short, wnids, strict=True))
    ids = [devkit_id for _, _, devkit_id in rows]
    if None in ids:
        return Synsets(tuple(wnids), names if all(short) else None)
    if sorted(i for i in ids if i is not None) != list(range(1, N_CLASSES + 1)):
        raise ValueError(f"{path}: the devkit ids are not 1..{N_CLASSES}, each once")
    return Synsets(tuple(wnids), names if all(short) else None, np.array(ids, np.int64))


def _wnids_of_folders(folders: Iterable[Path]) -> tuple[str, ...] | None:
    for folder in folders:
        names = sorted(entry.name for entry in folder.glob("n[0-9]*") if WNID.fullmatch(entry.name) and entry.is_dir())
        if len(names) == N_CLASSES:
            return tuple(names)
    return None


def _struct(path: Path, variable: str) -> NDArray[Any]:
    try:
        content = loadmat(regular(path), variable_names=[variable])
    except Exception as error:  # scipy raises ValueError, TypeError, NotImplementedError, zlib.error, ...
        raise ValueError(f"{path}: not a readable MATLAB file (version 4 to 7): {error}") from error
    if variable not in content or content[variable].dtype.names is None:
        raise ValueError(f"{path}: no struct array `{variable}` in it")
    return np.ravel(content[variable])


def _scalar(value: Any) -> Any:
    """The element of MATLAB's 1 x 1 array."""
    return np.ravel(value)[0]
