r"""BroadCAM (Lin et al., arXiv 2309.03509, 2023): channel weights by broad learning.

The weights come from labels and not from the outputs, for networks trained on little data, whose outputs and gradients
are unreliable. For a labelled set (`eigencam fit fit=broadcam`), f is the d-vector of the rectified averages of all
channels of one or several layers, and Y the labels, one column per class. With Z the standardised f (scale s), and a
ridge regression with intercept whose penalty for a column's coefficient is $\alpha = 50$ times that column's squared
norm:

$$U = \operatorname{ridge}(Z, Y) / s$$

Enhancement nodes: the rows of each class's column of U are sorted in descending order, and each of the first H groups
of 256 makes a node, $h_j = \frac{1}{256} \sum_{k \in j} U_k Z_k$ (with coefficients $\xi$, d x KH). H is the number of
complete groups of 256 positive weights in the class that has fewest. A node is shifted by its minimum and divided by
its maximum $m$. A second ridge regression on [Z | h] gives $W_z$ and $W_h$; all is linear, so one matrix remains:

$$W = W_z / s + (\xi / (s m))\, W_h, \qquad L_y = \max\Big(0, \sum_k W_{ky} \operatorname{ReLU}(F_k)\Big)$$

with the layers' activations F enlarged bilinearly to those of the largest. If a class has fewer than 256 positive
weights, as in a layer with few channels, there are no nodes and $W = W_z / s$; `step` lowers the 256.

Choices. A network's classes must be the dataset's. An image's label is its class if it has a single one, otherwise all
classes with a box. The authors' loop regresses two classes at a time and leaves out the last of an odd number, which is
not reproduced; a sum over scales and flips is not part of the map here. `file` may also be a `.pkl` of the authors'
program, from which only the weights are read (`eigencam.networks.authors_weights`); no published one could be opened.
The share of images used (`share`) is chosen by a hash of their position: smaller shares are parts of larger ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.networks import fitted
from eigencam.networks.fitted import Fitted
from eigencam.passes.forward import Forward
from eigencam.transfer import resident

if TYPE_CHECKING:
    from eigencam.networks.network import Network

KIND = "broadcam"


@dataclass(frozen=True, slots=True)
class BroadCAM:
    """Maps from weights that were regressed from labels.

    Attributes:
        file: file of the weights; if several, the first one that exists.
        layers: the layers that they were fitted for; empty: the network's target layer.
        weights: the file's content; None without a file.
    """

    file: str | Sequence[str]
    layers: Sequence[str] = ()
    weights: Fitted | None = field(init=False, repr=False, compare=False)

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Lin et al., arXiv 2023"
    needs: ClassVar[str] = "1 forward; fit on labels"
    networks: ClassVar[str] = "those it was fitted for"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", fitted.read_first(self.file, [KIND]))

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative, of the size of the largest layer."""
        if self.weights is None:
            raise FileNotFoundError(f"no fitted weights: {self.file}")
        activations = [forward.activations(layer).relu() for layer in self.layers or (forward.layer,)]
        weight = resident(self.weights.tensors["weight"], targets.device, activations[0].dtype)[targets]
        size = max((tuple(x.shape[2:]) for x in activations), key=lambda s: s[0] * s[1])
        parts = weight.split([x.shape[1] for x in activations], 1)
        # The sum over channels comes first, since both it and the resizing are linear.
        maps = [torch.einsum("nc,nchw->nhw", w, x) for w, x in zip(parts, activations, strict=True)]
        large = [m if tuple(m.shape[1:]) == size else _resized(m, size) for m in maps]
        return torch.stack(large).sum(0).relu()

    def unsupported(self, network: "Network") -> str:
        """Why the weights are not for this network; "" if they are."""
        if self.weights is None:
            return fitted.missing(self.file, [KIND], network)
        return self.weights.fault(network, list(self.layers) or [network.layer])

    def identity(self) -> dict[str, Any]:
        """The weights' checksum in place of their file's name."""
        return {"file": self.weights and self.weights.sha256}


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(maps[:, None], list(size), mode="bilinear")[:, 0]


def broad_weights(features: Tensor, labels: Tensor, alpha: float, step: int) -> Tensor:
    """(K, d) float64: the single matrix that the two regressions reduce to.

    Args:
        features: (n, d) averages of the channels.
        labels: (n, K), 1 where the image is of the class.
        alpha: penalty of the regressions.
        step: number of channels in an enhancement node.
    """
    x, y = features.double(), labels.double()
    scale = x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    z = (x - x.mean(0)) / scale
    nodes = enhancement(ridge(z, y, alpha) / scale[:, None], step)
    if not nodes.shape[1]:
        return (ridge(z, y, alpha) / scale[:, None]).T
    h = z @ nodes
    top = h.amax(0) + 1e-8
    both = ridge(torch.cat([z, (h - h.amin(0)) / top], 1), y, alpha)
    first, second = both.split([z.shape[1], nodes.shape[1]])
    return ((first + (nodes / top) @ second) / scale[:, None]).T


def ridge(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """(d, K): coefficients of the regression of y on x with an unpenalised intercept; x's columns are normalised."""
    x, y = x - x.mean(0), y - y.mean(0)
    norm = x.norm(dim=0)
    norm = torch.where(norm > 0, norm, 1.0)
    unit = x / norm
    gram = unit.T @ unit + alpha * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return torch.linalg.solve(gram, unit.T @ y) / norm[:, None]


def enhancement(weights: Tensor, step: int) -> Tensor:
    """(d, K H): coefficients of the nodes of each class in turn, from (d, K) weights; H may be 0."""
    groups = int((weights > 0).sum(0).min()) // step
    order = weights.argsort(dim=0, descending=True, stable=True)[: groups * step]  # (H step, K)
    nodes = weights.new_zeros(len(weights), weights.shape[1], groups)
    group = torch.arange(groups, device=weights.device).repeat_interleave(step)
    for k in range(weights.shape[1]):
        nodes[order[:, k], k, group] = weights[order[:, k], k] / step
    return nodes.flatten(1)
