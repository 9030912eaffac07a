"""The contents of a dataset: counts, sizes and areas, and its invalid truths."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, BadImageError, BadTruthError, Dataset, Truth
from eigencam.datasets.boxes import area
from eigencam.datasets.checks import checked_truth

_SHOWN = 5
_ENOUGH = 50
"""Minimum number of boxes for hints on how they are counted and scaled."""


@dataclass(slots=True)
class Census:
    """Statistics of a dataset's images, collected one by one.

    Attributes:
        sizes: (height, width) of each valid image.
        labels: number of images per label.
        objects: number of boxes per class.
        boxes: number of boxes per image.
        shares: for each box, the fraction of its image's area that it covers.
        corners: (B, 4): x1 and y1 of all boxes, and the distances of x2 and y2 to the last pixel.
        masked: for each image with a mask, the fractions of target-object pixels and of void pixels.
        refused: the reason by id for each invalid truth.
        undecodable: the reason by id for each image or mask that cannot be decoded.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)
    objects: Counter[int] = field(default_factory=Counter)
    boxes: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    corners: list[NDArray[np.float64]] = field(default_factory=list)
    masked: list[tuple[float, float]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    undecodable: dict[str, str] = field(default_factory=dict)

    def add(self, truth: Truth) -> None:
        """Add an image."""
        self.sizes.append(truth.size)
        self.labels[truth.label] += 1
        self.objects.update(truth.box_labels.tolist())
        self.boxes.append(len(truth.boxes))
        if truth.size[0] and len(truth.boxes):
            height, width = truth.size
            self.shares += (area(truth.boxes) / (height * width)).tolist()
            self.corners.append(np.abs(truth.boxes - [0, 0, width - 1, height - 1]))
        if truth.mask is not None:
            sought, void = truth.sought_pixels(), truth.mask == VOID
            self.masked.append((float(sought.mean()), float(void.mean())))


def census(dataset: Dataset, *, decode: bool = False, seen: Callable[[], object] = lambda: None) -> Census:
    """Collect the statistics of every image's truth.

    Args:
        dataset: of any kind.
        decode: whether to decode the images, too.
        seen: called after each image.
    """
    found = Census()
    for i, one in enumerate(dataset.ids):
        try:
            truth = checked_truth(dataset, i)
            if decode and (shape := dataset.image(i).shape[:2]) != truth.size != (0, 0):
                raise truth.fault(f"the image has (height, width) {shape}, its truth is for {truth.size}")
            found.add(truth)
        except BadTruthError as error:
            found.refused[one] = str(error)
        except (BadImageError, FileNotFoundError) as error:
            found.undecodable[one] = str(error)
        seen()
    return found


def lines(dataset: Dataset, census: Census) -> Iterator[str]:
    """Yield the census as lines of text."""
    right, n = len(census.sizes), len(dataset.ids)
    yield f"{dataset.name}: {n} images, {right} with a valid truth"
    if right:
        yield from _images(dataset, census)
        yield from _boxes(dataset, census)
        yield from _masks(census)
        yield from _hints(census)
    for what, reasons in (
        ("have an invalid truth", census.refused),
        ("cannot be decoded, or their masks cannot", census.undecodable),
    ):
        if reasons:
            yield f"{len(reasons)} of {n} images {what}:"
            yield from (f"  {reason}" for reason in list(reasons.values())[:_SHOWN])
            yield from ([f"  ... and {len(reasons) - _SHOWN} more"] if len(reasons) > _SHOWN else [])


def _images(dataset: Dataset, census: Census) -> Iterator[str]:
    sizes = np.array(census.sizes)
    different = len(set(census.sizes))
    ends = " to ".join(f"{w} x {h}" for h, w in (sizes[sizes.prod(1).argmin()], sizes[sizes.prod(1).argmax()]))
    yield f"sizes: {ends} pixels (width x height), {different} different"
    labelled = +Counter({k: n for k, n in census.labels.items() if k >= 0})
    without = f", {census.labels[-1]} images without one" if census.labels[-1] else ""
    missing = len(dataset.classes) - len(labelled)
    yield (
        f"labels: {len(labelled)} of {len(dataset.classes)} classes occur{without}"
        + (f"; {_most(dataset, labelled)}" if labelled else "")
        + (f"; {missing} classes without an image" if labelled and missing else "")
    )


def _boxes(dataset: Dataset, census: Census) -> Iterator[str]:
    if not any(census.boxes):
        yield "boxes: none"
        return
    counts = np.array(census.boxes)
    yield (
        f"boxes: {counts.sum()}, {_spread(counts, '{:.0f}')} per image, {(counts == 0).sum()} images without one; "
        f"{_most(dataset, census.objects)}"
    )
    if census.shares:
        yield f"area of a box: {_spread(100 * np.array(census.shares), '{:.1f}')} % of its image"
        gaps = np.concatenate(census.corners).min(0)
        yield f"closest to the border: {', '.join(f'{gap:g}' for gap in gaps)} pixels (left, top, right, bottom)"


def _masks(census: Census) -> Iterator[str]:
    if census.masked:
        sought, void = 100 * np.array(census.masked).T
        yield (
            f"masks: {len(census.masked)}; target object {_spread(sought, '{:.1f}')} % of the pixels, void "
            f"{_spread(void, '{:.1f}')} %; {(sought == 0).sum()} images without a pixel of the object"
        )


def _hints(census: Census) -> Iterator[str]:
    """Notes on boxes and masks that are valid but probably not intended."""
    if len(census.shares) >= _ENOUGH:
        left, top, right, bottom = np.concatenate(census.corners).min(0).tolist()
        if min(left, top) >= 1 and min(right, bottom) < 1:
            yield "note: no box begins at 0, and some end at the last pixel: are they counted from 1?"
        if min(left, top) < 1 and min(right, bottom) >= 1:
            yield "note: some boxes begin at 0, and none ends at the last pixel: were they shifted once too often?"
        if float(np.median(census.shares)) < 0.005:
            yield "note: half of the boxes cover less than 0.5 % of their image: are they in pixels of the original?"
    if census.masked and max(sought for sought, _ in census.masked) == 0:
        yield "note: no mask has a pixel of a target object"


def _most(dataset: Dataset, counts: Counter[int]) -> str:
    shown = [f"{dataset.classes[k] if k < len(dataset.classes) else k} {n}" for k, n in counts.most_common(_SHOWN)]
    return f"most: {', '.join(shown)}{', ...' if len(counts) > _SHOWN else ''}"


def _spread(values: NDArray[np.generic], form: str) -> str:
    """Smallest, median and largest value."""
    low, middle, high = (form.format(float(v)) for v in np.quantile(values.astype(float), [0, 0.5, 1]))
    return f"{low} to {high} (median {middle})" if low != high else low
