"""Changed images and the network's predictions for them, shared by the evaluators of faithfulness.

torch is imported only when the network runs, so a summary of stored rows does not need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.evaluation.base import Probe, Row

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Fill = Literal["black", "mean", "blur"]


def scaled(maps: NDArray[np.float32], probe: Probe) -> tuple[Tensor, list[str]]:
    """(N, H, W) float32 in 0..1: maps scaled from minimum to maximum, then enlarged; and their states."""
    import torch

    from eigencam.transfer import to_device

    maps = np.ascontiguousarray(maps, np.float32)
    (on_device,) = to_device(probe.images.device, torch.from_numpy(maps))
    with np.errstate(over="ignore", invalid="ignore"):
        spans = maps.max((1, 2)) - maps.min((1, 2))
    states = ["constant" if span == 0 else "ok" if np.isfinite(span) else "nonfinite" for span in spans]
    return unit(on_device, probe), states


def unit(m: Tensor, probe: Probe) -> Tensor:
    """(N, H, W) float32 in 0..1 from maps (N, h, w) on the device, as in `scaled`; 1 for a constant map."""
    import torch
    import torch.nn.functional as F

    low, high = m.amin((1, 2), keepdim=True), m.amax((1, 2), keepdim=True)
    span = high - low
    usable = span.isfinite() & (span > 0)
    m = torch.where(usable, (m - low) / torch.where(usable, span, 1.0), 1.0)
    if m.shape[1:] != probe.images.shape[2:]:
        m = F.interpolate(m[:, None], probe.images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return m


def ranks_of(m: Tensor) -> Tensor:
    """(N, H, W) int64: rank of each pixel by descending value, 0 the first; equal values in raster order."""
    import torch

    if m.device.type == "cpu" and m.dtype == torch.float32:
        return torch.from_numpy(_ranks_of(m.detach().flatten(1).numpy())).view(m.shape)
    order = m.flatten(1).argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    places = torch.arange(order.shape[1], device=m.device).expand_as(order)
    return ranks.scatter_(1, order, places).view(m.shape)


def _ranks_of(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N, P) -> (N, P): the same, by one sort of integers with the inverted value in the upper bits, then the pixel."""
    values = values + np.float32(0)  # 0 and -0 count as one value
    bits = values.view(np.uint32)
    bits[np.isnan(values)] = 0x7FC00000  # above all numbers
    falling = np.where(bits >> np.uint32(31), bits, bits ^ np.uint32(0x7FFFFFFF))
    places = np.arange(values.shape[1], dtype=np.uint64)
    keys = falling.astype(np.uint64) << np.uint64(32) | places
    keys.sort(axis=1)
    order = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    ranks = np.empty_like(order)
    for own, at in zip(ranks, order, strict=True):
        own[at] = places
    return ranks


def points_gone(ranks: Tensor, gone: Tensor) -> Tensor:
    """For each pixel the first of P points at which it is removed, in the smallest type that holds P.

    Args:
        ranks: (N, H, W), from `ranks_of`.
        gone: (P,) ascending numbers of pixels that are removed at each point.

    Returns:
        (N, H, W) uint8 or int32: smallest p with ranks < gone[p]; P where there is none.
    """
    import torch

    count, few = ranks[0].numel(), len(gone) < 256
    if ranks.device.type == "cpu":  # numpy indexes and compares small whole numbers ten times as fast
        passed = np.bincount(np.ceil(gone.numpy()).astype(np.int64), minlength=count)[:count].cumsum()
        return torch.from_numpy(passed.astype(np.uint8 if few else np.int32)[ranks.numpy()])
    first = torch.bucketize(torch.arange(count, device=ranks.device), gone, right=True, out_int32=True)
    return (first.to(torch.uint8) if few else first)[ranks]


def is_gone(first: Tensor, point: Tensor, i: Tensor) -> Tensor:
    """(M, H, W) bool: the pixels of image i (M,) removed at a point (M,); `first` comes from `points_gone`."""
    import torch

    point = point.to(first.dtype)[:, None, None]
    if first.device.type == "cpu":
        return torch.from_numpy(first.numpy()[i.numpy()] <= point.numpy())
    return first[i] <= point


def filling(probe: Probe, fill: Fill) -> Tensor:
    """(N, 3, H, W): the values that replace removed pixels."""
    import torch
    import torch.nn.functional as F

    from eigencam.transfer import constant

    if fill != "blur":
        return (probe.black if fill == "black" else torch.zeros_like(probe.black)).expand_as(probe.images)
    line = constant(tuple(blur_kernel().tolist()), probe.images.device)
    line = line.expand(probe.images.shape[1], 1, len(line))
    blurred = F.conv2d(probe.images.float(), line[:, :, None], padding=(0, 5), groups=len(line))
    return F.conv2d(blurred, line[..., None], padding=(5, 0), groups=len(line)).to(probe.images.dtype)


def blur_kernel() -> NDArray[np.float64]:
    """(11,), sum 1: one axis of the blur of RISE's authors; the kernel is its outer product with itself.

    They smooth an 11 x 11 image that is 1 in the centre with SciPy's filter, sigma 5. The filter cuts the Gaussian at
    four sigma, 20 pixels, and reflects what lies outside the 11 pixels back into them, so the kernel is nearly flat.
    """
    side, reach = 11, 20
    gaussian = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 5.0) ** 2)
    place = (side // 2 + np.arange(-reach, reach + 1)) % (2 * side)
    sums = np.bincount(np.minimum(place, 2 * side - 1 - place), gaussian / gaussian.sum(), side)
    return sums.astype(np.float64)


def variant_and_image(part: slice, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The variant and the image of each input in a slice."""
    import torch

    which = torch.arange(part.start, part.stop, device=device)
    return which // n, which % n


def probabilities(probe: Probe, count: int, inputs: Callable[[slice], Tensor]) -> Tensor:
    """(count,) softmax probability of the map's class, with inputs ordered variant by variant."""
    logits = probe.predict(count, inputs)
    targets = probe.targets.repeat(count // len(probe.targets))
    return logits.softmax(1).gather(1, targets[:, None])[:, 0]


def rows_with_states(columns: Mapping[str, Tensor], states: Sequence[str]) -> list[Row]:
    """N rows from columns (N,) or (N, P), with the states of their maps."""
    from eigencam.transfer import to_host

    arrived = to_host(*(column.float() for column in columns.values()))()
    values: dict[str, Any] = {name: column.numpy() for name, column in zip(columns, arrived, strict=True)}
    return [
        {**{name: v[i].item() if v.ndim == 1 else v[i] for name, v in values.items()}, "map_state": state}
        for i, state in enumerate(states)
    ]


def drop_and_increase(rows: pd.DataFrame, kept: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) in 0..1 each: the relative drop of the probability, and whether it increases (1) or not (0), or NaN.

    Args:
        rows: rows of `AverageDrop`.
        kept: the column with the probability afterwards.
    """
    before, after = (rows[name].to_numpy(np.float64) for name in ("confidence", kept))
    drop = np.divide(np.maximum(before - after, 0), before, out=np.full_like(before, np.nan), where=before > 0)
    return drop, np.where(np.isnan(before) | np.isnan(after), np.nan, after > before)
