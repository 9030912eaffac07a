"""A backward walk through a network's graph in float64, node by node, by rules that a reference chooses.

It shares nothing with the package: `torch.fx` traces the network, batch norms are merged into the convolutions before
them by torch's own `fuse`, and every node's rule is an explicit formula of inputs, output and what arrives from the
layers behind.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.Tanh, nn.ELU, nn.Softsign)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a pass.

    Attributes:
        kind: `conv`, `linear`, `norm`, `activation`, `pool` (max), `response` (local response norm) or `other`.
        module: the module that runs it; None for a function.
        apply: the operation as a function of its tensors.
        inputs: these tensors.
        output: the result.
        first: whether it is the first convolution.
        last: whether it is the last layer with weights.
        beside: whether it lies on one side only of a sum of two values, such as a shortcut's.
    """

    kind: str
    module: Any
    apply: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    output: Tensor
    first: bool
    last: bool
    beside: bool

    def vjp(self, arriving: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of the sum of output times `arriving` with respect to the inputs."""
        return torch.func.vjp(self.apply, *self.inputs)[1](arriving)

    def shared(self, relevance: Tensor) -> tuple[Tensor, ...]:
        """Return relevance in proportion to the contribution of each input value to the output."""
        parts = self.vjp(divided(relevance, self.output))
        return tuple(value * part for value, part in zip(self.inputs, parts, strict=True))


Rule = Callable[[Node, Tensor], tuple[Tensor, ...]]


def divided(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, 0 where b is 0."""
    return torch.where(b != 0, a / torch.where(b != 0, b, 1.0), 0.0)


def walk(module: nn.Module, x: Tensor, start: Tensor, rules: Mapping[str, Rule], default: Rule) -> dict[str, Tensor]:
    """Carry `start`, of the logits' shape, back to the image.

    Returns:
        What arrives at each node's output, by the module's path in the network; `image` for the image.
    """
    graph = _graph(module)
    nodes, values = _forward(graph, x)
    arriving: dict[fx.Node, Tensor] = {}
    ends = [node for node in graph.graph.nodes if node.op == "output"]
    arriving[ends[0].args[0]] = start
    for node in reversed(list(nodes)):
        if node in arriving:
            made = nodes[node]
            for source, part in zip(
                _tensors(node, values), rules.get(made.kind, default)(made, arriving[node]), strict=True
            ):
                arriving[source] = arriving[source] + part if source in arriving else part
    found = {str(node.target): value for node, value in arriving.items() if node.op == "call_module"}
    return found | {"image": next(value for node, value in arriving.items() if node.op == "placeholder")}


@lru_cache(maxsize=4)
def _graph(module: nn.Module) -> fx.GraphModule:
    with torch.no_grad():
        fused = fuse(module.eval())  # `fuse` changes a copy
    return fx.GraphModule(fused, fx.Tracer().trace(fused))


def _forward(graph: fx.GraphModule, x: Tensor) -> tuple[dict[fx.Node, Node], dict[fx.Node, Any]]:
    modules = dict(graph.named_modules())
    values: dict[fx.Node, Any] = {}
    nodes: dict[fx.Node, Node] = {}
    weighted = [n for n in graph.graph.nodes if _kind(modules.get(str(n.target))) in ("conv", "linear")]
    beside = _beside(graph)
    convolutions = [n for n in weighted if _kind(modules[str(n.target)]) == "conv"]
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = x
        elif node.op != "output":
            sources = _tensors(node, values)
            inputs = tuple(values[source] for source in sources)
            apply = _function(node, modules, sources, values)
            with torch.no_grad():
                values[node] = apply(*inputs)
            if inputs and isinstance(values[node], Tensor):
                module = modules.get(str(node.target)) if node.op == "call_module" else None
                kind = _kind(module) if node.op == "call_module" else _kind_of_function(node)
                first = bool(convolutions) and node is convolutions[0]
                nodes[node] = Node(
                    kind, module, apply, inputs, values[node], first, node is weighted[-1], node in beside
                )
    return nodes, values


def _beside(graph: fx.GraphModule) -> set[fx.Node]:
    ancestors: dict[fx.Node, set[fx.Node]] = {}
    found: set[fx.Node] = set()
    for node in graph.graph.nodes:
        sources = node.all_input_nodes
        ancestors[node] = {node}.union(*(ancestors[source] for source in sources))
        if len(sources) == 2 and node.target in SUMS:
            found |= ancestors[sources[0]] ^ ancestors[sources[1]]
    return found


def _function(
    node: fx.Node, modules: Mapping[str, nn.Module], sources: list[fx.Node], values: Mapping[fx.Node, Any]
) -> Callable[..., Any]:
    def apply(*inputs: Tensor) -> Any:
        given = {source: value.clone() for source, value in zip(sources, inputs, strict=True)}  # it may work in place
        args = fx.map_arg(node.args, lambda n: given.get(n, values.get(n)))
        kwargs = fx.map_arg(node.kwargs, lambda n: given.get(n, values.get(n)))
        if node.op == "call_module":
            return modules[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    return apply


def _tensors(node: fx.Node, values: Mapping[fx.Node, Any]) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if isinstance(values.get(n), Tensor)]


def _kind(module: Any) -> str:
    kinds = {
        "conv": nn.Conv2d,
        "linear": nn.Linear,
        "norm": nn.BatchNorm2d,
        "activation": ACTIVATIONS,
        "pool": nn.MaxPool2d,
        "response": nn.LocalResponseNorm,
    }
    return next((kind for kind, classes in kinds.items() if isinstance(module, classes)), "other")


def _kind_of_function(node: fx.Node) -> str:
    if node.target in (F.relu, torch.relu, "relu", "relu_", F.relu6, F.hardtanh):
        return "activation"
    if node.target in (F.max_pool2d, torch.max_pool2d):
        return "pool"
    if node.target in (*SUMS, torch.flatten, torch.cat, "flatten", "mean", "view"):
        return "other"
    if node.target in (F.adaptive_avg_pool2d, F.avg_pool2d, torch.mean, F.dropout, F.pad):
        return "other"
    raise ValueError(f"no rule for {node.target}")
