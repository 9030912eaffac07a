"""References of relevance and gradient methods: formulas of their own over `graph_walk`, and other libraries."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from graph_walk import Node, Rule, divided, walk
from references import OWN, Case, Pair
from torch import Tensor, nn

from eigencam.methods.relevance import LRP

Layer = Callable[[Node, Tensor], tuple[Tensor, ...]]
EPSILON = 1e-6


def signed(z: Tensor) -> Tensor:
    """Return z moved away from 0 by `EPSILON`."""
    return z + EPSILON * torch.where(z < 0, -1.0, 1.0)


def with_parameters(module: Any, weight: Tensor, bias: Tensor | None) -> Any:
    """Return the layer with other parameters, without a bias where it is None."""
    changed = copy.deepcopy(module)
    changed.weight = nn.Parameter(weight.detach(), requires_grad=False)
    changed.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return changed


def shares(module: Any, terms: list[tuple[Tensor, Tensor]], denominator: Tensor, relevance: Tensor) -> Tensor:
    """Return the relevance that inputs get by the products of `terms`: (values, weights that multiply them)."""
    quotient = divided(relevance, denominator)
    total = torch.zeros_like(terms[0][0])
    for values, weight in terms:
        (part,) = torch.func.vjp(with_parameters(module, weight, None), values)[1](quotient)
        total = total + values * part
    return total


def sums(module: Any, terms: list[tuple[Tensor, Tensor]], bias: Tensor | None) -> Tensor:
    """Return the sum of the products, and of the bias."""
    made = torch.stack([with_parameters(module, weight, None)(values) for values, weight in terms]).sum(0)
    if bias is None:
        return made
    return made + (bias[:, None, None] if made.ndim == 4 else bias)


def epsilon(node: Node, relevance: Tensor) -> tuple[Tensor]:
    """Bach et al. 2015, eq. 58."""
    (x,), weight = node.inputs, node.module.weight
    return (shares(node.module, [(x, weight)], signed(node.output), relevance),)


def alpha_beta(node: Node, relevance: Tensor, alpha: float, keep: bool) -> tuple[Tensor]:
    """Bach et al. 2015, eq. 60, for inputs of either sign; `keep`: a bias is an input like others."""
    (x,), weight, bias = node.inputs, node.module.weight, node.module.bias if keep else None
    plus, minus = x.clamp(min=0), x.clamp(max=0)
    up, down = weight.clamp(min=0), weight.clamp(max=0)
    total = torch.zeros_like(x)
    for factor, terms, part in (
        (alpha, [(plus, up), (minus, down)], None if bias is None else bias.clamp(min=0)),
        (1 - alpha, [(plus, down), (minus, up)], None if bias is None else bias.clamp(max=0)),
    ):
        if factor:
            total = total + factor * shares(node.module, terms, sums(node.module, terms, part), relevance)
    return (total,)


def gamma(node: Node, relevance: Tensor, factor: float, keep: bool) -> tuple[Tensor]:
    """The generalised rule (Andéol et al. 2021): what has the output's sign is weighted 1 + gamma."""
    (x,), weight, bias = node.inputs, node.module.weight, node.module.bias if keep else None
    plus, minus = x.clamp(min=0), x.clamp(max=0)
    z = sums(node.module, [(x, weight)], bias)
    more, less = weight + factor * weight.clamp(min=0), weight + factor * weight.clamp(max=0)
    total = torch.zeros_like(x)
    for sign, terms in ((1, [(plus, more), (minus, less)]), (-1, [(plus, less), (minus, more)])):
        part = None if bias is None else bias + factor * sign * (sign * bias).clamp(min=0)
        chosen = torch.where(sign * z > 0, relevance, 0.0)
        total = total + shares(node.module, terms, sums(node.module, terms, part), chosen)
    return (total,)


def z_box(node: Node, relevance: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor]:
    """Montavon et al. 2017, eq. 20: pixels between `low` and `high`."""
    (x,), weight = node.inputs, node.module.weight
    up, down = -weight.clamp(min=0), -weight.clamp(max=0)
    terms = [(x, weight), (low.expand_as(x), up), (high.expand_as(x), down)]
    return (shares(node.module, terms, sums(node.module, terms, None), relevance),)


def lrp(rule: str, keep: bool = True) -> Callable[[Case], Tensor]:
    """Return the reference of `LRP(rule)`."""
    return partial(_lrp, rule, keep)


def _lrp(rule: str, keep: bool, case: Case) -> Tensor:
    colours = case.network.preprocess.normalize(
        torch.tensor([0, 255]).view(2, 1, 1, 1).expand(2, 3, 1, 1), torch.float64
    )

    def layer(node: Node, relevance: Tensor) -> tuple[Tensor, ...]:
        if rule in ("composite", "gamma"):
            if node.first:
                return z_box(node, relevance, colours[:1], colours[1:])
            if node.kind == "linear" or (node.last and rule == "composite"):
                return epsilon(node, relevance)
        if rule == "epsilon":
            return epsilon(node, relevance)
        if rule == "gamma":
            return gamma(node, relevance, 0.25, keep)
        return alpha_beta(node, relevance, 2.0 if rule == "alphabeta" else 1.0, keep)

    def passed(_node: Node, relevance: Tensor) -> tuple[Tensor]:
        return (relevance,)

    rules: dict[str, Rule] = {"conv": layer, "linear": layer, "norm": passed, "activation": passed, "response": passed}
    inputs = case.inputs
    logits = case.module()(inputs)
    start = torch.zeros_like(logits).scatter(1, case.targets[:, None], logits.gather(1, case.targets[:, None]))
    with torch.no_grad():
        return walk(case.module(), inputs, start, rules, Node.shared)["image"].sum(1)


PAIRS = [
    Pair("lrp", LRP(), OWN, lrp("composite")),
    Pair("lrp_epsilon", LRP("epsilon"), OWN, lrp("epsilon")),
    Pair("lrp_zplus", LRP("zplus"), OWN, lrp("zplus")),
    Pair("lrp_alphabeta", LRP("alphabeta"), OWN, lrp("alphabeta")),
    Pair("lrp_gamma", LRP("gamma"), OWN, lrp("gamma")),
]
