"""The part of a network behind a layer, as a module of its own.

Ablation-CAM and Shap-CAM change a layer's output hundreds of times: only what lies behind the layer has to run again.
The part is cut out of the network's traced graph (`torch.fx`); it shares the network's modules and parameters. A cut is
accepted only if it gives the network's logits on a seeded probe.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import fx, nn

from eigencam.forward import evaluating, forward_pass, logits_of


@lru_cache(maxsize=2)
def tail(module: nn.Module, layer: str, shape: tuple[int, int]) -> nn.Module:
    """What takes the output of `layer`, (B, C, h, w), to the logits, (B, K).

    Args:
        module: the network.
        layer: `named_modules()` path.
        shape: (height, width) of the network's input, for the probe.

    Raises:
        ValueError: the network cannot be traced, or what follows the layer needs more than the layer's output.
    """
    weights = next(module.parameters())
    probe = torch.rand((2, 3, *shape), generator=torch.Generator().manual_seed(0)).to(weights.device, weights.dtype)
    forward = forward_pass(module, probe, layer)  # tells of a wrong layer, too
    cut = _cut(module, layer)
    with evaluating(module), torch.no_grad():
        logits = logits_of(cut(forward.activations().to(weights.dtype))).float()
    tolerance = (1e-4 if weights.dtype == torch.float32 else 5e-2) * forward.logits.abs().max()
    if logits.shape != forward.logits.shape or not bool((logits - forward.logits).abs().max() <= tolerance):
        raise ValueError(f"what lies behind {layer!r} does not give the network's logits from that layer's output")
    return cut


class _Tracer(fx.Tracer):
    """A tracer that does not look into `layer`."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self.layer or super().is_leaf_module(m, module_qualified_name)


def _cut(module: nn.Module, layer: str) -> fx.GraphModule:
    try:
        with evaluating(module):  # what a forward function asks of `self.training` is fixed by the trace
            graph = _Tracer(layer).trace(module)
    except Exception as error:  # whatever running a forward function on symbols may raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the network cannot be cut at {layer!r}, as it cannot be traced: {reason}") from None
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    if not calls:
        raise ValueError(f"the network cannot be cut at {layer!r}: its forward function does not call it")
    behind = fx.Graph()
    copies: dict[fx.Node, Any] = {calls[-1]: behind.call_method("clone", (behind.placeholder("x"),))}
    for node in _needed(graph, calls[-1]):
        if node.op == "placeholder":
            raise ValueError(f"the network cannot be cut at {layer!r}: what follows reads from before the layer, too")
        copies[node] = behind.node_copy(node, lambda n: copies[n])
    return fx.GraphModule(module, behind)


def _needed(graph: fx.Graph, start: fx.Node) -> list[fx.Node]:
    """The nodes that the output depends on by a way not through `start`, in order."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    needed, stack = set(), [output]
    while stack:
        node = stack.pop()
        if node is not start and node not in needed:
            needed.add(node)
            stack += node.all_input_nodes
    return [node for node in graph.nodes if node in needed]


def fault(module: nn.Module, layer: str, shape: tuple[int, int]) -> str:
    """Why the network cannot be cut at the layer; "" if it can."""
    try:
        tail(module, layer, shape)
    except ValueError as error:
        return str(error)
    return ""
