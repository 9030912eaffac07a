"""The two numberings of the 1000 ILSVRC classes, and the development kit's files.

Networks count classes by *sorted WordNet id* (0..999, `n01440764` first); the development kit counts them by its own
*devkit id* (1..1000, in a different order). Image 1 of the validation set has devkit id 490 and sorted index 65.
Confusing the two gives an error rate near 100 % or, worse, a plausible one. So a devkit id becomes an index only here,
and only by a permutation read from a file.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.matlab import EXPECTED, read_matlab
from eigencam.datasets.reading import Reading, hidden, integer

VERSIONS = {"devkit": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

N_CLASSES = 1000
MAPPINGS = ("LOC_synset_mapping.txt", "synset_words.txt")
METAS = ("meta_clsloc.mat", "meta.mat")
PERMUTATION = "devkit_id_by_sorted_index.json"
GROUND_TRUTH = "ILSVRC20*_validation_ground_truth.txt"
BOXES = "cache_groundtruth.mat"
WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True, slots=True)
class Synsets:
    """The 1000 classes in the order of their sorted WordNet ids; None for what no file gives.

    Attributes:
        wnids: WordNet ids, e.g. `n01440764`.
        words: unique names, one per class, e.g. `tench`.
        devkit_ids: (1000,) int64, the devkit id (1..1000) of each sorted index.
    """

    wnids: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = None
    devkit_ids: NDArray[np.int64] | None = None

    def index_by_devkit_id(self) -> NDArray[np.int64]:
        """(1001,) int64: the sorted index of each devkit id; entry 0 is -1, since there is no devkit id 0."""
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
    """Collect the classes' data from the files in `folders`.

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
    """Read `n01440764 tench, Tinca tinca`, one class per line in any order."""
    with Reading(path, f"{N_CLASSES} lines such as `n01440764 tench, Tinca tinca`") as file:
        lines = [line.partition(" ") for line in file.lines()]
        return _synsets([(wnid, words, None) for wnid, _, words in lines])


def read_meta(path: Path) -> Synsets:
    """Read the devkit's `meta.mat`: struct array `synsets`; ids above 1000 are inner nodes of the hierarchy.

    The id's field is `ILSVRC2012_ID`, in later years `ILSVRC2014_ID` or `ILSVRC2015_CLSLOC_ID`.
    """
    with Reading(path, EXPECTED) as file:
        synsets = _structs(file, "synsets")
        fields = list(synsets[0])
        id_field = next((name for name in fields if re.fullmatch(r"ILSVRC\d{4}(_CLSLOC)?_ID", name)), None)
        if id_field is None or "WNID" not in fields:
            raise ValueError(f"`synsets` has the fields {fields}; ILSVRC2012_ID and WNID are needed")
        words = next((name for name in ("words", "description") if name in fields), None)
        rows = [
            (str(one["WNID"]), str(one[words]) if words else "", _whole(one[id_field]))
            for one in file.each("synset", synsets)
        ]
        return _synsets([row for row in rows if row[2] <= N_CLASSES])


def read_permutation(path: Path) -> NDArray[np.int64]:
    """Read a JSON list of 1000: the devkit id of each sorted index. Returns (1000,) int64."""
    with Reading(path, f"a list of the devkit ids 1..{N_CLASSES}, each once") as file:
        order = [integer(number) for number in file.each("number", file.json())]
        if sorted(order) != list(range(1, N_CLASSES + 1)):
            raise ValueError(f"a list of {len(order)} numbers, {len(set(order))} of them distinct")
    return np.array(order, np.int64)


def read_ground_truth(path: Path) -> NDArray[np.int64]:
    """Read `ILSVRC2012_validation_ground_truth.txt`: line k is the devkit id of image k. Returns (N,) int64."""
    with Reading(path, "one devkit id per line") as file:
        return _checked_ids(np.array([integer(line) for line in file.lines()], np.int64))


def read_boxes(path: Path) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """Read `cache_groundtruth.mat`: `rec(k).objects(j).{label,bbox}` is object j of image k.

    Returns:
        (N,) int64 devkit ids, and N arrays (B, 4) float64 `x1 y1 x2 y2`, 0-based inclusive pixels.

    Raises:
        ValueError: the file has another structure, a label is not a devkit id, or one image has several.
    """
    labels, boxes = [], []
    with Reading(path, EXPECTED) as file:
        for k, record in enumerate(_structs(file, "rec"), start=1):
            file.place = f"image {k}"
            objects = record["objects"]
            named = {float(np.ravel(one["label"])[0]) for one in objects}
            if len(named) != 1 or not min(named).is_integer():
                raise ValueError(f"the labels {sorted(named)}; exactly one is expected, a whole number")
            corners = [np.ravel(one["bbox"]) for one in objects]
            if not all(box.shape == (4,) and box.dtype.kind in "fiu" for box in corners):
                raise ValueError(f"the boxes {corners}; x1 y1 x2 y2 is expected")
            labels.append(int(named.pop()))
            boxes.append(np.array(corners, np.float64))
        file.place = ""
        return _checked_ids(np.array(labels, np.int64)), boxes


def first_file(folders: Iterable[Path], patterns: Sequence[str]) -> Path | None:
    """The first file that matches one of the patterns, folder by folder."""
    found = (path for folder in folders for pattern in patterns for path in sorted(folder.glob(pattern)))
    return next((path for path in found if not hidden(path.name)), None)


def _checked_ids(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    wrong = np.flatnonzero((ids < 1) | (ids > N_CLASSES))
    if len(wrong):
        raise ValueError(
            f"image {wrong[0] + 1} has the label {ids[wrong[0]]}; devkit ids are 1..{N_CLASSES} "
            "(0..999 would be indices of the sorted WordNet ids, another order)"
        )
    return ids


def _synsets(rows: Sequence[tuple[str, str, int | None]]) -> Synsets:
    wnids = sorted({wnid for wnid, _, _ in rows if WNID.fullmatch(wnid)})
    if len(wnids) != N_CLASSES or len(rows) != N_CLASSES:
        raise ValueError(f"{len(rows)} classes, {len(wnids)} of them distinct WordNet ids; {N_CLASSES} expected")
    rows = sorted(rows)
    short = [words.split(",")[0].strip() for _, words, _ in rows]
    # Names are not unique: there are two `crane` (bird, machine) and two `maillot`.
    twice = {name for name, n in Counter(short).items() if n > 1}
    names = tuple(f"{name} ({wnid})" if name in twice else name for name, wnid in zip(short, wnids, strict=True))
    ids = [devkit_id for _, _, devkit_id in rows]
    if None in ids:
        return Synsets(tuple(wnids), names if all(short) else None)
    if sorted(i for i in ids if i is not None) != list(range(1, N_CLASSES + 1)):
        raise ValueError(f"the devkit ids are not 1..{N_CLASSES}, each once")
    return Synsets(tuple(wnids), names if all(short) else None, np.array(ids, np.int64))


def _wnids_of_folders(folders: Iterable[Path]) -> tuple[str, ...] | None:
    for folder in folders:
        names = sorted(entry.name for entry in folder.glob("n[0-9]*") if WNID.fullmatch(entry.name) and entry.is_dir())
        if len(names) == N_CLASSES:
            return tuple(names)
    return None


def _structs(file: Reading, variable: str) -> list[dict[str, Any]]:
    """The elements of a struct array."""
    structs = read_matlab(file, (variable,)).get(variable)
    if not isinstance(structs, list) or not structs or not isinstance(structs[0], dict):
        raise ValueError(f"no struct array `{variable}` in it")
    return structs


def _whole(value: Any) -> int:
    """The integer in MATLAB's 1 x 1 array, which may be stored as a float."""
    number = float(np.ravel(value)[0])
    if not number.is_integer():
        raise ValueError(f"{number} is no whole number")
    return integer(int(number))
