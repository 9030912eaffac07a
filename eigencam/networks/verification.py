"""A network for verification: its output for an image is how similar its embedding is to that of another image.

In a dataset of pairs (`eigencam.datasets.pairs`) every image is explained with the other image of its pair as reference
r. With e the embedding and s the cosine similarity of e and r, the logits of the classes `different` and `same` are

    -atanh(s), atanh(s)        so that the softmax probability of `same` is (1 + s) / 2

so every class-specific method explains the similarity, and every evaluator that reads the class's probability reads it.
Any increasing function of s would rank regions alike; this one makes the probability linear in s.

The embedding is the output of a network without a classifier, if that is a vector (N, D). Otherwise it is the mean of
the target layer over positions, as in FAM.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from eigencam.datasets.pairs import SPACE
from eigencam.networks.network import Network
from eigencam.passes.calls import OutputError, evaluating, logits_of, run_network
from eigencam.passes.forward import Forward
from eigencam.passes.layer_items import hook_output
from eigencam.passes.readings import CHANNELS_FIRST, Reading
from eigencam.transfer import to_device

NEAREST = 1 - 1e-6
"""Bound on the absolute cosine: an image compared with itself has this value, so its logits are finite."""


class Verifier(nn.Module):
    """(N, 2) logits of (N, 3, H, W): see the module. Its modules have the same names as in the network."""

    network: nn.Module
    reference: Tensor

    def __init__(self, network: nn.Module, layer: str | None, reading: Reading = CHANNELS_FIRST) -> None:
        """Share the network's modules, parameters and buffers; there is no reference yet.

        Args:
            network: the network.
            layer: layer of the embedding; None: the network's output.
            reading: how the layer becomes a map.
        """
        super().__init__()
        self.__dict__["network"] = network  # not as a submodule, which would prefix all names
        self._modules, self._parameters, self._buffers = network._modules, network._parameters, network._buffers
        self.layer, self.reading = layer, reading

    def compared_with(self, reference: Tensor) -> "Verifier":
        """Return this network with a reference embedding (1, D)."""
        made = Verifier(self.network, self.layer, self.reading)
        made.__dict__["reference"] = reference
        return made

    def embedding(self, images: Tensor) -> Tensor:
        """(N, D) embeddings, float64 if the network is, else float32."""
        if self.layer is None:
            return _wide(logits_of(run_network(self.network, images), len(images)))
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _args: object, out: Tensor) -> None:
            kept[:] = [_wide(self.reading.maps(out)).mean((2, 3))]  # now: later layers may change it in place

        handle = hook_output(self, self.layer, keep)
        try:
            run_network(self.network, images)
        finally:
            handle.remove()
        return kept[0]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 2) logits of `different` and `same`."""
        embedding = self.embedding(images)
        cosine = F.cosine_similarity(embedding, self.reference.to(embedding.dtype), dim=1)
        logit = cosine.clamp(-NEAREST, NEAREST).atanh()
        return torch.stack([-logit, logit], 1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True, slots=True)
class PairNetwork(Network):
    """A network for a dataset of pairs: each pass is of one image, compared with its partner.

    Attributes:
        partner: decodes the image that image i of the dataset is compared with.
        plain: the network itself, without a classifier unless the classifier's output is the embedding.
    """

    partner: Callable[[int], NDArray[np.uint8]] = field(default=lambda _i: np.zeros((1, 1, 3), np.uint8), repr=False)
    plain: Network | None = field(default=None, repr=False, compare=False)

    def forward(
        self,
        pixels: Tensor,
        *,
        layers: Iterable[str] = (),
        gradients: bool = False,
        index: Tensor | None = None,
        chunk: int | None = None,
    ) -> Forward:
        """One pass of an image (1, C, H, W) uint8, with its partner's pass as `Forward.partner`.

        Without an index, as in checks, images are compared with noise.
        """
        layers, module = list(layers), self.module
        assert isinstance(module, Verifier)  # as `for_pairs` makes it
        assert self.plain is not None
        if index is None:
            return Network.forward(self, pixels, layers=layers, gradients=gradients, chunk=chunk)
        if len(index) != 1:
            raise ValueError(f"{len(index)} images of pairs in one pass; each is compared with another: batch_size=1")
        other = torch.from_numpy(self.preprocess(self.partner(int(index[0])))[0])[None]
        partner = self.plain.forward(other, layers=layers, chunk=chunk)
        reference = partner.logits if module.layer is None else partner.activations().mean((2, 3))
        compared = replace(self, module=module.compared_with(reference))
        forward = Network.forward(compared, pixels, layers=layers, gradients=gradients, index=index, chunk=chunk)
        forward.partner = partner
        return forward


def for_pairs(network: Network, partner: Callable[[int], NDArray[np.uint8]]) -> PairNetwork:
    """Turn a network into one that compares.

    Args:
        network: any network.
        partner: see `PairNetwork`.
    """
    network.examined()  # of the network itself: the comparison reads its layers in the same way
    plain = replace(network, classes=None)
    verifier = Verifier(network.module, network.layer, network.reading(network.layer))
    noise = _noise(network)
    with evaluating(network.module), torch.no_grad():
        if network.classes is None and _gives_vectors(network.module, noise):
            verifier, plain = Verifier(network.module, None), replace(network, classes=SPACE)
        verifier = verifier.compared_with(verifier.embedding(noise))
    shared = {name: getattr(network, name) for name in Network.__dataclass_fields__}
    return PairNetwork(**{**shared, "module": verifier, "classes": SPACE}, partner=partner, plain=plain)


def _noise(network: Network) -> Tensor:
    """(1, C, H, W), normalised: the reference when no image of a dataset is explained."""
    shape, random = (1, *network.preprocess.input_shape), torch.Generator().manual_seed(0)
    (drawn,) = to_device(network.device, torch.randint(0, 256, shape, generator=random, dtype=torch.uint8))
    return network.preprocess.normalize(drawn, network.dtype)


def _gives_vectors(module: nn.Module, images: Tensor) -> bool:
    try:
        logits_of(run_network(module, images), len(images))
    except OutputError:
        return False
    return True
