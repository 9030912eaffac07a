"""The filters of one FLIM layer from marked pixels: statistics, patches, k-means, norm 1."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import label as connected
from torch import Tensor

from eigencam.fitting.flim_markers import Labels

Variant = Literal["pyflim", "flim"]
Reduction = Literal["kmeans", "pca"]
Floats = NDArray[np.float64]
ITERATIONS = 100
SMALLEST_NORM = 1e-3
"""Filters with a smaller norm are left as they are."""


def statistics(maps: Tensor, labels: Sequence[Labels], least: float) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (C,) of the marked pixels of all images.

    Args:
        maps: (N, C, h, w).
        labels: N label images (h, w).
        least: added to the deviation.
    """
    marked = torch.from_numpy(np.stack(labels) > 0)
    values = maps.permute(0, 2, 3, 1)[marked].double()
    return values.mean(0).to(maps), (values.std(0, correction=0) + least).to(maps)


def patches(maps: Tensor, labels: Sequence[Labels], kernel: int, dilation: int) -> list[Floats]:
    """Return for each image the patches (n, C k k) around its marked pixels in raster order, padded with zeros."""
    made = []
    for image, marked in zip(maps, labels, strict=True):
        rows, columns = (torch.from_numpy(axis) for axis in marked.nonzero())
        reach = dilation * (kernel - 1) // 2
        padded, steps = F.pad(image, (reach,) * 4), dilation * torch.arange(kernel)
        at = padded[:, (rows[:, None] + steps)[:, :, None], (columns[:, None] + steps)[:, None, :]]
        made.append(at.permute(1, 0, 2, 3).flatten(1).double().numpy())
    return made


def filters(
    patches: Sequence[Floats],
    labels: Sequence[Labels],
    variant: Variant,
    width: int,
    per_marker: int,
    reduction: Reduction,
) -> Floats:
    """Return the filters (width, C k k) of a layer.

    Args:
        patches: the patches of each image, see `patches`.
        labels: N label images (h, w).
        variant: `pyflim`: the patches of each connected marker are clustered into `per_marker` centres; `flim`: those
            of each label into (number of filters) / (largest label) centres, rounded up.
        width: number of filters.
        per_marker: see `variant`.
        reduction: how surplus candidates are reduced to filters: by clustering, or to their principal directions.

    Raises:
        ValueError: the markers give too few candidates.
    """
    if variant == "pyflim":
        candidates = [k_means(group, per_marker, 3425, 1) for group in _by_component(patches, labels)]
    else:
        every, classes = np.concatenate(patches), np.concatenate([marked[marked > 0] for marked in labels])
        count = math.ceil(width / classes.max())
        candidates = [k_means(every[classes == label], count, 42, 10) for label in np.unique(classes)]
    points = np.concatenate(candidates)
    points = unit(points) if variant == "flim" else points
    most = min(points.shape) if reduction == "pca" else len(points)
    if most < width:
        seen = f"the markers give {most} filters, and the layer has {width}"
        raise ValueError(f"{seen}; mark more, or set model.args.widths")
    if len(points) > width or reduction == "pca":
        points = principal(points, width) if reduction == "pca" else k_means(points, width, 3425, 1)
    return unit(points)


def _by_component(patches: Sequence[Floats], labels: Sequence[Labels]) -> Iterator[Floats]:
    """The patches of each connected marker, of any label, image by image."""
    for rows, marked in zip(patches, labels, strict=True):
        components, count = connected(marked > 0, np.ones((3, 3)))  # type: ignore[misc]
        component = components[marked > 0]
        yield from (rows[component == k] for k in range(1, count + 1))


def unit(points: Floats) -> Floats:
    """Return the rows with norm 1; rows shorter than `SMALLEST_NORM` stay as they are."""
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(norms > SMALLEST_NORM, norms, 1.0)


def principal(points: Floats, count: int) -> Floats:
    """Return the principal directions (count, d), signed so that the entry of largest magnitude is positive."""
    _, _, directions = np.linalg.svd(points - points.mean(0), full_matrices=False)
    largest = np.abs(directions).argmax(1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return (directions * signs[:, None])[:count]


def k_means(points: Floats, count: int, seed: int, restarts: int) -> Floats:
    """Return the cluster centres, or the points themselves if there are no more than `count`.

    Lloyd's iterations with k-means++ initialization: each next centre is drawn with probability proportional to the
    squared distance to the nearest centre. The start with the smallest sum of squares is kept. A cluster that loses all
    points takes the point farthest from its centre.

    Args:
        points: (n, d).
        count: number of clusters.
        seed: seed of the draws.
        restarts: number of starts.
    """
    if len(points) <= count:
        return points
    random, best, least = np.random.default_rng(seed), points[:count], np.inf
    for _ in range(restarts):
        centres = _spread(points, count, random)
        cluster = np.full(len(points), -1)
        for _ in range(ITERATIONS):
            squares = _squares(points, centres)
            before, cluster = cluster, squares.argmin(1)
            if np.array_equal(before, cluster):
                break
            for k in range(count):
                mine = points[cluster == k]
                centres[k] = mine.mean(0) if len(mine) else points[squares.min(1).argmax()]
        if (total := _squares(points, centres).min(1).sum()) < least:
            best, least = centres, total
    return best


def _spread(points: Floats, count: int, random: np.random.Generator) -> Floats:
    centres = [points[random.integers(len(points))]]
    for _ in range(count - 1):
        squares = _squares(points, np.stack(centres)).min(1)
        total = squares.sum()
        chosen = random.choice(len(points), p=squares / total) if total > 0 else random.integers(len(points))
        centres.append(points[chosen])
    return np.stack(centres)


def _squares(points: Floats, centres: Floats) -> Floats:
    """(n, k) squared distances, computed from differences: exactly 0 for equal points."""
    return np.stack([np.square(points - centre).sum(1) for centre in centres], 1)
