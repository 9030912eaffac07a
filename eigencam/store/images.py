"""The digests of images when results were made: an image that was changed since is noticed and named.

Each row has its image's digest (`eigencam.datasets.digest`). A run compares the images it decodes with the digests in
other results of the same folder and dataset; `eigencam verify` compares results with one another, and with the data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eigencam.datasets.digest import is_changed
from eigencam.store.bounded import read_batches
from eigencam.store.canonical import canonical, checksum
from eigencam.store.examine import published
from eigencam.store.gather import DIGEST
from eigencam.store.parts import Parts
from eigencam.store.positions import Positions
from eigencam.store.reader import results_in
from eigencam.store.schema import IDENTITY, PARTS, ROWS, read_identity


@dataclass(slots=True)
class Known:
    """Digests of images, and the results that they come from.

    Attributes:
        digests: by image id.
        folders: of the results read, in order.
    """

    digests: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    _later: dict[str, int] = field(default_factory=dict)

    def add(self, folder: Path, digests: Mapping[str, str]) -> Iterator[str]:
        """Add a result's digests, and yield a line for each image whose digest contradicts an earlier one."""
        for image, digest in digests.items():
            if image not in self.digests and self.folders:
                self._later[image] = len(self.folders)
            if is_changed(self.digests.setdefault(image, digest), digest):
                other = self.folders[self._later.get(image, 0)].name
                yield f"{folder}: image {image} is another one than in {other}: {self.told(image, digest)}"
        self.folders.append(folder)

    def told(self, image: str, digest: str) -> str:
        """Return both digests of an image, for a message."""
        return f"{self.digests.get(image)} there, {digest} here"


class KnownDigests:
    """Digests of a dataset's images, the first recorded for each, stored as bytes.

    Args:
        positions: of the images.
    """

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._digests = np.zeros(len(positions), "S1")

    @property
    def complete(self) -> bool:
        """Whether the digest of every image is known."""
        return bool((self._digests != b"").all())

    def add(self, images: Sequence[str], digests: Sequence[str | None]) -> None:
        """Add a result's digests."""
        if not len(images):
            return
        place = self._positions.of(images)
        new = np.array([(digest or "").encode() for digest in digests])
        chosen = np.flatnonzero((place >= 0) & (new != b""))
        chosen = chosen[self._digests[place[chosen]] == b""]
        if new.dtype.itemsize > self._digests.dtype.itemsize:
            self._digests = self._digests.astype(new.dtype)
        self._digests[place[chosen]] = new[chosen]

    def of(self, images: Sequence[str]) -> list[str | None]:
        """Return the digest of each image; None if not known."""
        place = self._positions.of(images)
        found = self._digests[np.maximum(place, 0)].tolist() if len(self._digests) else [b""] * len(images)
        return [digest.decode() if at >= 0 and digest else None for at, digest in zip(place, found, strict=True)]


def known_images(root: Path, dataset: Mapping[str, Any], positions: Positions) -> KnownDigests:
    """Return the digests in the results below `root` for a dataset's images, as far as they can be read.

    Args:
        root: folder of results.
        dataset: the dataset's part of the results' identities.
        positions: of the images; reading stops when all digests are known.
    """
    known, wanted = KnownDigests(positions), canonical(dataset)
    for folder in results_in(root) if root.is_dir() else ():
        if known.complete:
            break
        if not folder.name.startswith(f"{dataset['name']}-"):
            continue
        try:
            identity = read_identity(folder / IDENTITY)
            if canonical(identity["dataset"]) == wanted:
                for images, digests in said_of(folder, checksum(identity)):
                    known.add(images, digests)
        except (ValueError, OSError):  # damaged or not readable; reported by the commands that show it
            continue
    return known


def digests_of(folder: Path, owner: str) -> dict[str, str]:
    """Return the digests in the rows of a result by image id, complete or not; see `said_of`."""
    said = said_of(folder, owner)
    return {image: digest for images, of in said for image, digest in zip(images, of, strict=True) if digest}


def said_of(folder: Path, owner: str) -> Iterator[tuple[list[str], list[str | None]]]:
    """Yield images and their digests from the rows of a result, complete or not, in blocks.

    Args:
        folder: of the result.
        owner: checksum of its identity.

    Raises:
        DamagedError: its summary or rows have changed since they were written.
    """
    columns = ["image", DIGEST]
    try:
        sealed = published(folder).rows is not None
    except FileNotFoundError:
        tables = Parts(folder / PARTS, owner).read(columns)[0].values()
        batches = (batch for table in tables for batch in table.to_batches())
    else:
        batches = read_batches(folder / ROWS, columns) if sealed else ()
    for batch in batches:
        if DIGEST in batch.schema.names:
            yield batch.column("image").to_pylist(), batch.column(DIGEST).to_pylist()
