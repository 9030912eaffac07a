r"""D-RISE: what of an image a detector's answer for one object depends on.

D-RISE (Petsiuk et al., CVPR 2021): random masks as RISE's, with a finer grid, hide parts of the image, and each counts
by how like the best detection that is left is to the one that is explained: of the same place, class and certainty,

$$s_i = \max_j\, \operatorname{IoU}(b, b_j)\; o_j \cos(p, p_j), \qquad
  L = \frac1N \sum_i s_i M_i - \bar s\, \bar M$$

over the detections j in $X \odot M_i$: the covariance of similarity and mask. As in Microsoft's code
(microsoft/vision-explanation-methods@357c98c) the mean is taken off, and no detection is a similarity of 0.
Torchvision's detectors say one `score` and one `label` for a box, no objectness and no probabilities of the other
classes: the score stands for o, and the cosine is 1 for the same label, else 0. For such detectors Microsoft's code
has 1 for o, and spreads what is left of the score over the other classes; the objectness of the detection that is
explained, a constant factor, is theirs alone. What is hidden is black where the network normalises by itself, as
torchvision's do.

The masks are RISE's, enlarged bilinearly; Microsoft's grids are enlarged by the nearest cell. The number of masks of
the paper could not be read; 4,000 are RISE's. They are the same for all images.

It needs a detection to explain: `target=eigencam.targets.box_score(0)`, or `--target box:0`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from eigencam.methods.perturbation import RISE
from eigencam.passes.forward import Forward
from eigencam.targets import ScoredNetwork, similarity

if TYPE_CHECKING:
    from eigencam.networks.network import Network


@dataclass(frozen=True, slots=True)
class DRISE:
    """D-RISE by so many `masks` of `cells` x `cells`, each cell visible with probability `p`."""

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
        """What makes the masks. ValueError where a number is not allowed."""
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
        return "it explains a detection, and no box is asked for (target=box_score(0), --target box:0)"


def _alike(forward: Forward) -> ScoredNetwork:
    """The detector whose scores are the similarities to the detections that are explained."""
    module = forward.module
    if not isinstance(module, ScoredNetwork):
        raise ValueError("D-RISE explains a detection of a detector; give a box as target")
    return ScoredNetwork(module.network, [alike for target in module.targets if (alike := similarity(target))])
