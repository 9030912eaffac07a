r"""Self-taught localization (Bazzani et al., Self-taught Object Localization with Deep Networks, WACV 2016).

What the network needs to see is an object: the quality of a box is the drop of the class's probability when the box is
painted over with the mean colour. Boxes come from grouping segments (`eigencam.methods.felzenszwalb`) from small to
large. With $d_i$ the drop of region i's box, |r| its pixels, BB the box around two regions and $f_i$ the features of
its crop, of sum 1, the two most similar regions are merged, neighbours or not:

$$s = \tfrac14 \big(s_{obf} + s_{size} + s_{fill} + s_{fc7}\big), \qquad
  s_{obf} = 1 - \max(1 - d_i,\ 1 - d_j)\, |d_i - d_j|, \qquad s_{fc7} = \sum_k \min(f_i^k, f_j^k)$$
$$s_{size} = 1 - \frac{|r_i| + |r_j|}{|I|}, \qquad s_{fill} = 1 - \frac{|BB_{ij}| - |r_i| - |r_j|}{|I|}$$
$$d = \max\Big(0, \sum_{c} p_c(x) - p_c(x \text{ without the box})\Big)$$

The sum is over the five most probable classes (`classes: top5`, STL-WL) or over the requested class (`target`,
STL-CL: the true one with `target=ground_truth`). All boxes of all hierarchies are ranked by d; those that overlap a
better one by more than 0.5 are dropped.

n segments need 4 n - 2 passes besides the shared one, two for each region: without its box, and of its crop. The
hierarchies of a batch are merged in step, so the network gets `chunk` inputs at a time.

Differences. Features are the target layer's channel averages, rectified, where the authors use fc7 of a finetuned
AlexNet; the mean colour is that of the network's normalisation. The authors' quality mode has 20 hierarchies, five
colour spaces and four scales; the default here is one, as in their `single_color_space`. Boxes include their last row
and column. Segments are scikit-image's, from the 8-bit image that the network sees.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eigencam.evaluation.proposals import suppress
from eigencam.methods.felzenszwalb import SPACES, Labels, boxes_of, check_segments, segments
from eigencam.methods.parameter_checks import one_of
from eigencam.networks.network import Network
from eigencam.passes.forward import Forward
from eigencam.transfer import to_device, to_host

Floats = NDArray[np.float64]
Classes = Literal["top5", "target"]


@dataclass(frozen=True, slots=True)
class SelfTaught:
    """Boxes by the drop of the probability of `classes`; regions start from segments of `spaces` and `scales`.

    Attributes:
        classes: `top5` (STL-WL) or `target` (STL-CL).
        spaces: colour spaces.
        scales: scales of the segments, in pixels of the network's input.
        min_side: segments whose box is narrower or lower, in pixels of the input, are dropped.
        nms: boxes that overlap a better one by more than this are dropped.
        layer: the layer of the features; None: the network's target layer.
    """

    classes: Classes = "top5"
    spaces: Sequence[str] = ("hsv",)
    scales: Sequence[float] = (150,)
    min_side: int = 5
    nms: float = 0.5
    layer: str | None = None

    version = 2
    needs_gradient: ClassVar[bool] = False
    gives_boxes: ClassVar[bool] = True
    paper: ClassVar[str] = "Bazzani et al., WACV 2016"
    needs: ClassVar[str] = "4 n - 1 forwards for n segments"

    def __post_init__(self) -> None:
        check_segments(self.spaces, self.scales)
        one_of(self, "classes", get_args(Classes))
        if not 0 <= self.nms <= 1:
            raise ValueError(f"nms={self.nms}; allowed: 0 to 1")

    @property
    def class_specific(self) -> bool:
        """Whether the boxes depend on the requested class."""
        return self.classes == "target"

    def unsupported(self, network: Network) -> str:
        """Refuse a network without probabilities, by which boxes are ranked."""
        return "" if network.classes else "it asks for probabilities, and the network has no classifier"

    def __call__(self, forward: Forward, targets: Tensor) -> list[Floats]:
        """N of (K, 5) `x1 y1 x2 y2 score`."""
        (pixels,) = to_host(forward.pixels.permute(0, 2, 3, 1))()
        images = pixels.numpy() / 255
        trees: list[Tree] = []
        for n, image in enumerate(images):
            for space in self.spaces:
                converted = SPACES[space](image)
                trees += [Tree(n, segments(converted, scale), self.min_side) for scale in self.scales]
        asked = forward.logits.topk(min(5, forward.logits.shape[1])).indices
        asked = asked if self.classes == "top5" else targets[:, None]
        grow(trees, lambda index, boxes: self._measure(forward, asked, index, boxes))
        found = []
        for n in range(len(images)):
            boxes = np.concatenate([t.ranked() for t in trees if t.image == n])
            order = np.argsort(-boxes[:, 4], kind="stable")
            kept = suppress(boxes[order], self.nms, len(boxes))
            kept[:, :4] = to_original(kept[:, :4], forward, n)
            found.append(kept)
        return found

    def _measure(self, forward: Forward, asked: Tensor, index: Labels, boxes: Labels) -> tuple[Floats, Floats]:
        """(B,) drops and (B, C) features of (B, 4) boxes in the images `index` (B,)."""
        on_device, at = to_device(forward.images.device, torch.from_numpy(index), torch.from_numpy(boxes))
        drops, features = drop(forward, asked, on_device, at), []
        for start in range(0, len(boxes), forward.chunk):
            part = slice(start, min(start + forward.chunk, len(boxes)))
            again = forward.repeat(crops(forward.images, on_device[part], at[part]), self._layers(), gradients=False)
            features.append(again.activations(self.layer).mean((2, 3)).clamp(min=0))
            forward.progress(part.stop - part.start)
        fallen, seen = (t.double().numpy() for t in to_host(drops, torch.cat(features))())
        return fallen, seen / np.maximum(seen.sum(axis=1, keepdims=True), 1e-12)

    def _layers(self) -> list[str]:
        return [self.layer] if self.layer else []


class Tree:
    """One hierarchy: its regions so far, the segments first.

    Attributes:
        image: index in the batch.
        count: number of regions so far.
        boxes: (2 n, 4) int64 inclusive; drops: (2 n,); the first `count` are set.
    """

    def __init__(self, image: int, labels: Labels, min_side: int) -> None:
        boxes = boxes_of(labels)
        large = (boxes[:, 2:] - boxes[:, :2] >= min_side).all(axis=1)
        if not large.any():
            labels = np.zeros_like(labels)
            boxes, large = boxes_of(labels), np.array([True])
        self.image, self.area, self.count = image, labels.size, int(large.sum())
        n = self.count
        self.boxes, self.pixels = np.zeros((2 * n, 4), np.int64), np.zeros(2 * n, np.int64)
        self.boxes[:n], self.pixels[:n] = boxes[large], np.bincount(labels.ravel(), minlength=len(boxes))[large]
        self.drops, self.features = np.zeros(2 * n), np.zeros((2 * n, 0))
        self.similar = np.full((2 * n, 2 * n), -np.inf)
        self.alive = list(range(n))

    def ranked(self) -> Floats:
        """(count, 5) `x1 y1 x2 y2 drop`, in order of creation."""
        return np.concatenate([self.boxes.astype(np.float64), self.drops[:, None]], axis=1)[: self.count]

    def measured(self, first: int, drops: Floats, features: Floats) -> None:
        """Store the drops and features of the regions from `first` on, and compare these with all remaining ones."""
        if not first:
            self.features = np.zeros((len(self.boxes), features.shape[1]))
        self.drops[first : self.count], self.features[first : self.count] = drops, features
        for i in range(first, self.count):
            others = np.array([k for k in self.alive if k < i], np.int64)
            self.similar[i, others] = self.similar[others, i] = self._similarity(i, others)

    def _similarity(self, i: int, others: Labels) -> Floats:
        a, b = self.drops[i], self.drops[others]
        obfuscation = 1 - np.maximum(1 - a, 1 - b) * np.abs(a - b)
        both = self.pixels[i] + self.pixels[others]
        low = np.minimum(self.boxes[i, :2], self.boxes[others, :2])
        around = (np.maximum(self.boxes[i, 2:], self.boxes[others, 2:]) - low + 1).prod(axis=1)
        features = np.minimum(self.features[i], self.features[others]).sum(axis=1)
        return (obfuscation + (1 - both / self.area) + (1 - (around - both) / self.area) + features) / 4

    def merge(self) -> bool:
        """Merge the two most similar regions; return False if only one is left."""
        if len(self.alive) < 2:
            return False
        i, j = np.unravel_index(np.argmax(self.similar), self.similar.shape)
        new = self.count
        self.pixels[new] = self.pixels[i] + self.pixels[j]
        self.boxes[new, :2] = np.minimum(self.boxes[i, :2], self.boxes[j, :2])
        self.boxes[new, 2:] = np.maximum(self.boxes[i, 2:], self.boxes[j, 2:])
        for k in (i, j):
            self.similar[k], self.similar[:, k] = -np.inf, -np.inf
        self.alive = [k for k in self.alive if k not in (i, j)] + [new]
        self.count += 1
        return True


def grow(trees: Sequence[Tree], measure: Callable[[Labels, Labels], tuple[Floats, Floats]]) -> None:
    """Merge all hierarchies to the end, in step: `measure` gets the new regions of all of them at once.

    Args:
        trees: the hierarchies.
        measure: (B,) images and (B, 4) boxes -> (B,) drops and (B, C) features.
    """
    firsts = dict.fromkeys(range(len(trees)), 0)
    while firsts:
        index = np.concatenate([np.full(trees[t].count - first, trees[t].image) for t, first in firsts.items()])
        drops, features = measure(
            index, np.concatenate([trees[t].boxes[f : trees[t].count] for t, f in firsts.items()])
        )
        start = 0
        for t, first in firsts.items():
            stop = start + trees[t].count - first
            trees[t].measured(first, drops[start:stop], features[start:stop])
            start = stop
        firsts = {t: trees[t].count - 1 for t in firsts if trees[t].merge()}


def drop(forward: Forward, asked: Tensor, index: Tensor, boxes: Tensor) -> Tensor:
    """(B,) >= 0: by how much the summed probability of the classes `asked` (N, k) drops without each box.

    Args:
        forward: the pass.
        asked: (N, k) classes.
        index: (B,) image of each box.
        boxes: (B, 4) int64 inclusive.
    """
    rows, columns = (torch.arange(side, device=boxes.device) for side in forward.images.shape[2:])

    def without(part: slice) -> Tensor:
        x1, y1, x2, y2 = boxes[part, :, None].unbind(1)
        inside = ((rows >= y1) & (rows <= y2))[:, :, None] & ((columns >= x1) & (columns <= x2))[:, None]
        return forward.images[index[part]].masked_fill(inside[:, None], 0)

    seen = forward.logits.softmax(1).gather(1, asked).sum(1)[index]
    rest = forward.predict(len(boxes), without).softmax(1).gather(1, asked[index]).sum(1)
    return (seen - rest).clamp(min=0)


def crops(images: Tensor, index: Tensor | Labels, boxes: Tensor | Labels) -> Tensor:
    """(B, 3, H, W): the boxes (B, 4) cut out of their images `index` (B,) and enlarged bilinearly.

    The result is that of `torch.nn.functional.interpolate` on each box alone, for all at once.
    """
    height, width = images.shape[2:]
    index, boxes = (torch.as_tensor(places, device=images.device) for places in (index, boxes))
    x1, y1, x2, y2 = boxes.unbind(1)
    top, bottom, down = _between(y1, y2, height)
    left, right, across = _between(x1, x2, width)
    whole, down, across = images.movedim(1, 3), down[:, :, None, None], across[:, None, :, None]

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        return whole[index[:, None, None], rows[:, :, None], columns[:, None]]  # (B, H, W, 3)

    above = (1 - across) * at(top, left) + across * at(top, right)
    below = (1 - across) * at(bottom, left) + across * at(bottom, right)
    return ((1 - down) * above + down * below).to(images.dtype).movedim(3, 1).contiguous()


def _between(first: Tensor, last: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, count) each: the two pixels from `first` to `last` (B,) around each of `count` new ones, and the weight."""
    side = last - first + 1
    place = (torch.arange(count, device=first.device) + 0.5) * (side.float() / count)[:, None] - 0.5
    place = place.clamp(min=0)
    before = place.long().clamp(max=(side - 1)[:, None])
    behind = (before + 1).minimum((side - 1)[:, None])
    return first[:, None] + before, first[:, None] + behind, place - before


def to_original(boxes: Floats, forward: Forward, n: int) -> Floats:
    """(K, 4) inclusive boxes in image n of the network's input, converted to inclusive boxes in the original image."""
    height, width = forward.images.shape[2:]
    x0, y0, x1, y1 = forward.regions[n] if forward.regions else (0.0, 0.0, float(width), float(height))
    scale = np.array([(x1 - x0) / width, (y1 - y0) / height] * 2)
    return (boxes + np.array([0, 0, 1, 1])) * scale + np.array([x0, y0, x0 - 1, y0 - 1])
