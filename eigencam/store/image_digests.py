"""The digests that images had when results were made: an image that has changed since is noticed and named.

Each row has its image's digest (`eigencam.datasets.digest`). A run compares the images it decodes with the digests in
other results of the same folder and dataset; `eigencam verify` compares results with one another, and with the data.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.digest import is_changed
from eigencam.store.bounded_parquet import read_batches
from eigencam.store.canonical import canonical, checksum
from eigencam.store.examine import published
from eigencam.store.finish import DIGEST
from eigencam.store.image_positions import Positions, hashes
from eigencam.store.parts import Parts
from eigencam.store.reader import results_in
from eigencam.store.schema import IDENTITY, PARTS, ROWS, read_identity


@dataclass(slots=True)
class Known:
    """Digests of images by 64-bit hashes of their ids, and the results that they come from.

    Attributes:
        folders: folders of the results read, in order.
    """

    folders: list[Path] = field(default_factory=list)
    _hashes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _digests: NDArray[np.bytes_] = field(default_factory=lambda: np.zeros(0, "S1"))
    _first: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def add(self, folder: Path, said: Iterable[tuple[Sequence[str], Sequence[str | None]]]) -> Iterator[str]:
        """Yield a line for each image whose digest in `said` (from `said_of`) contradicts an earlier one.

        The digests are added when the last line has been taken.
        """
        hashed, digests, named = [self._hashes], [self._digests], set[str]()
        for images, stored in said:
            asked, here = hashes(images), np.array([(digest or "").encode() for digest in stored], np.bytes_)
            place = np.minimum(np.searchsorted(self._hashes, asked), max(len(self._hashes) - 1, 0))
            known = self._hashes[place] == asked if len(self._hashes) else np.zeros(len(asked), bool)
            fresh = ~known & (here != b"")
            hashed.append(asked[fresh])
            digests.append(here[fresh])
            changed = (
                np.flatnonzero(known & (self._digests[place] != here)) if len(self._hashes) else np.zeros(0, np.int64)
            )
            for k, at in zip(changed.tolist(), place[changed].tolist(), strict=True):
                before, image = self._digests[at : at + 1].tolist()[0].decode(), images[k]
                if is_changed(before, stored[k]) and image not in named:
                    named.add(image)
                    other = self.folders[int(self._first[at])].name
                    yield f"{folder}: image {image} is another one than in {other}: {before} there, {stored[k]} here"
        first = [self._first, np.full(sum(map(len, hashed[1:])), len(self.folders), np.int32)]
        self._hashes, kept = np.unique(np.concatenate(hashed), return_index=True)
        self._digests, self._first = np.concatenate(digests)[kept], np.concatenate(first)[kept]
        self.folders.append(folder)


class KnownDigests:
    """Digests of a dataset's images, the first recorded for each, stored as bytes.

    Args:
        positions: positions of the images.
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
        positions: positions of the images; reading stops when all digests are known.
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


def said_of(folder: Path, owner: str) -> Iterator[tuple[list[str], list[str | None]]]:
    """Yield images and their digests from the rows of a result, complete or not, in blocks.

    Args:
        folder: folder of the result.
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
