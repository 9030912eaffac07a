"""A subset of any dataset's images.

    chosen(data, limit=100)              # the first 100
    chosen(data, limit=100, seed=0)      # a sample of 100, the same on every machine
    chosen(data, images="few.txt")       # those in a list, one id per line

A sample consists of the images with the smallest SHA-256 of `seed/id`. It is spread evenly over the ids, does not
depend on the dataset's other images, and is a subset of every larger sample with the same seed.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import Dataset, Truth, checksum
from eigencam.datasets.completeness import some
from eigencam.datasets.names import Ids, match, once
from eigencam.datasets.reading import Reading, expand


class Subset:
    """Some images of a dataset, in its order; an `eigencam.datasets.base.Dataset`.

    Attributes:
        faults: faults in these images' ground truth that the dataset's lists reveal, by id.
    """

    def __init__(self, dataset: Dataset, positions: Sequence[int]) -> None:
        """Take the images at `positions` of the dataset, ascending."""
        self.dataset, self.positions = dataset, list(positions)
        self.name, self.classes, self.class_space = dataset.name, dataset.classes, dataset.class_space
        kept = {dataset.ids[k]: None for k in self.positions}
        aliases: dict[str, str] = getattr(dataset.ids, "aliases", {})
        self.ids: list[str] = Ids(kept, {alias: name for alias, name in aliases.items() if name in kept})
        faults: dict[str, str] = getattr(dataset, "faults", {})
        self.faults = {name: faults[name] for name in kept if name in faults}

    def image(self, i: int) -> NDArray[np.uint8]:
        """Image `i`: (H, W, 3) uint8 RGB. Raises `BadImageError` if it cannot be decoded."""
        return self.dataset.image(self.positions[i])

    @property
    def digest(self) -> Callable[[int], str]:
        """The dataset's `digest`, by position in the subset. Raises an AttributeError if the dataset has none."""
        digest = self.dataset.digest  # type: ignore[attr-defined]
        return lambda i: digest(self.positions[i])

    @property
    def partner(self) -> Callable[[int], NDArray[np.uint8]]:
        """The dataset's `partner`, by position in the subset. Raises an AttributeError if the dataset has none."""
        partner = self.dataset.partner  # type: ignore[attr-defined]
        return lambda i: partner(self.positions[i])

    def truth(self, i: int) -> Truth:
        """Return the ground truth of image `i`. Raises `BadTruthError` if it is invalid."""
        return self.dataset.truth(self.positions[i])

    def identity(self) -> dict[str, object]:
        """The dataset's identity, the number of images, and a checksum of their ids."""
        return {**self.dataset.identity(), "n": len(self.ids), "images": checksum(self.ids)}


def chosen(
    dataset: Dataset,
    limit: int | None = None,
    seed: int | None = None,
    images: str | Path | Sequence[str] | None = None,
) -> Dataset:
    """Return the requested images; the dataset itself if these are all.

    Args:
        dataset: any dataset.
        limit: number of images, 1 or more; None for all. More than the dataset has is an error.
        seed: seed of a sample; None for the first images.
        images: file with one id per line, or ids. The end of a path is enough if it identifies the image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a value is not allowed, or an id belongs to no image.
    """
    positions = chosen_positions(dataset.ids, limit, seed, images)
    return dataset if len(positions) == len(dataset.ids) else Subset(dataset, positions)


def chosen_positions(
    ids: Sequence[str], limit: int | None, seed: int | None, images: str | Path | Sequence[str] | None
) -> list[int]:
    """Return the positions of the requested images, ascending; see `chosen`."""
    positions = list(range(len(ids))) if images is None else named_positions(ids, images)
    if seed is not None and limit is None:
        raise ValueError(f"seed={seed} without limit: allowed is limit=N seed=S, a sample of N images")
    if limit is None:
        return positions
    if not 1 <= limit <= len(positions):
        raise ValueError(f"limit={limit}; allowed are 1 to {len(positions)}, the number of images")
    return positions[:limit] if seed is None else sample(ids, positions, limit, seed)


def sample(ids: Sequence[str], positions: Iterable[int], count: int, seed: int) -> list[int]:
    """Return `count` of the positions, ascending: those with the smallest SHA-256 of `seed/id`."""
    return sorted(sorted(positions, key=lambda i: hashlib.sha256(f"{seed}/{ids[i]}".encode()).digest())[:count])


def named_positions(ids: Sequence[str], images: str | Path | Sequence[str]) -> list[int]:
    """Return the positions of the images in a list, ascending.

    Raises:
        ValueError: the list is empty, a name belongs to no image or to two, or an image is named twice.
    """
    places: dict[str, str] = {}
    if isinstance(images, str | Path):
        path = expand(images)
        with Reading(path, "an image's id on each line") as file:
            for line in file.lines():
                once(places, line, f"{path}, {file.place}")
    else:
        for k, name in enumerate(images):
            once(places, str(name), f"images, entry {k + 1}")
    if not places:
        raise ValueError(f"images={images}: no image is named")
    meant = match(ids, places, places.__getitem__, "names")
    if unknown := sorted(places.keys() - set(meant.values())):
        raise ValueError(
            f"{places[unknown[0]]}: {unknown[0]!r} is of no image ({len(unknown)} of {len(places)} names are of none); "
            f"the images are called {some(ids)}, ..."
        )
    return [i for i, name in enumerate(ids) if name in meant]
