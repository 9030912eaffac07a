r"""LIME for images (Ribeiro et al., KDD 2016).

The image is divided into superpixels. In each of `samples` copies a random half of them is hidden,
$z \in \{0, 1\}^K$. A linear model in z is fitted to the copies' scores; copies closer to the whole image weigh more:

$$\min_{b, c} \sum_i w_i\, (f(x_{z_i}) - b - c \cdot z_i)^2 + \lambda \lVert c \rVert^2, \qquad
  w_i = \exp\big(-d_i^2 / (2 \sigma^2)\big), \qquad d_i = 1 - \cos(z_i, \mathbf{1})$$

The map is each superpixel's signed coefficient c. Settings are those of the authors' code: 1000 samples (the
first is the whole image), $\sigma$ = 0.25, $\lambda$ = 1, no penalty on b, quickshift (kernel 4, distance 200, ratio
0.2); a hidden superpixel gets its mean colour, and f is the class's softmax probability. `segmentation: slic` is faster
and gives about `segments` superpixels; `fill: zero` hides with the image's mean colour after normalisation, 0.

`score: similarity` is for networks without a classifier, as in face verification: f is the cosine between the
embeddings of the copy and of the whole image, an embedding being the layer's output averaged over the positions. The
map is then class-agnostic. On a dataset of pairs it is `lime_verification_reading`, LIME for verification
(Alonso-Fernandez et al., arXiv 2307.13428): f is the cosine between the copy and the *other* image of the pair, with
the embedding of `eigencam.networks.verification`. Only the paper's abstract could be read, and it has this cosine. It
is our choice that superpixels, samples, kernel and fill are LIME's.

Superpixels are computed on the CPU, image by image, from the 8-bit colours that the network sees, so they depend on
neither its dtype nor its normalisation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from eigencam.datasets.pairs import SAME
from eigencam.methods.parameter_checks import at_least
from eigencam.methods.randomness import uniform
from eigencam.passes.forward import Forward
from eigencam.passes.layer_items import hook_output
from eigencam.transfer import to_device, to_host

SCORES = ("class", "similarity")
SEGMENTATIONS = ("quickshift", "slic")
FILLS = ("mean", "zero")

Copies = Callable[[Tensor, Tensor], Tensor]
"""(image (B,), sample (B,)) -> (B, 3, H, W): the given images' copies of the given numbers."""

PASSES = 16
"""Number of passes whose predictions are kept until those of the class are picked."""


@dataclass(frozen=True, slots=True)
class LIME:
    """LIME; see the module. `kernel` is sigma, `ridge` lambda."""

    score: Literal["class", "similarity"] = "class"
    samples: int = 1000
    segmentation: Literal["quickshift", "slic"] = "quickshift"
    segments: int = 50
    fill: Literal["mean", "zero"] = "mean"
    kernel: float = 0.25
    ridge: float = 1.0
    seed: int = 0
    layer: str | None = None

    version = 2
    needs_gradient: ClassVar[bool] = False
    paper: ClassVar[str] = "Ribeiro et al., KDD 2016"
    needs: ClassVar[str] = "S forwards; superpixels on the CPU"

    def __post_init__(self) -> None:
        for name, choice, allowed in (
            ("score", self.score, SCORES),
            ("segmentation", self.segmentation, SEGMENTATIONS),
            ("fill", self.fill, FILLS),
        ):
            if choice not in allowed:
                raise ValueError(f"{name}={choice!r}; allowed: {', '.join(allowed)}")
        at_least(self, 1, "samples", "segments")
        if self.kernel <= 0 or self.ridge <= 0:
            raise ValueError(f"kernel={self.kernel}, ridge={self.ridge}; allowed: more than 0")

    @property
    def class_specific(self) -> bool:
        """False if images are compared."""
        return self.score == "class"

    @property
    def caveat(self) -> str:
        """What is not known, if images are compared."""
        choice = "which embedding and superpixels the work on biometrics has could not be read: a choice"
        return "" if self.score == "class" else choice

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, signed."""
        images = forward.images
        found = self._segmented(forward)
        (labels,), widest = to_device(images.device, found), int(found.max()) + 1
        shown = self.choose(forward.seeds, labels, widest)
        hidden = mean_colors(images, labels, widest) if self.fill == "mean" else torch.zeros_like(images)

        def copies(image: Tensor, item: Tensor) -> Tensor:
            kept = shown[image, item].gather(1, labels[image].flatten(1)).view(-1, 1, *images.shape[2:])
            return torch.where(kept, images[image], hidden[image])

        if self.score == "class":
            scores = self._answers(forward, targets, copies, softmax=True)
        elif forward.partner is not None:  # the probability of a match is (1 + cosine) / 2
            scores = 2 * self._answers(forward, torch.full_like(forward.seeds, SAME), copies, softmax=True) - 1
        else:
            scores = self._similarities(forward, copies)
        coefficients = fit(shown.float(), scores, self.kernel, self.ridge)
        return coefficients.gather(1, labels.flatten(1)).view(labels.shape)

    def superpixels(self, forward: Forward) -> Tensor:
        """(N, H, W) int64 on the images' device, each image's superpixels numbered from 0."""
        return to_device(forward.images.device, self._segmented(forward))[0]

    def _segmented(self, forward: Forward) -> Tensor:
        """The superpixels on the host, where they are computed."""
        (pixels,) = to_host(forward.pixels.permute(0, 2, 3, 1))()
        labels = [np.unique(self._segment(image), return_inverse=True)[1] for image in pixels.numpy() / 255]
        return torch.from_numpy(np.stack(labels)).view(pixels.shape[:3])

    def _segment(self, image: NDArray[np.float64]) -> NDArray[np.int64]:
        """(H, W) superpixels of an (H, W, 3) image in 0..1."""
        from skimage.segmentation import quickshift, slic

        if self.segmentation == "slic":
            return slic(image, n_segments=self.segments, start_label=0)
        return quickshift(image, kernel_size=4, max_dist=200, ratio=0.2, convert2lab=image.shape[2] == 3)

    def choose(self, index: Tensor, labels: Tensor, widest: int | None = None) -> Tensor:
        """(N, S, K) bool, the superpixels that each copy shows; those that an image does not have are never shown."""
        count = labels.amax((1, 2)) + 1
        widest = widest or int(count.max())
        shown = uniform(index, (widest, self.samples), self.seed).mT < 0.5  # per superpixel, so independent of K
        shown[:, 0] = True
        return shown & (torch.arange(widest, device=labels.device) < count[:, None])[:, None]

    def _similarities(self, forward: Forward, copies: Copies) -> Tensor:
        """(N, S) cosines between the embeddings of the copies and of the whole images."""
        whole = forward.activations(self.layer).mean((2, 3))
        classes = torch.arange(len(whole), device=whole.device)
        with _answering_with_similarity(forward, self.layer or forward.layer, whole):
            return self._answers(forward, classes, copies, softmax=False)

    def _answers(self, forward: Forward, targets: Tensor, copies: Copies, *, softmax: bool) -> Tensor:
        """(N, S): the network's output for each copy, for its image's class in (N,) `targets`."""
        parts = []
        for places in torch.arange(len(targets) * self.samples, device=targets.device).split(PASSES * forward.chunk):

            def batch(part: slice, places: Tensor = places) -> Tensor:
                return copies(places[part] // self.samples, places[part] % self.samples)

            answers = forward.predict(len(places), batch)
            answers = answers.softmax(1) if softmax else answers
            parts.append(answers.gather(1, targets[places // self.samples, None])[:, 0])
        return torch.cat(parts).view(-1, self.samples)


def fit(shown: Tensor, scores: Tensor, kernel: float, ridge: float) -> Tensor:
    """(N, K) coefficients of the weighted ridge regression with a free intercept.

    Args:
        shown: (N, S, K) of 0 and 1; the first sample shows all superpixels.
        scores: (N, S).
        kernel: the kernel's width.
        ridge: the penalty.
    """
    distance = 1 - (shown.sum(2) / shown[:, :1].sum(2)).sqrt()  # the cosine of z and ones is sqrt(|z| / K)
    weight = torch.exp(-distance.square() / (2 * kernel**2))[:, None]  # (N, 1, S)
    total = weight.sum(2, keepdim=True)
    z = shown - weight @ shown / total
    y = scores[:, :, None] - weight @ scores[:, :, None] / total
    weighted = z.mT * weight
    return torch.linalg.solve(weighted @ z + ridge * torch.eye(z.shape[2], device=z.device), weighted @ y)[:, :, 0]


def mean_colors(images: Tensor, labels: Tensor, widest: int | None = None) -> Tensor:
    """(N, 3, H, W): each pixel with the mean colour of its superpixel in (N, H, W) `labels`, at most `widest`."""
    n, c, h, w = images.shape
    place = labels.view(n, 1, -1).expand(-1, c, -1)
    total = torch.zeros(n, c, widest or int(labels.max()) + 1, device=images.device)
    count = total.scatter_add(2, place, torch.ones(n, c, h * w, device=images.device)).clamp(min=1)
    mean = total.scatter_add(2, place, images.flatten(2).float()) / count
    return mean.gather(2, place).view(n, c, h, w).to(images.dtype)


@contextmanager
def _answering_with_similarity(forward: Forward, layer: str, whole: Tensor) -> Iterator[None]:
    """Let the network return, for (B, 3, H, W), the (B, N) cosines of its embeddings with those in (N, C) `whole`."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        kept[:] = [forward.maps(output.detach(), layer).mean((2, 3))]

    def answer(_module: nn.Module, _inputs: object, _output: object) -> Tensor:
        return F.cosine_similarity(kept.pop()[:, None], whole[None], dim=2)

    handles = [hook_output(forward.module, layer, keep)]
    handles.append(forward.module.register_forward_hook(answer))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
