r"""FAM, the feature activation map (Liao, Gao & Zhang, arXiv 2307.05017): for networks without a classifier.

The abstract gives the idea: the channels' weights come from the similarity of two embeddings, and the activations A are
combined linearly with the normalised weights. The paper's formulas were not available, so all of the following is our
choice. With e the image's embedding, the mean of A over the positions, and r the reference:

| similarity | weight w_k before normalisation | sum of the weights |
|---|---|---|
| cosine | $e_k r_k / (\lVert e\rVert \lVert r\rVert)$ | the cosine of e and r |
| euclidean | $r_k^2 - (e_k - r_k)^2$ | $\lVert r\rVert^2 - \lVert e - r\rVert^2$ |

The euclidean weight is how much closer channel k brings e to r, in squared distance, than a silent channel.

$$L = \sum_k \frac{w_k}{\sum_j |w_j|}\, A_k$$

The map is signed: negative where channels that separate e from r are active. The reference is

* for a dataset of pairs, the other image's embedding: why the two match, or why an image was retrieved for another one;
* the vector of a file, for instance the mean embedding of a class;
* for `fam_support_reading`, the mean embedding of a few images of the class (few-shot learning), made by
  `eigencam fit fit=support`: the map is then for a class;
* otherwise the image itself.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eigencam.datasets.reading import expand
from eigencam.files import regular
from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.parameter_checks import one_of
from eigencam.networks import fitted
from eigencam.networks.fitted import Fitted
from eigencam.passes.forward import Forward
from eigencam.transfer import resident

if TYPE_CHECKING:
    from eigencam.networks.network import Network

SUPPORT = "support"
"""Kind of file made by `eigencam fit fit=support`."""

Similarity = Literal["cosine", "euclidean"]
SIMILARITIES: tuple[Similarity, ...] = ("cosine", "euclidean")


@dataclass(frozen=True, slots=True)
class FAM:
    """FAM to the other image of a pair, to the image itself, or to `reference`, a .npy file of (C,) numbers.

    Raises:
        ValueError: an unknown similarity, or a file with something other than a finite vector.
        FileNotFoundError: no such file.
    """

    similarity: Similarity = "cosine"
    reference: str | None = None
    layer: str | None = None
    vector: NDArray[np.float32] | None = field(init=False, repr=False, compare=False)

    version = 2
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    paper: ClassVar[str] = "Liao et al., arXiv 2023"
    caveat: ClassVar[str] = "a reading of the paper's abstract; its formulas were not at hand"
    needs: ClassVar[str] = "1 forward"

    def __post_init__(self) -> None:
        one_of(self, "similarity", SIMILARITIES)
        vector = None if self.reference is None else np.load(regular(expand(self.reference)), allow_pickle=False)
        if vector is not None:
            real = np.issubdtype(vector.dtype, np.floating) or np.issubdtype(vector.dtype, np.integer)
            if vector.ndim != 1 or not real or not np.isfinite(vector).all():
                raise ValueError(
                    f"reference={self.reference}: {vector.dtype} {vector.shape}; allowed: finite numbers of shape (C,)"
                )
            vector = vector.astype(np.float32)
        object.__setattr__(self, "vector", vector)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, signed."""
        activations = forward.activations(self.layer)
        embedding = activations.mean((2, 3))
        reference = embedding if forward.partner is None else forward.partner.activations(self.layer).mean((2, 3))
        if self.vector is not None:
            if len(self.vector) != embedding.shape[1]:
                raise ValueError(
                    f"reference={self.reference}: {len(self.vector)} numbers; allowed here: {embedding.shape[1]}, "
                    f"one for each channel of {self.layer or forward.layer}"
                )
            reference = torch.from_numpy(self.vector).to(embedding.device).expand_as(embedding)
        return weighted_sum(contributions(embedding, reference, self.similarity), activations)

    def identity(self) -> dict[str, str]:
        """A checksum of the reference: another reference makes another result."""
        return {} if self.vector is None else {"reference": hashlib.sha256(self.vector.tobytes()).hexdigest()}


@dataclass(frozen=True, slots=True)
class FAMSupport:
    """FAM to the mean embedding of a class's support set, from `eigencam fit fit=support`.

    Attributes:
        file: file of the embeddings; if several, the first one that exists.
        similarity: as in `FAM`.
        layer: the layer of the embeddings; None: the network's target layer.
        support: the file's content; None without a file.
    """

    file: str | Sequence[str]
    similarity: Similarity = "cosine"
    layer: str | None = None
    support: Fitted | None = field(init=False, repr=False, compare=False)

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Liao et al., arXiv 2023"
    caveat: ClassVar[str] = FAM.caveat
    needs: ClassVar[str] = "1 forward; a support set"
    networks: ClassVar[str] = "those it has a support set for"

    def __post_init__(self) -> None:
        one_of(self, "similarity", SIMILARITIES)
        object.__setattr__(self, "support", fitted.read_first(self.file, [SUPPORT]))

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, signed."""
        if self.support is None:
            raise FileNotFoundError(f"no support set: {self.file}")
        activations = forward.activations(self.layer)
        references = resident(self.support.tensors["embedding"], activations.device, activations.dtype)[targets]
        return weighted_sum(contributions(activations.mean((2, 3)), references, self.similarity), activations)

    def unsupported(self, network: "Network") -> str:
        """Why the support set is not for this network; "" if it is."""
        if self.support is None:
            return fitted.missing(self.file, [SUPPORT], network)
        return self.support.fault(network, [self.layer or network.layer])

    def identity(self) -> dict[str, Any]:
        """The embeddings' checksum in place of their file's name."""
        return {"file": self.support and self.support.sha256}


def contributions(embedding: Tensor, reference: Tensor, similarity: Similarity) -> Tensor:
    """(N, C) normalised weights from (N, C) embeddings and references; 0 if all weights are 0."""
    euclidean = similarity == "euclidean"
    e, r = (embedding, reference) if euclidean else (_unit(embedding), _unit(reference))
    weights = e * (2 * r - e) if euclidean else e * r  # r^2 - (e - r)^2 without cancellation
    total = weights.abs().sum(1, keepdim=True)
    return torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), total)


def _unit(x: Tensor) -> Tensor:
    """Scaled to a norm of 1, so that no scale exceeds float32's range; 0 stays 0."""
    peak = x.abs().amax(1, keepdim=True)
    x = x / torch.where(peak == 0, 1.0, peak)
    return x / torch.where(peak == 0, 1.0, x.norm(dim=1, keepdim=True))
