"""The common part of datasets with one file per image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import checksum
from eigencam.datasets.decoding import read_rgb
from eigencam.datasets.digest import file_digest


class _WithFiles(Protocol):
    """Has the path of each image."""

    @property
    def files(self) -> Sequence[Path]: ...


class ImageFiles:
    """A dataset with `files`, the path of each image."""

    __slots__ = ()

    def image(self: _WithFiles, i: int) -> NDArray[np.uint8]:
        """Image `i`: (H, W, 3) uint8 RGB. Raises `BadImageError` if it cannot be decoded."""
        return read_rgb(self.files[i])

    def digest(self: _WithFiles, i: int) -> str:
        """Return the digest of image `i`'s encoded bytes (`eigencam.datasets.digest`)."""
        return file_digest(self.files[i])

    def file_sizes(self: _WithFiles) -> str:
        """Return the checksum of the files' sizes, for the identity."""
        return checksum(path.stat().st_size for path in self.files)
