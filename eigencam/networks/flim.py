"""FLIM (de Souza & Falcao, 2020): a network whose filters come from markers in a few images, without backpropagation.

Input: RGB in 0..1. Unless `colour: rgb`, it is converted to Lab and scaled to about 0..1. Each block then standardises
its channels by the statistics at the markers, convolves with filters of norm 1 and without bias, and applies ReLU and
pooling. A linear layer, a support vector machine, takes the flattened last map, or its average (`head: average`), which
a CAM needs.

`eigencam fit fit=flim` makes the filters (`eigencam.fitting.flim`); the constructor alone draws random ones.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

XYZ = (
    (0.412395589, 0.357583431, 0.180492647),
    (0.212586231, 0.715170304, 0.0722004986),
    (0.0192972155, 0.119183865, 0.950497125),
)
"""X, Y and Z of R, G and B, as in FLIM's implementations: without removing the display's gamma."""
WHITE = (0.950456, 1.0, 1.088754)
LEAST = (0.0, -86.182236, -107.867744)
MOST = (99.998337, 98.258614, 94.481682)
"""Smallest and largest L, a and b."""


class Lab(nn.Module):
    """RGB in 0..1 to L, a and b, each scaled by its smallest and largest value."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to the same shape."""
        like = {"dtype": x.dtype, "device": x.device}
        matrix = torch.tensor(XYZ, **like) / torch.tensor(WHITE, **like)[:, None]
        xyz = torch.einsum("ij,njhw->nihw", matrix, x)
        limit = 0.00885645167903563
        f = torch.where(xyz >= limit, xyz.clamp(min=limit) ** (1 / 3), 841 / 108 * xyz + 4 / 29)
        lab = torch.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
        least, most = (torch.tensor(ends, **like).view(3, 1, 1) for ends in (LEAST, MOST))
        return (lab - least) / (most - least)


class MarkerNorm(nn.Module):
    """Channels minus their mean over the marker pixels, divided by their deviation there."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return (x - self.mean[:, None, None]) / self.deviation[:, None, None]


class FLIM(nn.Module):
    """The network; see the module. Its maps are the outputs of `blocks.0`, `blocks.1`, ...

    Args:
        classes: number of outputs.
        size: side of the input, pixels.
        widths: filters of each block.
        kernels: side of the filters of each block.
        dilations: dilation of each convolution.
        pools: `max` or `average`.
        pool_sizes: sides of the pooling windows.
        strides: stride of each pooling.
        padding: padding of the convolutions, `reflect` or `zeros`.
        head: `flat` or `average`.
        colour: `lab`, or `rgb`, which methods with rules only for ReLU networks can follow down to the image.
    """

    version = 1

    def __init__(
        self,
        classes: int = 12,
        size: int = 112,
        widths: Sequence[int] = (24, 32, 48),
        kernels: Sequence[int] = (3, 3, 3),
        dilations: Sequence[int] = (1, 1, 1),
        pools: Sequence[str] = ("max", "max", "max"),
        pool_sizes: Sequence[int] = (3, 3, 3),
        strides: Sequence[int] = (2, 2, 2),
        padding: Literal["reflect", "zeros"] = "reflect",
        head: Literal["flat", "average"] = "flat",
        colour: Literal["lab", "rgb"] = "lab",
    ) -> None:
        super().__init__()
        columns = (widths, kernels, dilations, pools, pool_sizes, strides)
        if len({len(column) for column in columns}) != 1 or any(kernel % 2 == 0 for kernel in (*kernels, *pool_sizes)):
            seen = f"widths={list(widths)}, kernels={list(kernels)}, pool_sizes={list(pool_sizes)}, ..."
            raise ValueError(f"model.args: {seen}: allowed are lists of one length, and odd sides")
        if head not in ("flat", "average") or not set(pools) <= {"max", "average"}:
            raise ValueError(f"model.args: head={head}, pools={list(pools)}; allowed: flat or average; max or average")
        if colour not in ("lab", "rgb"):
            raise ValueError(f"model.args: colour={colour}; allowed: lab, rgb")
        self.lab, channels, side = (Lab() if colour == "lab" else nn.Identity()), 3, size
        blocks = []
        for width, kernel, dilation, pool, pool_size, stride in zip(*columns, strict=True):
            reach = dilation * (kernel - 1) // 2
            conv = nn.Conv2d(channels, width, kernel, 1, reach, dilation, bias=False, padding_mode=padding)
            kind = nn.MaxPool2d if pool == "max" else nn.AvgPool2d
            pooling = kind(pool_size, stride, (pool_size - 1) // 2)
            blocks.append(nn.Sequential(MarkerNorm(channels), conv, nn.ReLU(), pooling))
            channels, side = width, (side + 2 * ((pool_size - 1) // 2) - pool_size) // stride + 1
        self.blocks, self.average = nn.ModuleList(blocks), head == "average"
        self.fc = nn.Linear(channels if self.average else channels * side * side, classes)

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..1 to the inputs (N, D) of the linear layer."""
        x = self.lab(x)
        for block in self.blocks:
            x = block(x)
        return F.adaptive_avg_pool2d(x, 1).flatten(1) if self.average else x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..1 to (N, classes) scores."""
        return self.fc(self.features(x))
