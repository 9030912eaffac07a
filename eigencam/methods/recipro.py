r"""Recipro-CAM: the network's output when only one position of a layer is kept, for each position. No gradient.

Recipro-CAM (Byun & Lee, CVPR Workshops 2024, arXiv 2209.14074): the map at (u, v) is the network's probability of the
class when only that position of the layer's output A is kept,

$$L(u, v) = p_c(A \odot M_{uv}), \qquad M_{uv} = 1 \text{ at } (u, v), \text{ else } 0$$

Only the part behind the layer runs, h w times. `spread: true` also copies the position's column to its neighbours,
weighted by the 3 x 3 kernel (1, 2, 1) x (1, 2, 1) / 16, cut off at the border; the authors' code has this and disables
it for convolutional networks (sybyun/ReciproCAM@bfbf22c).

The authors' code scales the map to 0..1; `scaled: false` leaves the probabilities as they are. Their least value is not
0, and a threshold that is a share of the maximum would take in the whole image. `score: logit` uses the logit in place
of the probability. If only an average over the positions and a linear layer follow the layer, the unscaled map of
logits is CAM / (h w) plus the bias.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.parameter_checks import one_of
from eigencam.methods.refusal import uncut
from eigencam.methods.scorecam import SCORES, Score, unit
from eigencam.passes.forward import Forward
from eigencam.transfer import constant

if TYPE_CHECKING:
    from eigencam.networks.network import Network

KERNEL = (1 / 4, 1 / 2, 1 / 4)
"""Weights of `spread` along each side."""


@dataclass(frozen=True, slots=True)
class ReciproCAM:
    """Recipro-CAM; `spread` smooths the kept position, `scaled` brings the map to 0..1."""

    score: Score = "probability"
    spread: bool = False
    scaled: bool = True
    layer: str | None = None

    version = 2
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Byun & Lee, CVPR Workshops 2024"
    needs: ClassVar[str] = "1 forward; h w times what lies behind the layer"
    networks: ClassVar[str] = "that `torch.fx` can trace"

    def __post_init__(self) -> None:
        one_of(self, "score", SCORES)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, in 0..1 unless it is an unscaled map of logits. A constant map is scaled to 0."""
        activations = forward.activations(self.layer)
        n, _, h, w = activations.shape
        positions, columns = h * w, activations.flatten(2)

        def alone(part: slice) -> Tensor:
            place = torch.arange(part.start, part.stop, device=activations.device)
            image, position = place // positions, place % positions
            kept = F.one_hot(position, positions).view(-1, 1, h, w).to(activations)
            if self.spread:
                line = constant(KERNEL, activations.device).to(activations.dtype)
                kept = F.conv2d(kept, (line[:, None] * line)[None, None], padding=1)
            return columns[image, :, position][:, :, None, None] * kept

        logits = forward.predict(n * positions, alone, self.layer or forward.layer)
        answers = logits if self.score == "logit" else logits.softmax(1)
        maps = answers.gather(1, targets.repeat_interleave(positions)[:, None]).view(n, h, w)
        return unit(maps) if self.scaled else maps

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        return uncut(network, self.layer)
