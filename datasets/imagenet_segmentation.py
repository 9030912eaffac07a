"""ImageNet-Segmentation: 4,276 images of ImageNet with a mask of the main object.

    data = ImageNetSegmentation("gtsegs_ijcv.mat")

All data is in one file of 2014, in MATLAB's version 7.3, which is HDF5. `/value/img` and `/value/gt` are rows of
references: an image is (3, W, H) uint8, a mask is a cell with (W, H) of 0 and 1. MATLAB's axis order is reversed, so
both are transposed. Each process opens the file at its first read: an HDF5 handle must not cross a fork.

The masks name no class. The dataset has one, `object`, and maps are for the predicted class. The box is the tightest
around the mask.

Reference: M. Guillaumin, D. Kuettel, V. Ferrari, "ImageNet auto-annotation with segmentation propagation", IJCV 2014.
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import BadImageError, BadTruthError, Truth, checksum
from eigencam.datasets.completeness import Expect, check_count
from eigencam.datasets.reading import Reading, expand, reason

FULL = 4276
FILE = "gtsegs_ijcv.mat"
LARGEST = 1 << 29
"""Bytes of an image: 179 million pixels, which is also Pillow's limit."""
HOW_TO_GET = (
    f"{FILE} is at calvin-vision.net/bigstuff/proj-imagenet/data; name it, or its folder, by "
    "paths.imagenet_segmentation or EIGENCAM_IMAGENET_SEGMENTATION"
)


class ImageNetSegmentation:
    """All images of the file; an `eigencam.datasets.base.Dataset`."""

    name = "imagenet_segmentation"
    class_space = "foreground"
    classes: tuple[str, ...] = ("object",)

    version = 1

    def __init__(self, root: str | Path, expect: Expect | None = None, allow_outside: bool = False) -> None:
        """Open the file and read the shapes of all images.

        Args:
            root: the file, or the folder that it is in.
            expect: `full`: an error unless there are 4,276 images.
            allow_outside: read data that is stored in another file to which this one refers.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file has another format, or h5py is not installed.
        """
        path = expand(root)
        self.path = path / FILE if path.is_dir() else path
        self.allow_outside = allow_outside
        self._opened: tuple[int, Any, NDArray[Any], NDArray[Any]] | None = None
        try:
            with Reading(self.path, f"MATLAB 7.3 with /value/img and /value/gt. {HOW_TO_GET}") as file:
                file.regular()
                _, _, images, cells = self._open()
                if len(images) != len(cells) or not len(images):
                    raise ValueError(f"{len(images)} images and {len(cells)} masks")
                stored = [self._stored(i) for i in file.each("image", range(len(images)))]
        finally:
            self._close()
        check_count("ImageNet-Segmentation", len(stored), FULL, expect)
        self.ids = [f"{i:05d}" for i in range(len(stored))]
        self._checksum = checksum(stored)
        self.faults = {
            self.ids[i]: f"{self.path}: mask {i} of {mask[::-1]}; allowed is the size of its image, {image[:-3:-1]}"
            for i, (image, _, mask, _) in enumerate(stored)
            if len(mask) != 2 or image[-2:] != mask
        }

    def image(self, i: int) -> NDArray[np.uint8]:
        """Image `i`: (H, W, 3) uint8 RGB; a grey one is repeated. Raises `BadImageError` if it is not an image."""
        try:
            stored = np.asarray(self._image(i))
        except Exception as error:  # HDF5 raises OSError, RuntimeError, ...
            raise BadImageError(self.path, f"image {i}: {reason(error)}") from error
        image = stored.T if stored.ndim == 3 else np.repeat(stored.T[..., None], 3, axis=2)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise BadImageError(
                self.path, f"image {i}: an array of {stored.shape}, {stored.dtype}; needed: (3, W, H) uint8"
            )
        return np.ascontiguousarray(image)

    def truth(self, i: int) -> Truth:
        """The ground truth of image `i`: mask, and the box around it.

        Raises:
            BadTruthError: the mask is not of the image's size, or has values other than 0 and 1.
        """
        if fault := self.faults.get(self.ids[i]):
            raise BadTruthError(fault)
        with Reading(self.path) as file:
            file.place = f"mask {i}"
            stored = np.asarray(self._mask(i)).T
        if stored.dtype.kind not in "biuf" or not (mask := stored == 1)[stored != 0].all():
            seen = "" if stored.dtype.kind not in "biuf" else f" with {_some_values(stored)}"
            raise BadTruthError(f"{self.path}: mask {i} of {stored.dtype}{seen}; allowed are the numbers 0 and 1")
        mask = np.ascontiguousarray(mask)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes = np.array([[columns[0], rows[0], columns[-1], rows[-1]]] if len(rows) else [], np.float64).reshape(-1, 4)
        size = (mask.shape[0], mask.shape[1])
        labels, source = np.zeros(len(boxes), np.int64), str(self.path)
        return Truth(self.ids[i], size, -1, boxes, labels, mask=mask.astype(np.uint8), foreground="any", source=source)

    def identity(self) -> dict[str, object]:
        """n, and a checksum of the shapes and the stored sizes of images and masks."""
        return {"name": self.name, "n": len(self.ids), "truth": self._checksum}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _open(self) -> tuple[int, Any, NDArray[Any], NDArray[Any]]:
        """This process's id, its open file, and the references to images and to the masks' cells."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                import h5py
            except ImportError as error:
                raise ValueError("h5py is needed: pip install 'eigencam-bench[datasets]'") from error
            file: Any = h5py.File(self.path, "r")
            images, cells = (self._checked(file, file[f"value/{name}"])[:, 0] for name in ("img", "gt"))
            self._opened = (os.getpid(), file, images, cells)
        return self._opened

    def _close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
        self._opened = None

    def _image(self, i: int) -> Any:
        _, file, images, _ = self._open()
        return self._checked(file, file[images[i]])

    def _mask(self, i: int) -> Any:
        _, file, _, cells = self._open()
        return self._checked(file, file[self._checked(file, file[cells[i]])[0, 0]])

    def _checked(self, file: Any, data: Any) -> Any:
        """Return an HDF5 dataset, not yet read, after checking that it is stored in this file and not too large."""
        elsewhere = [data.file.filename] if data.file.filename != file.filename else []
        elsewhere += [name for name, *_ in data.external or ()]
        if data.is_virtual:
            elsewhere += [source.file_name for source in data.virtual_sources() if source.file_name != "."]
        if elsewhere and not self.allow_outside:
            raise ValueError(f"{data.name} is in another file, {elsewhere[0]}; dataset.allow_outside=true follows it")
        if (size := math.prod(data.shape) * data.dtype.itemsize) > LARGEST:
            raise ValueError(f"{data.name} {data.shape}: {size} bytes; at most {LARGEST} are read")
        if size and not elsewhere and not data.is_virtual and not data.id.get_storage_size():
            raise ValueError(f"{data.name} {data.shape}: no data is stored")
        return data

    def _stored(self, i: int) -> tuple[list[int], int, list[int], int]:
        image, mask = self._image(i), self._mask(i)
        return list(image.shape), image.id.get_storage_size(), list(mask.shape), mask.id.get_storage_size()


def _some_values(stored: NDArray[Any]) -> str:
    wrong = stored[(stored != 0) & (stored != 1)]
    return f"{wrong.size} pixels such as {wrong.flat[0]}"
