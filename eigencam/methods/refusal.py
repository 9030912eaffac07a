"""Whether a method can run on a network, and if not, why: asked by everything that runs methods.

A method declares what it needs of a network (see `eigencam.methods`); what the network does in one pass
(`eigencam.passes.trace`) shows whether it meets these needs. An operation without a rule is a refusal, never a guess.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eigencam.methods.base import (
    Method,
    differentiates,
    follows,
    is_class_specific,
    layers_of_a_form,
    needs_smooth,
    stated_refusal,
    tapped,
)
from eigencam.networks.network import check_layer
from eigencam.passes.attention import Attended
from eigencam.passes.calls import NetworkError
from eigencam.passes.trace import Trace, attention_of, gradient_reaches, trace
from eigencam.targets import ScoredNetwork

if TYPE_CHECKING:
    from eigencam.networks.network import Network


def refusal(method: Method, network: "Network") -> str:
    """Why a method cannot run on a network; "" if it can.

    Raises:
        NetworkError: the network's forward pass fails, whatever the method.
        ValueError: a layer that the method names is not there, or its output is no map.
    """
    if layers_of_a_form(method) and (reason := stated_refusal(method, network)):
        return reason
    for layer in tapped(method):
        check_layer(network.module, layer, network.name)
    if network.classes is None and is_class_specific(method):
        return "its map is for a class, and the network has no classifier"
    if is_class_specific(method) and (reason := _of_class(method, network)):
        return reason
    return stated_refusal(method, network)


def traced(network: "Network") -> Trace:
    """What the network does with the image of `probe`."""
    return trace(network.module, probe(network))


def attention(network: "Network") -> Attended:
    """Return the description of the network's attention."""
    return attention_of(network.module, probe(network))


def probe(network: "Network") -> Tensor:
    """(1, C, H, W), normalised: the network's example image, else noise.

    Noise exercises all operations of most networks, but a detector may find nothing in it.
    """
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, *network.preprocess.input_shape), generator=random, dtype=torch.uint8)
    image = noise if network.example is None else network.example
    return network.preprocess.normalize(image.to(network.device), network.dtype)


def _of_class(method: Method, network: "Network") -> str:
    """What keeps a method from following the logits of a class."""
    if isinstance(network.module, ScoredNetwork) and differentiates(method) == "layer" and follows(method) is None:
        return _without_gradient(method, network, "no operation that has a gradient leads there")
    seen = traced(network)
    if seen.unread:
        return seen.unread
    kinds = follows(method)
    if kinds is not None and (lack := seen.without_rule(kinds)):
        networks = getattr(method, "networks", "")
        return f"{lack}{networks and f' (networks it is for: {networks})'}"
    if needs_smooth(method) and (lack := seen.not_smooth()):
        return lack
    if differentiates(method) == "image" and seen.cut:
        return f"no gradient of the logits reaches the image: {seen.cut}"
    return _without_gradient(method, network, seen.cut) if differentiates(method) == "layer" else ""


def _without_gradient(method: Method, network: "Network", cut: str) -> str:
    for layer in tapped(method) or [network.layer]:
        try:
            reaches = gradient_reaches(network.module, probe(network), layer, network.reading(layer))
        except NetworkError as error:  # of the backward pass: the forward pass has succeeded before
            return str(error)
        if not reaches:
            return f"no gradient of the logits reaches {layer}: {cut or 'they do not depend on it'}"
    return ""


def uncut(network: "Network", layer: str | None) -> str:
    """Why the network cannot be run from changed outputs of the layer; "" if it can."""
    from eigencam.passes.tail import fault

    reading = network.reading(layer or network.layer)
    if reading.front or reading.behind:
        return "it gives changed activations back to the network, and a map of tokens is without the class token"
    return fault(network.module, layer or network.layer, network.preprocess.shape)
