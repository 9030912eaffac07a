"""Decoded images, batch by batch, from loader processes unless there are few batches."""

import ctypes
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from eigencam.datasets.base import BadImageError, BadTruthError, Dataset, Truth
from eigencam.datasets.checks import checked_truth
from eigencam.datasets.digest import digest_of
from eigencam.networks.preprocess import Preprocess, Region
from eigencam.running.faults import blame
from eigencam.store.environment import cores


@dataclass(slots=True)
class Batch:
    """Decoded images of one batch.

    Attributes:
        index: positions in the dataset of the images that could be decoded and have a valid truth.
        images: (N, 3, H, W) uint8.
        regions: the part of each original image that the network sees.
        truths: the ground truth of each image.
        bad: by position, the error of each image that could not be decoded or has an invalid truth.
        digests: digest of each image; see `eigencam.datasets.digest`.
    """

    index: list[int]
    images: Tensor
    regions: list[Region]
    truths: list[Truth]
    bad: dict[int, Exception]
    digests: list[str] = field(default_factory=list)

    def part(self, start: int, stop: int) -> "Batch":
        """A slice of the images, without the errors in `bad`."""
        these = slice(start, stop)
        return Batch(
            self.index[these], self.images[these], self.regions[these], self.truths[these], {}, self.digests[these]
        )


@dataclass(frozen=True)
class InputImages(torch.utils.data.Dataset[Any]):
    """The dataset for the loader: image `i` decoded and resized, or the error."""

    dataset: Dataset
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.dataset.ids)

    def __getitem__(self, i: int) -> tuple[int, NDArray[np.uint8], Region, Truth, str] | tuple[int, Exception]:
        try:
            image = self.dataset.image(i)
            truth = self._truth(i, image.shape[:2])
            digest = digest_of(self.dataset, i, image)
        except (ValueError, OSError) as error:
            return i, error  # raised by the run loop: a loader process would bury the message in its traceback
        except Exception as error:  # a user's dataset may raise anything
            return i, ValueError(str(blame(f"dataset {self.dataset.name}", error, [self.dataset.ids[i]])))
        return i, *self.preprocess(image), truth, digest

    def _truth(self, i: int, shape: tuple[int, ...]) -> Truth:
        """The checked truth of a decoded image; `shape` is the image's (height, width)."""
        try:
            truth = checked_truth(self.dataset, i)
        except BadImageError as error:  # the image could be decoded, so its mask is the cause
            raise BadTruthError(str(error)) from error
        if shape != truth.size:
            shown, said = (f"{w} x {h}" for h, w in (shape, truth.size))
            raise truth.fault(f"the image is {shown} pixels, its boxes and masks are for {said}")
        return truth


def load(images: InputImages, batches: Sequence[list[int]], *, workers: object) -> Iterator[Batch]:
    """Yield the batches in order.

    Args:
        images: the dataset.
        batches: positions of each batch's images.
        workers: number of loader processes, or `auto`: one per core if there are more than four batches, else none.
    """
    if workers == "auto":
        workers = cores() if len(batches) > 4 else 0
    assert isinstance(workers, int)  # checked with the config
    return iter(
        DataLoader(
            images,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=die_with_parent,
        )
    )


def die_with_parent(_worker: int) -> None:
    """Make Linux end a loader process when the run is killed; otherwise it would wait forever to deliver a batch."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def collate(items: Sequence[tuple[Any, ...]]) -> Batch:
    """Combine the loader's items into a batch."""
    good = [item for item in items if len(item) == 5]
    images = torch.from_numpy(np.stack([item[1] for item in good])) if good else torch.empty(0)
    bad = {item[0]: item[1] for item in items if len(item) == 2}
    indices, _, regions, truths, digests = ([item[k] for item in good] for k in range(5))
    return Batch(indices, images, regions, truths, bad, digests)
