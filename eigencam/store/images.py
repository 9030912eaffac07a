"""What images were when results were made of them: an image that was changed since is noticed, and named.

Each row has its image's digest (`eigencam.datasets.digest`). A run compares what it decodes with what other results of
the same folder and dataset were made of; `eigencam verify` compares results with one another, and with the data.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eigencam.datasets.digest import is_changed
from eigencam.store.bounded import read_table
from eigencam.store.canonical import canonical, checksum
from eigencam.store.examine import published
from eigencam.store.gather import DIGEST
from eigencam.store.parts import Parts
from eigencam.store.reader import results_in
from eigencam.store.schema import IDENTITY, PARTS, ROWS, read_identity


@dataclass(slots=True)
class Known:
    """Digests of images, and the results that say so.

    Attributes:
        digests: by image id.
        folders: that were read, the first one first.
    """

    digests: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    _later: dict[str, int] = field(default_factory=dict)

    def add(self, folder: Path, digests: Mapping[str, str]) -> Iterator[str]:
        """Take in what a result says, and yield a line for each image that it says something else of."""
        for image, digest in digests.items():
            if image not in self.digests and self.folders:
                self._later[image] = len(self.folders)
            if is_changed(self.digests.setdefault(image, digest), digest):
                other = self.folders[self._later.get(image, 0)].name
                yield f"{folder}: image {image} is another one than in {other}: {self.told(image, digest)}"
        self.folders.append(folder)

    def told(self, image: str, digest: str) -> str:
        """Return both digests of an image, as words."""
        return f"{self.digests.get(image)} there, {digest} here"


def known_images(root: Path, dataset: Mapping[str, Any], ids: Sequence[str]) -> Known:
    """Return what the results below `root` say of a dataset's images, as far as they can be read.

    Args:
        root: folder of results.
        dataset: the dataset's part of their identities.
        ids: of the images; once all are known no more results are read.
    """
    known, wanted = Known(), canonical(dataset)
    for folder in results_in(root) if root.is_dir() else ():
        if len(known.digests) == len(ids):
            break
        if not folder.name.startswith(f"{dataset['name']}-"):
            continue
        try:
            identity = read_identity(folder / IDENTITY)
            if canonical(identity["dataset"]) == wanted:
                list(known.add(folder, digests_of(folder, checksum(identity))))
        except (ValueError, OSError):  # damaged, or not for this user: it is named where it is asked for
            continue
    return known


def digests_of(folder: Path, owner: str) -> dict[str, str]:
    """Return the digests in the rows of a result by image id, complete or not.

    Args:
        folder: of the result.
        owner: checksum of its identity.

    Raises:
        DamagedError: its summary or its rows are not what was written.
    """
    try:
        sealed = published(folder).rows is not None
    except FileNotFoundError:
        return _digests(Parts(folder / PARTS, owner).read(["image", DIGEST])[0].values())
    path = folder / ROWS
    if not sealed or DIGEST not in pq.read_schema(path).names:
        return {}
    return _digests([read_table(path, ["image", DIGEST])])


def _digests(tables: Iterable[pa.Table]) -> dict[str, str]:
    found: dict[str, str] = {}
    for table in tables:
        if DIGEST in table.column_names:
            pairs = zip(table["image"].to_pylist(), table[DIGEST].to_pylist(), strict=True)
            found.update((image, digest) for image, digest in pairs if digest)
    return found
