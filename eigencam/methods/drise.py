r"""D-RISE: the parts of an image on which one detection of a detector depends.

D-RISE (Petsiuk et al., CVPR 2021): random masks like RISE's, with a finer grid, hide parts of the image. Each mask is
weighted by the similarity in place, class and certainty between the explained detection and the most similar one that
remains:

$$s_i = \max_j\, \operatorname{IoU}(b, b_j)\; o_j \cos(p, p_j), \qquad
  L = \frac1N \sum_i s_i M_i - \bar s\, \bar M$$

over the detections j in $X \odot M_i$: the covariance of similarity and mask. As in Microsoft's code
(microsoft/vision-explanation-methods@357c98c) the mean is subtracted, and without a detection the similarity is 0.
Torchvision's detectors return one `score` and one `label` per box, no objectness and no probabilities of the other
classes. Here the score takes the place of o, and the cosine is 1 for equal labels, else 0. For such detectors
Microsoft's code sets o to 1 and spreads the rest of the score over the other classes; it also multiplies by the
objectness of the explained detection, a constant factor. Hidden parts are black if the network normalises its input
itself, as torchvision's detectors do.

The masks are RISE's, enlarged bilinearly; Microsoft's grids are enlarged by the nearest cell. The paper's number of
masks could not be read; 4,000 is RISE's. They are the same for all images.

It needs a detection to explain: `target=eigencam.targets.box_score(0)`, or `--target box:0`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from eigencam.methods.rise import RISE
from eigencam.passes.forward import Forward
from eigencam.targets import ScoredNetwork, similarity

if TYPE_CHECKING:
    from eigencam.networks.network import Network


@dataclass(frozen=True, slots=True)
class DRISE:
    """D-RISE with `masks` random masks of `cells` x `cells` cells, each visible with probability `p`."""

    masks: int = 4000
    cells: int = 16
    p: float = 0.5
    seed: int = 0

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Petsiuk et al., CVPR 2021"
    needs: ClassVar[str] = "M forwards"
    networks: ClassVar[str] = "detectors, with a box as target"

    def __post_init__(self) -> None:
        self.source()

    def source(self) -> RISE:
        """The generator of the masks. ValueError for a number that is not allowed."""
        return RISE(self.masks, self.cells, self.p, self.seed)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, signed."""
        images, source = forward.images, self.source()
        n, size = len(images), (int(images.shape[2]), int(images.shape[3]))
        weighted = torch.zeros(n, *size, device=images.device)
        total, mean = torch.zeros_like(weighted[0]), torch.zeros_like(weighted[:, 0, 0])
        alike, step = _alike(forward), max(1, forward.chunk // n)
        for start in range(0, self.masks, step):
            masks = source.make(start, min(start + step, self.masks), size, images.device)

            def masked(part: slice, masks: Tensor = masks) -> Tensor:
                place = torch.arange(part.start, part.stop, device=images.device)
                return images[place % n] * masks[place // n, None].to(images.dtype)

            answers = forward.predict(len(masks) * n, masked, module=alike)
            scores = answers.gather(1, targets.repeat(len(masks))[:, None]).view(len(masks), n)
            weighted += torch.einsum("mn,mhw->nhw", scores, masks) / self.masks
            total, mean = total + masks.sum(0) / self.masks, mean + scores.sum(0) / self.masks
        return weighted - mean[:, None, None] * total

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        module = network.module
        if isinstance(module, ScoredNetwork) and all(similarity(target) for target in module.targets):
            return ""
        return "it explains a detection, and the target is no box (target=box_score(0), --target box:0)"


def _alike(forward: Forward) -> ScoredNetwork:
    """Return the detector; the score of an explained detection is its similarity to those that remain."""
    module = forward.module
    if not isinstance(module, ScoredNetwork):
        raise ValueError("D-RISE explains a detection of a detector; give a box as target")
    return ScoredNetwork(module.network, [alike for target in module.targets if (alike := similarity(target))])
