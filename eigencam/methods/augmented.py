r"""Augmented Grad-CAM: one fine map that explains the coarse maps of rotated and shifted images.

Augmented Grad-CAM (Morbidelli et al., ICASSP 2020): with $T_i$ a rotation by up to `ROTATION` radians and then a shift
by up to `SHIFT` of the image's sides, $c_i$ the Grad-CAM of $T_i X$ divided by its maximum, and D the reduction of a
map from the image's size to Grad-CAM's, the map g of the image's size minimises

$$\sum_{i=1}^{m} \lVert D\, T_i\, g - c_i \rVert^2 + 0.002\, m \sum |\partial_x g| + |\partial_y g|
  + 0.0001\, m\, \lVert g \rVert^2$$

by `steps` steps of Adam with learning rate `rate`, from g = 0. As in the authors' code
(diegocarrera89/AugmentedGradCAM@54caeb7, for TensorFlow 1): 100 copies, the first of which is the image itself, and 200
steps at 0.001, after which g has not converged. Interpolation is bilinear; beyond the border, images are black and g is
0.

The copies are the same for all images. A rotation and its shift are one resampling; in the authors' code they are two.
D interpolates between the four pixels around the centre of a cell; theirs, an older `tf.image.resize`, reads the pixel
at its corner. A Grad-CAM that is 0 everywhere stays 0; theirs divides 0 by 0.

The fit is in float64, and the first copy, which is not transformed, is read exactly at the pixels. The length of Adam's
steps does not depend on that of the gradient, and the gradient of the variation is the sign of the difference of
neighbouring pixels, many of which rise equally. In float32, rounding decides these signs and changes g by 14 to 28 % of
its maximum.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.gradcam import GradCAM
from eigencam.methods.randomness import uniform
from eigencam.methods.smoothing import again
from eigencam.passes.forward import Forward
from eigencam.transfer import made

ROTATION = 0.5
"""Largest angle, in radians."""
SHIFT = 30 / 224
"""Largest shift, as a fraction of the image's sides."""
VARIATION, ENERGY = 0.002, 0.0001
"""Weights of the total variation and of the square, for each copy."""


@dataclass(frozen=True, slots=True)
class AugmentedGradCAM:
    """Augmented Grad-CAM of `copies` copies, fitted in `steps` steps of Adam."""

    copies: int = 100
    steps: int = 200
    rate: float = 0.001
    seed: int = 0
    layer: str | None = None

    version = 2
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Morbidelli et al., ICASSP 2020"
    needs: ClassVar[str] = "A forwards, A backwards for A copies; S steps of a fit"

    def __post_init__(self) -> None:
        if self.copies < 1 or self.steps < 1 or not self.rate > 0:
            raise ValueError(
                f"copies={self.copies}, steps={self.steps}, rate={self.rate}; allowed: 1 or more, 1 or more, above 0"
            )

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32."""
        images, gradcam = forward.images.float(), GradCAM(layer=self.layer)
        black, size = forward.black.float(), (int(images.shape[2]), int(images.shape[3]))
        turns = self._turns(size, images.device)
        maps = [gradcam(forward, targets)]
        for turn in turns[1:].float():
            grid = F.affine_grid(turn.expand(len(images), -1, -1), list(images.shape), align_corners=False)
            turned = black + F.grid_sample(images - black, grid, align_corners=False)
            maps.append(gradcam(again(forward, turned, gradcam), targets))
        cams = torch.stack(maps, 1)  # (N, A, h, w)
        peaks = cams.amax((2, 3), keepdim=True)
        cams = torch.where(peaks > 0, cams / torch.where(peaks > 0, peaks, 1.0), 0.0)
        with torch.inference_mode(False), torch.enable_grad():
            return self._fitted(cams.to(torch.float64, copy=True), size, turns.clone())

    def _turns(self, size: tuple[int, int], device: torch.device) -> Tensor:
        """(A, 2, 3) float64: from positions in a copy to positions in the image, -1..1; the first: the identity."""
        return made(_turns, (self.copies, size, self.seed), device, torch.float64)

    def _fitted(self, cams: Tensor, size: tuple[int, int], turns: Tensor) -> Tensor:
        """(N, H, W) float32 g for (N, A, h, w) float64 maps; all images are fitted together, but independently."""
        taps = taps_of(size, (cams.shape[2], cams.shape[3]), cams.device)
        points = taps.points(turns[1:]).expand(len(cams), -1, -1, -1)
        g = torch.zeros(len(cams), 1, *size, dtype=torch.float64, device=cams.device, requires_grad=True)
        adam = torch.optim.Adam([g], lr=self.rate)
        for _ in range(self.steps):
            turned = F.grid_sample(g, points, align_corners=False)[:, 0]
            shown = taps.shrunk(torch.cat([g[:, 0, taps.rows][:, :, taps.columns], turned], 1))
            variation = g.diff(dim=2).abs().sum() + g.diff(dim=3).abs().sum()
            penalty = VARIATION * variation + ENERGY * g.square().sum()
            adam.zero_grad()
            ((shown - cams).square().sum() + len(turns) * penalty).backward()
            adam.step()
        return g.detach()[:, 0].float()


@dataclass(frozen=True, slots=True)
class Taps:
    """What D reads from a map (H, W) for (h, w) cells: two rows and two columns of pixels per cell.

    Attributes:
        rows: (2h,) int64.
        columns: (2w,) int64.
        positions: (2h, 2w, 3) float64, x and y of these pixels, -1..1, and 1.
        weights: (h, 2, w, 2) float64.
    """

    rows: Tensor
    columns: Tensor
    positions: Tensor
    weights: Tensor

    def points(self, turns: Tensor) -> Tensor:
        """(1, A 2h, 2w, 2) float64: the positions that D reads from the map transformed by each of (A, 2, 3)."""
        return (self.positions @ turns.mT[:, None]).flatten(0, 1)[None]

    def shrunk(self, read: Tensor) -> Tensor:
        """(N, A, h, w) from the values that are read, (N, A 2h, 2w)."""
        return (read.view(len(read), -1, *self.weights.shape) * self.weights).sum((3, 5))


def taps_of(size: tuple[int, int], cells: tuple[int, int], device: torch.device) -> Taps:
    """Return what D reads from a map of `size` for (h, w) `cells`."""
    (rows, down), (columns, right) = (
        (made(_pixels, (side, count), device, torch.int64), made(_weights, (side, count), device, torch.float64))
        for side, count in zip(size, cells, strict=True)
    )
    x, y = ((2 * at.double() + 1) / side - 1 for at, side in ((columns, size[1]), (rows, size[0])))
    y, x = torch.meshgrid(y, x, indexing="ij")
    positions = torch.stack([x, y, torch.ones_like(x)], 2)
    return Taps(rows, columns, positions, down[:, :, None, None] * right)


def _pixels(side: int, cells: int) -> Tensor:
    """(2 cells,) int64: the two pixels that bilinear interpolation reads for each cell."""
    below = _centres(side, cells).floor()
    return torch.stack([below, (below + 1).clamp(max=side - 1)], 1).long().flatten()


def _weights(side: int, cells: int) -> Tensor:
    """(cells, 2) float64: the weights of these pixels."""
    share = _centres(side, cells).frac()[:, None]
    return torch.cat([1 - share, share], 1)


def _centres(side: int, cells: int) -> Tensor:
    """(cells,) float64: the centres of the cells, in pixels."""
    return ((torch.arange(cells, dtype=torch.float64) + 0.5) * side / cells - 0.5).clamp(0, side - 1)


def _turns(copies: int, size: tuple[int, int], seed: int) -> Tensor:
    """(copies, 2, 3) float64; see `AugmentedGradCAM._turns`."""
    drawn = 2 * uniform(torch.arange(copies), (3,), seed).double() - 1
    drawn[0] = 0
    angle, (h, w) = ROTATION * drawn[:, 0], size
    cosine, sine = angle.cos(), angle.sin()
    rotation = torch.stack([cosine, sine * h / w, -sine * w / h, cosine], 1).view(-1, 2, 2)  # pixels are square
    shift = 2 * SHIFT * drawn[:, 1:]  # right and down, of sides of length 2
    return torch.cat([rotation, -(rotation @ shift[:, :, None])], 2)
