"""References of relevance and gradient methods: independent formulas over `graph_walk`, and other libraries."""

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import captum.attr
import torch
import torch.nn.functional as F
from captum.attr._core import deep_lift
from graph_walk import ACTIVATIONS, Node, Rule, divided, walk
from references import OWN, Case, Pair
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from eigencam.methods.fullgrad import FullGrad
from eigencam.methods.input_gradients import Gradient, GuidedBackprop, GuidedGradCAM, IntegratedGradients, SmoothGrad
from eigencam.methods.randomness import normal
from eigencam.methods.refusal import probe, traced
from eigencam.methods.relevance import LRP, DeepLIFT, ExcitationBackprop
from eigencam.methods.ventral import Ventral
from eigencam.networks.network import Network
from eigencam.passes.operation_kinds import ELEMENTWISE, MAXIMA, NORMALIZATIONS
from eigencam.passes.readings import CHANNELS_FIRST

Layer = Callable[[Node, Tensor], tuple[Tensor, ...]]
EPSILON = 1e-6


def signed(z: Tensor) -> Tensor:
    """Return z moved away from 0 by `EPSILON`."""
    return z + EPSILON * torch.where(z < 0, -1.0, 1.0)


def with_parameters(module: Any, weight: Tensor, bias: Tensor | None) -> Any:
    """Return the layer with other parameters; without a bias if it is None."""
    changed = copy.deepcopy(module)
    changed.weight = nn.Parameter(weight.detach(), requires_grad=False)
    changed.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return changed


def shares(module: Any, terms: list[tuple[Tensor, Tensor]], denominator: Tensor, relevance: Tensor) -> Tensor:
    """Return the inputs' relevance by the products in `terms`: (values, weights)."""
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
    terms = [(node.inputs[0], node.module.weight)]
    return (shares(node.module, terms, signed(node.output), relevance),)


def alpha_beta(node: Node, relevance: Tensor, alpha: float, keep: bool) -> tuple[Tensor]:
    """Bach et al. 2015, eq. 60, for inputs of either sign; `keep`: a bias counts as an input."""
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
    """The generalised rule (Andéol et al. 2021): contributions with the output's sign are weighted by 1 + gamma."""
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


def passed(_node: Node, relevance: Tensor) -> tuple[Tensor]:
    """A function of one number passes its relevance to its input."""
    return (relevance,)


def _lrp(rule: str, keep: bool, case: Case) -> Tensor:
    colours = case.network.preprocess.normalize(
        torch.tensor([0, 255]).view(2, 1, 1, 1).expand(2, 3, 1, 1), torch.float64
    )

    def layer(node: Node, relevance: Tensor) -> tuple[Tensor, ...]:
        if rule in ("composite", "gamma") and node.first:
            return z_box(node, relevance, colours[:1], colours[1:])
        dense = node.kind == "linear" and rule in ("composite", "gamma")
        if rule == "epsilon" or dense or (node.last and rule == "composite"):
            return epsilon(node, relevance)
        if rule == "gamma":
            return gamma(node, relevance, 0.25, keep)
        return alpha_beta(node, relevance, 2.0 if rule == "alphabeta" else 1.0, keep)

    rules: dict[str, Rule] = {"conv": layer, "linear": layer, "norm": passed, "activation": passed, "response": passed}
    inputs = case.inputs
    logits = case.module()(inputs)
    start = torch.zeros_like(logits).scatter(1, case.targets[:, None], logits.gather(1, case.targets[:, None]))
    with torch.no_grad():
        return walk(case.network.module, inputs, start, rules, Node.shared)["image"].sum(1)


def chosen(case: Case) -> Tensor:
    """Return (N, K), 1 at the target."""
    return F.one_hot(case.targets, case.forward().logits.shape[1]).double()


def guided(deconvnet: bool, case: Case) -> Tensor:
    """Return (N, 3, H, W): rectifiers pass positive gradients on; `guided`: only where they are active."""

    def rectifier(node: Node, arriving: Tensor) -> tuple[Tensor]:
        active = (node.inputs[0] > 0) & (node.output == node.inputs[0])
        return (torch.where(active | deconvnet, arriving.clamp(min=0), 0.0),)

    return walk(case.network.module, case.inputs, chosen(case), {"activation": rectifier}, Node.vjp)["image"]


def guided_gradcam(case: Case) -> Tensor:
    """Grad-CAM, enlarged, times guided backpropagation; the largest of the colours."""
    forward = case.forward()
    activations, gradients = forward.activations().double(), forward.gradients(case.targets).double()
    cam = (gradients.mean((2, 3), keepdim=True) * activations).sum(1, keepdim=True).relu()
    cam = F.interpolate(cam, case.inputs.shape[2:], mode="bilinear")
    return (guided(False, case) * cam).abs().amax(1)


def gradient(case: Case, inputs: Tensor) -> Tensor:
    """Return (N, 3, H, W)."""
    x = inputs.clone().requires_grad_()
    (made,) = torch.autograd.grad((case.module()(x) * chosen(case)).sum(), x)
    return made


def smoothgrad(case: Case, samples: int, sigma: float) -> Tensor:
    """The mean gradient of the same noisy images as the method's."""
    x = case.inputs
    spread = sigma * (x.flatten(1).max(1).values - x.flatten(1).min(1).values).view(-1, 1, 1, 1)
    noise = [normal(case.forward().index, tuple(x.shape[1:]), sample) for sample in range(samples)]
    total = torch.stack([gradient(case, x + spread * one) for one in noise]).mean(0)
    return total.abs().amax(1)


def captum_integrated(case: Case, steps: int) -> Tensor:
    """Captum's, of the same nodes."""
    found = captum.attr.IntegratedGradients(case.module()).attribute(case.inputs, target=case.targets, n_steps=steps)
    return found.sum(1)


def captum_deeplift(case: Case) -> Tensor:
    """Captum's, with ReLU6 added to the modules with the Rescale rule."""
    known: dict[type[nn.Module], Any] = deep_lift.SUPPORTED_NON_LINEAR
    added: dict[type[nn.Module], Any] = {
        kind: deep_lift.nonlinear for kind in (nn.ReLU6, nn.Hardtanh) if kind not in known
    }
    known.update(added)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about its hooks, and about reading `.grad` of a non-leaf tensor
            found = captum.attr.DeepLift(case.module()).attribute(case.inputs, target=case.targets)
    finally:
        for kind in added:
            del known[kind]
    return found.detach().sum(1)


def by_modules(network: Network) -> str:
    """Return which operation Captum's hooks do not see; "" if every activation is a module with a rule."""
    kinds = (*ACTIVATIONS, nn.MaxPool2d)
    for operation in traced(network).operations:
        if operation.kind in ELEMENTWISE | MAXIMA and operation.module not in {kind.__name__ for kind in kinds}:
            return f"Captum has no hook for {operation.name}"
        if operation.kind in NORMALIZATIONS:
            return f"Captum has no rule for {operation.name}"
    calls = Counter[nn.Module]()
    hooked = [module for module in network.module.modules() if isinstance(module, kinds)]
    handles = [module.register_forward_hook(lambda made, _args, _out: calls.update([made])) for module in hooked]
    with torch.no_grad():
        network.module(probe(network))
    for handle in handles:
        handle.remove()
    return "Captum has no rule for modules that are called twice" if max(calls.values()) > 1 else ""


def put(pool: nn.MaxPool2d, x: Tensor, values: Tensor) -> Tensor:
    """Return (N, C, H, W): each window's value at its largest `x`, the first of those equal up to rounding."""
    x = (x / (x.abs().amax((1, 2, 3), keepdim=True) / 2**14)).round()
    (k, step, pad), (height, width) = (int(v) for v in (pool.kernel_size, pool.stride, pool.padding)), x.shape[2:]  # type: ignore[arg-type]
    sides = [(out - 1) * step + k - pad - side for out, side in zip(values.shape[2:], (height, width), strict=True)]
    padded = F.pad(x, (pad, sides[1], pad, sides[0]), value=-torch.inf)
    total = torch.zeros_like(padded).flatten(2)
    windows = padded.unfold(2, k, step).unfold(3, k, step).flatten(4).argmax(4)
    rows, columns = (torch.arange(out) * step for out in values.shape[2:])
    places = (rows[:, None] + windows // k) * padded.shape[3] + columns + windows % k
    total.scatter_add_(2, places.flatten(2), values.flatten(2))
    return total.view_as(padded)[:, :, pad : pad + height, pad : pad + width]


def deeplift(case: Case) -> Tensor:
    """The Rescale rule; a maximum's difference goes to the winners of both passes, each towards the larger value."""
    x, n = case.inputs, len(case.inputs)

    def slope(node: Node, arriving: Tensor) -> tuple[Tensor]:
        (x1, x0), (y1, y0) = node.inputs[0].chunk(2), node.output.chunk(2)
        close = (x1 - x0).abs() < 1e-6
        ratio = torch.where(close, 0.0, divided(y1 - y0, x1 - x0)).repeat(2, 1, 1, 1)
        return (arriving * torch.where(close.repeat(2, 1, 1, 1), node.vjp(torch.ones_like(arriving))[0], ratio),)

    def winners(node: Node, arriving: Tensor) -> tuple[Tensor]:
        (x1, x0), (y1, y0), (g, _) = node.inputs[0].chunk(2), node.output.chunk(2), arriving.chunk(2)
        top = torch.maximum(y1, y0)
        parts = put(node.module, x1, g * (top - y0)) + put(node.module, x0, g * (y1 - top))
        return (torch.where((x1 - x0).abs() < 1e-6, 0.0, divided(parts, x1 - x0)).repeat(2, 1, 1, 1),)

    both = torch.cat([x, torch.zeros_like(x)])
    rules: dict[str, Rule] = {"activation": slope, "response": slope, "pool": winners}
    arrived = walk(case.network.module, both, chosen(case).repeat(2, 1), rules, Node.vjp)["image"]
    return (arrived[:n] * x).sum(1)


def excitation(case: Case, leaf: str, contrastive: bool) -> Tensor:
    """Winning probabilities at the output of a module; `contrastive`: minus those of the negated classifier."""

    def winning(sign: int) -> Tensor:
        def layer(node: Node, p: Tensor) -> tuple[Tensor, ...]:
            (x,), weight = node.inputs, sign * node.module.weight if node.last else node.module.weight
            terms = [(x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))]
            z = sums(node.module, terms, None)
            if node.last and z.ndim == 4:  # counts as one linear layer together with the average behind it
                p, z = (t.sum((2, 3), keepdim=True).expand_as(t) for t in (p, z))
            return (shares(node.module, terms, z, p),)

        rules: dict[str, Rule] = {"conv": layer, "linear": layer, "activation": passed, "response": passed}
        with torch.no_grad():
            return walk(case.network.module, case.inputs, chosen(case), rules, Node.shared)[leaf].sum(1)

    return (winning(1) - winning(-1)).clamp(min=0) if contrastive else winning(1)


def authors_fullgrad(case: Case) -> Tensor:
    """The authors' map: hooks on modules with a bias, one scale per layer, aligned corners."""
    module, x = case.module(), case.inputs.requires_grad_()
    outputs: list[tuple[Tensor, Any]] = []
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            root = (each.running_var + each.eps).sqrt()  # type: ignore[operator]
            bias = each.bias - each.running_mean * each.weight / root  # type: ignore[operator]
        elif isinstance(each, nn.Conv2d) and each.bias is not None:
            bias = each.bias
        else:
            continue

        def keep(_module: nn.Module, _args: object, out: Tensor, bias: Any = bias) -> Tensor:
            outputs.append((bias.detach(), out))
            return out.clone()  # later layers may work in place

        each.register_forward_hook(keep)
    score = (module(x) * chosen(case)).sum()
    found = torch.autograd.grad(score, [x, *(out for _, out in outputs)])
    parts = [x.detach() * found[0]]
    parts += [bias[:, None, None] * grad for (bias, _), grad in zip(outputs, found[1:], strict=True)]
    total = torch.zeros_like(x[:, 0])
    for part in parts:
        part = part.abs() - part.abs().amin((1, 2, 3), keepdim=True)
        part = part / (part.amax((1, 2, 3), keepdim=True) + 1e-30)
        total = total + F.interpolate(part, x.shape[2:], mode="bilinear", align_corners=True).sum(1)
    return total.detach()


def without(leaf: str) -> Callable[[Network], str]:
    """Return a function that says why a network has no such module without children."""

    def unfit(network: Network) -> str:
        found = dict(network.module.named_modules()).get(leaf)
        return f"it has no module {leaf}" if found is None or any(True for _ in found.children()) else ""

    return unfit


def excitations(layer: str, leaf: str) -> list[Pair]:
    """Return the pairs for Excitation Backprop at one layer, whose last module is `leaf`."""
    named = [("mwp", False), ("cmwp", True)]
    return [
        Pair(
            f"{name} layer={layer}",
            ExcitationBackprop(contrastive, layer),
            OWN,
            partial(excitation, leaf=leaf, contrastive=contrastive),
            unfit=without(leaf),
        )
        for name, contrastive in named
    ]


def ventral(case: Case) -> Tensor:
    """Return Captum's saliency of the target layer's sum, smoothed by SciPy."""
    module, kept = case.module(), list[Tensor]()
    module.get_submodule(case.network.layer).register_forward_hook(lambda _m, _a, out: kept.append(out.clone()))

    def total(x: Tensor) -> Tensor:
        module(x)
        return kept.pop().sum((1, 2, 3))

    found = captum.attr.Saliency(total).attribute(case.inputs.clone().requires_grad_()).amax(1)
    return torch.from_numpy(gaussian_filter(found.detach().numpy(), 30**0.5, axes=(1, 2)))


def no_positions(network: Network) -> str:
    """Return why the sum of the layer's output is not that of a map; "" if it is."""
    reading = network.reading(network.layer)
    return "" if reading == CHANNELS_FIRST else f"{network.layer} is read as {reading}"


CAPTUM = f"captum {version('captum')}"
PAIRS = [
    Pair("lrp", LRP(), OWN, lrp("composite")),
    Pair("lrp bias=drop", LRP(bias="drop"), OWN, lrp("composite", False)),
    Pair("lrp_epsilon", LRP("epsilon"), OWN, lrp("epsilon")),
    Pair("lrp_zplus", LRP("zplus"), OWN, lrp("zplus")),
    Pair("lrp_zplus bias=drop", LRP("zplus", bias="drop"), OWN, lrp("zplus", False)),
    Pair("lrp_alphabeta", LRP("alphabeta"), OWN, lrp("alphabeta")),
    Pair("lrp_alphabeta bias=drop", LRP("alphabeta", bias="drop"), OWN, lrp("alphabeta", False)),
    Pair("lrp_gamma", LRP("gamma"), OWN, lrp("gamma")),
    Pair("lrp_gamma bias=drop", LRP("gamma", bias="drop"), OWN, lrp("gamma", False)),
    Pair("deeplift", DeepLIFT(), OWN, deeplift),
    Pair("deeplift", DeepLIFT(), CAPTUM, captum_deeplift, unfit=by_modules),
    *excitations("features.7.conv.0", "features.7.conv.0.2"),
    *excitations("maxpool2", "maxpool2"),
    *excitations("features.5", "features.5"),
    Pair("fullgrad", FullGrad(), f"{OWN} of the authors' steps", authors_fullgrad),
    Pair("gradient", Gradient(), OWN, lambda case: gradient(case, case.inputs).abs().amax(1)),
    Pair("smoothgrad samples=3", SmoothGrad(3), OWN, partial(smoothgrad, samples=3, sigma=0.15)),
    Pair(
        "integrated_gradients steps=16 tolerance=null",
        IntegratedGradients(16, None),
        CAPTUM,
        partial(captum_integrated, steps=16),
    ),
    Pair("guided_backprop", GuidedBackprop(), OWN, lambda case: guided(False, case).abs().amax(1)),
    Pair("deconvnet", GuidedBackprop(deconvnet=True), OWN, lambda case: guided(True, case).abs().amax(1)),
    Pair("guided_gradcam", GuidedGradCAM(), OWN, guided_gradcam),
    Pair("ventral_reading", Ventral(), f"{CAPTUM} and SciPy", ventral, unfit=no_positions),
]
