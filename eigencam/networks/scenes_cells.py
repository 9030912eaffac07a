"""The scenes' networks, with each output wired to one cell of a mosaic: the settings DiFull and DiPart.

S. Rao, M. Böhle and B. Schiele, "Towards Better Understanding Attribution Methods" (CVPR 2022). The image is divided
into n x n cells, each cell passes through the network alone, and logit `12 j + k` is that of class k for cell j.
Nothing outside the cell can change it, so a faithful map of this output lies entirely inside the cell. The cells'
feature maps are joined to one map of the whole image in the module `joined`, which is the target layer.

With `partial`, DiPart, only the head is divided: the features are those of the whole mosaic, as in GridPG's network,
and a logit reads only its cell's features. A map at `joined` must still lie inside the cell; a map at the input may
extend beyond its border by the features' receptive field.

The weights are those of the scenes' networks. If the cells have these networks' input size and `partial` is false, the
logits of each cell equal theirs.
"""

import torch
from torch import Tensor, nn

from eigencam.networks.scenes import ScenesResNet, ScenesVGG


def cut(x: Tensor, n: int) -> Tensor:
    """Divide (N, C, n h, n w) into (N n n, C, h, w), the cells of each image in raster order."""
    images, channels, height, width = x.shape
    if height % n or width % n:
        raise ValueError(f"a map or image of {height} x {width} does not divide into {n} x {n} equal cells")
    x = x.view(images, channels, n, height // n, n, width // n).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(images * n * n, channels, height // n, width // n)


def join(x: Tensor, n: int) -> Tensor:
    """(N n n, C, h, w) to (N, C, n h, n w): the inverse of `cut`."""
    cells, channels, height, width = x.shape
    x = x.view(cells // n**2, n, n, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(cells // n**2, channels, n * height, n * width)


class _OfCells(nn.Module):
    """Base with the number of cells and the target layer `joined`; the other base class is the network of one cell."""

    def __init__(self, cells: int = 2, partial: bool = False) -> None:
        super().__init__()
        self.cells, self.partial, self.joined = cells, partial, nn.Identity()


class ScenesResNetCells(_OfCells, ScenesResNet):
    """`ScenesResNet` on each cell alone; with `partial`, only its head.

    Args:
        cells: n, cells along each side.
        partial: whether the features are those of the whole mosaic, and only the head is per cell.
    """

    version = 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, n S, n S) normalised mosaics to (N, 12 n n) logits."""
        x = self.relu(self.bn1(self.conv1(x if self.partial else cut(x, self.cells))))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.joined(x if self.partial else join(x, self.cells))
        x = self.fc(torch.flatten(self.avgpool(cut(x, self.cells)), 1))
        return x.reshape(-1, self.cells**2 * x.shape[1])


class ScenesVGGCells(_OfCells, ScenesVGG):
    """`ScenesVGG` on each cell alone; with `partial`, only its head.

    Args:
        cells: n, cells along each side.
        partial: whether the features are those of the whole mosaic, and only the head is per cell.
    """

    version = 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, n S, n S) normalised mosaics to (N, 12 n n) logits."""
        x = self.features(x if self.partial else cut(x, self.cells))
        x = self.joined(x if self.partial else join(x, self.cells))
        x = self.classifier(torch.flatten(self.avgpool(cut(x, self.cells)), 1))
        return x.reshape(-1, self.cells**2 * x.shape[1])
