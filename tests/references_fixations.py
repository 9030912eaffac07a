"""CNN-Fixations by the rules in its docstring, over `graph_walk`, image by image; points are ones in a 0/1 tensor."""

import numpy as np
import torch
import torch.nn.functional as F
from graph_walk import Node, Rule, walk
from numpy.typing import NDArray
from references import OWN, Case, Pair
from scipy.ndimage import correlate1d
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from eigencam.methods.fixations import CNNFixations
from eigencam.networks.network import Network


def linear(node: Node, points: Tensor) -> tuple[Tensor]:
    """Every input whose product with a point's weight is positive."""
    (values,) = node.inputs
    return ((node.module.weight[points[0] > 0] * values > 0).any(0)[None].double(),)


def convolution(node: Node, points: Tensor) -> tuple[Tensor]:
    """The channel that contributes most, at the window's start; beside a shortcut, at the window's largest value."""
    (values,), module = node.inputs, node.module
    reached = torch.zeros_like(values)
    size = values.shape[2:]
    rows, columns = (int(p) for p in module.padding)
    padded = F.pad(values[0], (columns, columns + 1, rows, rows + 1))  # one more: TensorFlow pads on one side only
    each, (k, length) = module.weight.shape[1], module.kernel_size
    for unit, i, j in points[0].nonzero().tolist():
        start = unit // (module.out_channels // module.groups) * each
        top, left = i * module.stride[0], j * module.stride[1]
        window = padded[start : start + each, top : top + k, left : left + length]
        channel = int((window * module.weight[unit]).sum((1, 2)).argmax())
        if node.beside:
            inside = torch.full((k, length), -torch.inf, dtype=values.dtype)
            for a in range(k):
                for b in range(length):
                    if 0 <= top - rows + a < size[0] and 0 <= left - columns + b < size[1]:
                        inside[a, b] = window[channel, a, b]
            best = int(inside.argmax())
            top, left = top - rows + best // length, left - columns + best % length
        reached[0, start + channel, min(max(top, 0), size[0] - 1), min(max(left, 0), size[1] - 1)] = 1
    return (reached,)


def other(node: Node, points: Tensor) -> tuple[Tensor, ...]:
    """The larger addend, the first on a tie; an average's largest value; otherwise the values that form the output."""
    if len(node.inputs) == 2 and node.inputs[0].shape == node.inputs[1].shape == node.output.shape:
        first = node.inputs[0] >= node.inputs[1]
        return points * first, points * ~first
    (values, *_) = node.inputs
    if len(node.inputs) == 1 and values.ndim == 4 and node.output.numel() == values.shape[1] < values.numel():
        best = F.one_hot(values.flatten(2).argmax(2), values[0, 0].numel()).view_as(values)
        return (best * points.reshape(*values.shape[:2], 1, 1),)
    return tuple((part != 0).double() for part in node.vjp(points))


def fixations(case: Case) -> Tensor:
    """The default map: without outliers, blurred."""
    rules: dict[str, Rule] = {"conv": convolution, "linear": linear}
    rules |= dict.fromkeys(("activation", "norm"), lambda _node, points: (points,))
    maps = []
    for x, target in zip(case.inputs, case.targets, strict=True):
        start = torch.zeros(1, case.forward().logits.shape[1], dtype=torch.float64)
        start[0, target] = 1
        with torch.no_grad():
            reached = walk(case.network.module, x[None], start, rules, other)["image"][0]
        maps.append(torch.from_numpy(blurred(reached.numpy() > 0)))
    return torch.stack(maps)


def blurred(
    points: NDArray[np.bool_], radius: float = 0.1, share: float = 0.05, sigma: float = 20
) -> NDArray[np.float64]:
    """Return (H, W) from (3, H, W): the points of all colours, without those that have few others nearby."""
    _, height, width = points.shape
    places = np.argwhere(points)[:, 1:].astype(float)
    near = (cdist(places, places) < radius * np.hypot(height, width)).sum(1)
    impulses = np.zeros((height, width))
    for row, column in places[near > share * len(places)].astype(int):
        impulses[row, column] += 1
    shorter = min(height, width)
    reach = (shorter - 1 + shorter % 2) // 2
    kernel = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        impulses = correlate1d(impulses, kernel / kernel.sum(), axis, mode="mirror")
    return impulses


def unfit(network: Network) -> str:
    """Return the rule that a network needs and that is missing here; "" if there is none."""
    weighted = [module for module in network.module.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if any(isinstance(module, nn.LocalResponseNorm) for module in network.module.modules()):
        return "no rule here for layers behind a local response normalisation"
    return "" if isinstance(weighted[-1], nn.Linear) else "no rule here for class maps that are averaged"


PAIRS = [Pair("cnn_fixations", CNNFixations(), OWN, fixations, unfit=unfit)]
