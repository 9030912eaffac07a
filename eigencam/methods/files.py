"""Maps or boxes made elsewhere, as methods: a folder of `<image id>.npy` or `.png` files, or a file of boxes.

A map covers what the network sees of the image (all of it if preprocessing squashes it), at any resolution; a .npy
file holds (h, w) numbers, a .png file 8 or 16 bit grey levels. So a method in another language, or one too slow to run
again, becomes a row of the same table. Boxes go to evaluators that take boxes; `eigencam score` needs no network.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from eigencam.datasets.reading import Reading, expand
from eigencam.evaluation.predictions import find_maps, maps_of, read_coco_boxes, read_devkit, read_map
from eigencam.passes.forward import Forward


@dataclass(frozen=True, slots=True)
class MapFiles:
    """The maps of a folder.

    Attributes:
        folder: a folder with the files, directly or in subfolders.
        class_specific: whether the maps are for the class that the run requests.
        resize: whether to resize maps to the network's input first; otherwise evaluators get them unchanged, so that
            those of a method of this package (`eigencam bundle --maps`) give that method's numbers.
        files: the files by relative path without suffix.

    Raises:
        FileNotFoundError: no maps there.
    """

    folder: str
    class_specific: bool = True
    resize: bool = True
    files: Mapping[str, Path] = field(init=False, repr=False, compare=False)
    _of: dict[str, Path] = field(init=False, repr=False, compare=False, default_factory=dict)

    version = 1
    needs_gradient: ClassVar[bool] = False
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "a folder of maps"

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", find_maps(self.folder))

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32: with `resize`, scaled bilinearly to the input's size; without, at the maps' own size."""
        size, maps = tuple(forward.images.shape[2:]), []
        if lack := "" if self._of.keys() >= set(forward.ids) else self.lacking(forward.ids):
            raise FileNotFoundError(lack)
        for name in forward.ids:
            score_map = torch.from_numpy(read_map(self._of[name]).astype(np.float32))
            if self.resize:
                score_map = F.interpolate(score_map[None, None], size, mode="bilinear", antialias=True)[0, 0]
            maps.append(score_map)
        if len(sizes := {tuple(score_map.shape) for score_map in maps}) > 1:
            raise ValueError(
                f"{self.folder}: maps of sizes {sorted(sizes)} in one batch; resize: true, or batch_size=1"
            )
        return torch.stack(maps).to(forward.images.device)

    def lacking(self, ids: Iterable[str]) -> str:
        """Which of the dataset's images have no map or two maps; "" if each has one."""
        ids = ids if isinstance(ids, Sequence) else list(ids)
        try:
            self._of.update(maps_of(ids, self.files))
        except ValueError as error:
            return f"{self.folder}: {error}"
        missing = [name for name in ids if name not in self._of]
        return f"{self.folder}: no map for {len(missing)} images, e.g. {missing[0]}" if missing else ""

    def identity(self) -> dict[str, str]:
        """A checksum of the files' names, sizes and times: other maps make another result."""
        digest = hashlib.sha256()
        for name, path in sorted(self.files.items()):
            digest.update(f"{name} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
        return {"files": digest.hexdigest()}


@dataclass(frozen=True, slots=True)
class BoxFiles:
    """The boxes of a file: COCO's results (.json), or the ILSVRC devkit's lines (`label x1 y1 x2 y2`, any other name).

    Line k of the devkit's format is the dataset's image k; labels are ignored. An image without a box there
    gets none.

    Attributes:
        file: plain or gzipped; see `eigencam.evaluation.predictions`.

    Raises:
        FileNotFoundError: there is no such file.
    """

    file: str
    _boxes: dict[str, NDArray[np.float64]] = field(init=False, repr=False, compare=False, default_factory=dict)

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    gives_boxes: ClassVar[bool] = True
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "a file of boxes"

    def __post_init__(self) -> None:
        with Reading(expand(self.file), "boxes, as COCO's results or in the devkit's lines") as file:
            file.regular()

    def __call__(self, forward: Forward, targets: Tensor) -> list[NDArray[np.float64]]:
        """For each image (K, 5), best first, with scores 0, -1, ...

        COCO's results are sorted by score; boxes of a devkit line are in the order of the line.
        """
        return [self._boxes.get(name, np.zeros((0, 5))) for name in forward.ids]

    def lacking(self, ids: Iterable[str]) -> str:
        """Read the file for these images; return the fault if the number of a devkit file's lines is another.

        Raises:
            ValueError: the file is invalid, or COCO's results name an image that is not among these.
        """
        ids = ids if isinstance(ids, Sequence) else list(ids)
        names, path = list(ids), expand(self.file)
        if path.name.lower().endswith((".json", ".json.gz")):
            boxes = dict(read_coco_boxes(path, ids))
        else:
            lines = read_devkit(path).boxes
            if len(lines) != len(names):
                return f"{path}: {len(lines)} lines for {len(names)} images; allowed is one line per image"
            boxes = {name: line[~np.isnan(line[:, 0])] for name, line in zip(names, lines, strict=True)}
        self._boxes.update({n: np.column_stack([b, -np.arange(len(b), dtype=float)]) for n, b in boxes.items()})
        return ""

    def identity(self) -> dict[str, str]:
        """The file's SHA-256."""
        return {"sha256": hashlib.sha256(expand(self.file).read_bytes()).hexdigest()}
