r"""XRAI: segments of the image in the order of the attribution that each adds.

XRAI (Kapishnikov et al., ICCV 2019), as in the authors' code (PAIR-code/saliency@7b72b67): with f the class's logit and
x the normalised image, integrated gradients from black and from white are averaged, each over `steps` points including
both ends, and the largest of the three channels is taken:

$$a = \max_c\, \frac12 \sum_{b} (x - b) \odot \frac1n \sum_{i=0}^{n-1} \nabla f\Big(b + \frac{i}{n - 1} (x - b)\Big)$$

The image, scaled from its own minimum and maximum to -1..1 and brought to 224 x 224 pixels, is cut into segments
(Felzenszwalb & Huttenlocher, IJCV 2004) at six scales, 50 to 1200, with a smoothing of 0.8 and at least 150 pixels
each; a segment is brought back to the image's size and widened by 5 pixels. Repeatedly, the segment whose *new* pixels
have the highest mean of a is taken, and its new pixels get that mean; segments with fewer than 50 new pixels are left
out. Pixels that no taken segment covers get the mean of a over all such pixels.

The segments are computed on the host. Each pixel is new only once, so updating the sums of all segments costs one pass
over the image per segment.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects
from skimage.morphology import disk
from skimage.segmentation import felzenszwalb
from skimage.transform import resize
from torch import Tensor

from eigencam.methods.input_gradients import image_gradients
from eigencam.passes.forward import Forward
from eigencam.transfer import to_device, to_host

SCALES = (50, 100, 150, 250, 500, 1200)
SIGMA, LEAST_PIXELS, SIDE = 0.8, 150, 224
"""Parameters of the segmentation: smoothing, smallest segment in pixels, and side of the image."""
WIDER = 5
"""Pixels that a segment is widened by."""
GAIN = 50
"""Smallest number of new pixels of a segment that is taken."""

Masks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class XRAI:
    """XRAI with `steps` points from black, and as many from white."""

    steps: int = 100

    version = 1
    needs_gradient: ClassVar[bool] = False  # its gradient is with respect to the image, not to a layer's output
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Kapishnikov et al., ICCV 2019"
    needs: ClassVar[str] = "2 S + 1 forwards, 2 S backwards; segments on the CPU"
    networks: ClassVar[str] = "differentiable, without jumps"
    differentiates: ClassVar[str] = "image"
    needs_smooth: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps={self.steps}; allowed: 2 or more")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32; NaN everywhere in an image whose attribution is not finite at some pixel."""
        arrived = to_host(self.attributions(forward, targets), forward.pixels.permute(0, 2, 3, 1))
        attributions, pixels = (one.numpy() for one in arrived())
        ranked = [regions(a, segments_of(image)) for a, image in zip(attributions, pixels, strict=True)]
        return to_device(forward.images.device, torch.from_numpy(np.stack(ranked)).float())[0]

    def attributions(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, the largest of the three channels."""
        images, total = forward.images.float(), torch.zeros_like(forward.images, dtype=torch.float32)
        for end in (forward.black.float(), forward.white.float()):
            gradient = torch.zeros_like(images)
            for step in range(self.steps):
                gradient += image_gradients(forward, targets, end + step / (self.steps - 1) * (images - end))
            total += gradient * (images - end) / (2 * self.steps)
        return total.amax(1)


def segments_of(image: NDArray[np.uint8]) -> Masks:
    """(M, H, W): the segments of (H, W, 3) at all scales, widened; none for a constant image."""
    spread = float(image.max()) - float(image.min())
    if not spread:
        return np.zeros((0, *image.shape[:2]), bool)
    scaled = (image - float(image.min())) / spread * 2 - 1
    scaled = resize(scaled, (SIDE, SIDE), order=3, mode="constant", preserve_range=True, anti_aliasing=True)
    found = []
    for scale in SCALES:
        labels = felzenszwalb(scaled, scale=scale, sigma=SIGMA, min_size=LEAST_PIXELS)
        back = resize(labels, image.shape[:2], order=0, preserve_range=True, mode="constant", anti_aliasing=False)
        found += _widened(np.asarray(back, np.int64))
    return np.stack(found)


def _widened(labels: NDArray[np.int64]) -> list[Masks]:
    """Each label of (H, W) as a mask, widened by a disk; only the part of the image around the label is computed."""
    masks = []
    for label, place in enumerate(find_objects(labels + 1)):
        mask = np.zeros(labels.shape, bool)
        if place is not None:
            wide = tuple(slice(max(part.start - WIDER, 0), part.stop + WIDER) for part in place)
            mask[wide] = binary_dilation(labels[wide] == label, disk(WIDER))
        masks.append(mask)
    return masks


def regions(attribution: NDArray[np.floating], segments: Masks) -> NDArray[np.float64]:
    """(H, W): for each pixel the mean of `attribution` over the new pixels of the segment that added it.

    The segments (M, H, W) are taken by the mean over their new pixels, the highest first, as long as one has at least
    `GAIN` new pixels. Pixels outside all taken segments get the mean over all such pixels. All values are NaN if one of
    `attribution` is not finite.
    """
    a, masks = attribution.astype(np.float64).ravel(), segments.reshape(len(segments), attribution.size)
    if not np.isfinite(a).all():
        return np.full(attribution.shape, np.nan)
    found, new = np.full(a.shape, np.nan), np.ones(a.shape, bool)
    counts, sums = masks.sum(1), masks @ a
    while (counts >= GAIN).any():
        best = int(np.where(counts >= GAIN, sums / np.maximum(counts, 1), -np.inf).argmax())
        (added,) = np.nonzero(masks[best] & new)
        found[added], new[added] = a[added].mean(), False
        counts, sums = counts - masks[:, added].sum(1), sums - masks[:, added] @ a[added]
    if new.any():
        found[new] = a[new].mean()
    return found.reshape(attribution.shape)
