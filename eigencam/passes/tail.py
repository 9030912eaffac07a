"""The part of a network behind a layer, as a module of its own.

Ablation-CAM and Shap-CAM change a layer's output hundreds of times; only the part behind the layer has to run again.
It is cut out of the network's traced graph (`torch.fx`) and shares the network's modules and parameters. A cut is
accepted only if it gives the network's logits on a seeded probe.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import fx, nn

from eigencam.passes.calls import any_tensor, evaluating, fingerprint, network_logits, random_images
from eigencam.passes.hooks import tapped_pass
from eigencam.passes.precision import is_coarse

VERSIONS = {"tail": 1}
"""Raised when a change here alters results; see `eigencam.store.versions`."""


def tail(module: nn.Module, layer: str, shape: tuple[int, ...]) -> fx.GraphModule:
    """Return the module from the output of `layer` to the logits, (B, K).

    Args:
        module: the network.
        layer: `named_modules()` path.
        shape: (height, width) of the network's input, for the probe.

    Raises:
        ValueError: the network cannot be traced, or the part behind the layer needs more than the layer's output.
    """
    return _tail(module, layer, shape, tuple(fingerprint(module)))


@lru_cache(maxsize=2)
def _tail(module: nn.Module, layer: str, shape: tuple[int, ...], _state: tuple[object, ...]) -> fx.GraphModule:
    weights = any_tensor(module)
    probe = random_images(module, shape)
    expected, taps = tapped_pass(module, probe, [layer])  # also reports an unknown layer
    expected = expected.float()
    if not bool(expected.isfinite().all()):
        raise ValueError("the network's logits are not finite for images of noise")
    cut = _cut(module, layer)
    with evaluating(module), torch.no_grad():
        logits = network_logits(cut, taps[layer]).float()
    tolerance = (5e-2 if is_coarse(weights.dtype) else 1e-4) * expected.abs().max()
    if logits.shape != expected.shape or not bool((logits - expected).abs().max() <= tolerance):
        raise ValueError(f"what lies behind {layer!r} does not give the network's logits from that layer's output")
    return cut


class _Tracer(fx.Tracer):
    """A tracer that does not trace into `layer`."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self.layer or super().is_leaf_module(m, module_qualified_name)


def _cut(module: nn.Module, layer: str) -> fx.GraphModule:
    try:
        with evaluating(module):  # the trace fixes the value of `self.training`
            graph = _Tracer(layer).trace(module)
    except Exception as error:  # running a forward function on symbols may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]  # torch.fx adds its manual
        raise ValueError(f"the network cannot be cut at {layer!r}, as it cannot be traced: {reason}") from None
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    if not calls:
        raise ValueError(f"the network cannot be cut at {layer!r}: its forward function does not call it")
    (output,) = (node for node in graph.nodes if node.op == "output")
    cut = between(module, calls[-1], output)
    if cut is None:
        raise ValueError(f"the network cannot be cut at {layer!r}: what follows reads from before the layer, too")
    return cut


def between(module: nn.Module, start: fx.Node, end: fx.Node) -> fx.GraphModule | None:
    """The module from the value of `start` to that of `end` in a traced graph; None if it needs more than that value.

    Args:
        module: the traced network; its modules and parameters are shared.
        start: a node; its value is cloned, since later operations may work in place.
        end: a node behind it, or the graph's output.
    """
    part = fx.Graph()
    copies: dict[fx.Node, Any] = {start: part.call_method("clone", (part.placeholder("x"),))}
    for node in _needed(start, end):
        if node.op == "placeholder":
            return None
        copies[node] = part.node_copy(node, lambda n: copies[n])
    if end.op != "output":
        part.output(copies[end])
    return fx.GraphModule(module, part)


def _needed(start: fx.Node, end: fx.Node) -> list[fx.Node]:
    """The nodes, including `end`, on which `end` depends by a path that avoids `start`, in order."""
    needed, stack = set(), [end]
    while stack:
        node = stack.pop()
        if node is not start and node not in needed:
            needed.add(node)
            stack += node.all_input_nodes
    return [node for node in end.graph.nodes if node in needed]


def fault(module: nn.Module, layer: str, shape: tuple[int, ...]) -> str:
    """Why the network cannot be cut at the layer; "" if it can."""
    try:
        tail(module, layer, shape)
    except ValueError as error:
        return str(error)
    return ""
