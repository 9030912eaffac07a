r"""VS-CAM (Feng et al., Vertex Semantic Class Activation Mapping to Interpret Vision Graph Neural Network, arXiv 2022).

Only the abstract was available, no formula and no code. It says: two independent pipelines produce a set of
semantic-probe maps and a semantic-base map; the probes detect the semantic information in the base map, and their
detections are aggregated into one heat map. What follows is our reading of these sentences, **not the paper's
formulas**; numbers of this method must not be read as the paper's.

$$B = \sum_k \alpha_k^c F_k, \qquad R = \prod_{l=L}^{1} \tfrac{1}{2} (A_l + I), \qquad
  s_v = \sum_p R_{vp} \operatorname{ReLU}(B_p), \qquad L = \sum_v s_v R_v$$

* Base map B: the class's evidence in the vertices F of the target layer. The weights are Grad-CAM's, so any head
  will do; with average pooling and one linear layer B is CAM divided by the number of vertices.
* Probe map R_v of each vertex v: what it gathers from the image's vertices through the graphs of all layers. A_l
  gives each of a vertex's neighbours the same weight (rows sum to 1); I represents the vertex itself, which a graph
  convolution keeps beside its neighbours. It does not depend on the class.
* Detection s_v: the base map's positive evidence under a probe.
* Aggregation: the probes, weighted by what they detected. `probes` keeps only the strongest ones.

Graphs are found in the outputs of leaf modules: int64 edges (2, N, vertices, k), the neighbours and then the
vertices that they belong to, the format of ViG's authors (Han et al., NeurIPS 2022). All layers must have the
target layer's vertices: pyramids, which merge vertices between layers, are not supported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.parameter_checks import at_least
from eigencam.methods.rollout import step
from eigencam.passes.forward import Forward

if TYPE_CHECKING:
    from eigencam.networks.network import Network

Matrix = Callable[[tuple[Any, ...], dict[str, Any], Any], Tensor | None]
"""Function from a module's arguments and output to its (N, P, P) weights of vertices; None if it mixes none."""

NO_GRAPH = "VS-CAM needs a vision graph network: no module returns edges, int64 (2, N, vertices, neighbours)"


@dataclass(frozen=True, slots=True)
class VSCAM:
    """A reading of VS-CAM's abstract; see the module.

    Raises:
        ValueError: `probes` is below 1.
    """

    probes: int | None = None
    layer: str | None = None

    version = 2
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Feng et al., arXiv 2022"
    caveat: ClassVar[str] = "a reading of the paper's abstract; its formulas were not at hand"
    needs: ClassVar[str] = "2 forwards, 1 backward"
    networks: ClassVar[str] = "vision graph networks without pyramid (ViG)"

    def __post_init__(self) -> None:
        at_least(self, 1, "probes", null=True)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        leaves = [m for m in forward.module.modules() if not any(m.children())]
        probes = propagate(forward, dict.fromkeys(leaves, _adjacency), NO_GRAPH)
        weights = forward.gradients(targets, self.layer).mean((2, 3))
        base = weighted_sum(weights, forward.activations(self.layer))
        if base[0].numel() != probes.shape[1]:
            raise ValueError(
                f"VS-CAM's layer has {base[0].numel()} positions and the graphs {probes.shape[1]} vertices; choose the "
                "last graph layer"
            )
        return aggregate(probes, base.flatten(1), self.probes).view_as(base)

    def unsupported(self, network: "Network") -> str:
        """Why the network has no VS-CAM; "" if it has one."""
        black = torch.zeros(1, *network.preprocess.input_shape, dtype=torch.uint8)
        try:
            self(network.forward(black, gradients=True), torch.zeros(1, dtype=torch.long, device=network.device))
        except ValueError as error:
            return str(error)
        return ""


def propagate(forward: Forward, matrices: Mapping[nn.Module, Matrix], none: str) -> Tensor:
    """(N, T, T) product of the modules' (M + I) / 2, with row sums 1, in the order in which the network calls them.

    Args:
        forward: the batch, which goes through the network once more, `forward.chunk` images at a time.
        matrices: by module, the function that returns M for one of its calls.
        none: the error message if no module returns a matrix.

    Raises:
        ValueError: there is no matrix, or they are not square or not of one size.
    """
    products: list[Tensor | None] = []

    def inputs(part: slice) -> Tensor:
        products.append(None)
        return forward.images[part]

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if (matrix := matrices[module](args, kwargs, out)) is not None:
            products[-1] = step(matrix, products[-1])

    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in matrices]
    try:
        forward.predict(len(forward), inputs)
    finally:
        for handle in handles:
            handle.remove()
    known = [product for product in products if product is not None]
    if not known:
        raise ValueError(none)
    return torch.cat(known)


def aggregate(probes: Tensor, base: Tensor, count: int | None = None) -> Tensor:
    """(N, P) heat map.

    Args:
        probes: (N, P, P), one row per vertex's probe map.
        base: (N, P).
        count: number of probes to keep, those that detect most; None: all.
    """
    detected = torch.einsum("nvp,np->nv", probes, base.relu())
    if count is not None and count < detected.shape[1]:
        least = detected.topk(count).values[:, -1:]
        detected = torch.where(detected < least, 0.0, detected)
    return torch.einsum("nv,nvp->np", detected, probes)


def _adjacency(_args: tuple[Any, ...], _kwargs: dict[str, Any], out: Any) -> Tensor | None:
    """(N, P, P) float32, rows of sum 1, of a module's edges; None if it returns something else."""
    if not (isinstance(out, Tensor) and out.dtype == torch.int64 and out.ndim == 4 and len(out) == 2):
        return None
    neighbours = out[0]
    n, vertices, k = neighbours.shape
    zeros = torch.zeros(n, vertices, vertices, device=out.device)
    return zeros.scatter_add_(2, neighbours, torch.full((1, 1, 1), 1 / k, device=out.device).expand_as(neighbours))
