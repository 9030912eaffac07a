r"""Layer-wise relevance: LRP, DeepLIFT, Excitation Backprop.

LRP (Bach et al., PLOS ONE 2015; rules as in Montavon et al. 2019) propagates the logit R back through each layer
$z_j = \sum_i x_i w_{ij} + b_j$ in proportion to the parts of z_j:

| rule | share of input i |
|---|---|
| epsilon | $x_i w_{ij} / (z_j + \epsilon \operatorname{sign} z_j)$ |
| zplus | $(x_i w_{ij})^+ / (\sum (x w)^+ + b_j^+)$ |
| alphabeta | $\alpha (x_i w_{ij})^+ / (\sum^+ + b_j^+) - \beta (x_i w_{ij})^- / (\sum^- + b_j^-)$, alpha - beta = 1 |
| gamma | $x_i w_{ij} + \gamma (x_i w_{ij})^\pm$ of their sum and $b_j + \gamma b_j^\pm$, with z_j's sign; see below |
| composite | zplus for convolutions, epsilon for linear layers and the classifier, z^B for the image's convolution |

Gamma is the generalised rule (Andéol et al. 2021, after Montavon et al. 2019) for inputs and outputs of either sign:
parts with the output's sign count 1 + gamma times, so no denominator is smaller than z_j. Linear layers use epsilon,
and the image's convolution uses z^B, as in zennit's EpsilonGammaBox.

A bias takes its share like an input of value 1, and no pixel gets it (`bias: keep`, as in zennit, Captum and
iNNvestigate); with `bias: drop` the inputs share everything. Epsilon always keeps it, since its sums without biases
would cross 0. A map's sum falls short of the logit by what biases keep; in deep networks with batch norms that is
nearly all, and only the proportions of the map are meaningful.

`composite` is the preset. Its rules for a network follow from the network's operations, without settings:

| network | merged or kept | rules |
|---|---|---|
| AlexNet, VGG | local response normalisation keeps its divisor | z^B, zplus for convolutions, epsilon for fc6 to fc8 |
| ResNet, MobileNetV2 | batch norms into the convolutions before them | the same; a residual sum shares in proportion |
| GoogLeNet | batch norms likewise, or local response normalisation | the same; a concatenation splits by branch |
| DenseNet | a norm behind a convolution likewise; one behind a concatenation | the same; such a norm uses epsilon |
| SqueezeNet | - | the same; its classifier is a convolution: epsilon |

A classifier's outputs are negative at some positions if no ReLU follows, as with a fitted head; zplus would there take
relevance from evidence for the class. With epsilon, a classifier before the average gives the same map as one behind
it.

z^B distributes by $x_i w_{ij} - l_i w^+_{ij} - h_i w^-_{ij}$ with l and h the black and the white pixel. A batch norm
behind a convolution is merged into it; max-pooling passes to the winner; local response normalisation keeps its
divisor.

DeepLIFT, Rescale rule (Shrikumar et al., ICML 2017): multipliers $\Delta y / \Delta x$ of every nonlinearity between
the image and a reference of mean colour; contributions add up to the difference of the logits. This holds for every
function of one variable (ReLU, SiLU, sigmoid, ...). A max-pool's difference goes to its winner in the image and
its winner in the reference; of values that are equal up to rounding, the first wins. The difference of a product of two
values, such as a gate, is shared by Shapley values, as in Deep SHAP (Lundberg & Lee, NeurIPS 2017).

`follows` lists the operations that each of the three follows; a network with any other is refused. An activation
that keeps the sign of its input (ReLU6, hardtanh, tanh, leaky rectifiers, ELU, ...) passes LRP's relevance
unchanged, also in saturated units, whose own gradient would lose it; Excitation Backprop treats ReLU6 in this way.

Excitation Backprop (Zhang et al., ECCV 2016; IJCV 2018): the zplus rule with a unit of relevance at the class, summed
over the channels of a *saliency layer*. Contrastive (c-MWP): minus the same with the last classifier's weights
negated, positive part. Saliency layers of the paper: VGG-16 pool4, ResNet layer3, GoogLeNet pool2; otherwise the target
layer. Everything behind the contrast layer (the classifier's input) is linear, so subtracting at the end is the same.
If the classifier is a convolution followed by an average (SqueezeNet), the two count as one linear layer: a position
gets its share by its evidence for the class, as it does where the average comes first. Separately at each position, the
class and its contrast would get equal shares, and their difference would be only rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from eigencam.methods.parameter_checks import at_least, one_of
from eigencam.methods.refusal import traced
from eigencam.passes.backward import RESCALED, LinearRules, chunked, entering, gradients, like, relevance_rules
from eigencam.passes.calls import evaluating, network_logits
from eigencam.passes.forward import Forward
from eigencam.passes.layer_items import module_path
from eigencam.passes.operation_kinds import AFFINE, LINEAR, MAXIMA, RECTIFIERS, SIGN_KEEPING

if TYPE_CHECKING:
    from eigencam.networks.network import Network

Bias = Literal["keep", "drop"]
LrpRule = Literal["epsilon", "zplus", "alphabeta", "gamma", "composite"]
BIASES: tuple[Bias, ...] = ("keep", "drop")
RULES: tuple[LrpRule, ...] = ("epsilon", "zplus", "alphabeta", "gamma", "composite")
BOXED: tuple[LrpRule, ...] = ("gamma", "composite")
"""Rules that use z^B for the convolution on the image."""
FOLLOWED = LINEAR | RECTIFIERS | MAXIMA | frozenset(("shift", "conv2d", "linear", "batch_norm", "local_response_norm"))
"""Operations that relevance passes: by a rule, or proportionally by their own gradient."""

Op = Callable[[Tensor, Tensor, Tensor | None], Tensor]
LinearRule = Callable[[Op, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, slots=True)
class LRP:
    """LRP with one rule, or the usual composite of rules for convolutional networks."""

    rule: LrpRule = "composite"
    epsilon: float = 1e-6
    alpha: float = 2.0
    gamma: float = 0.25
    bias: Bias = "keep"

    version = 2
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Bach et al., PLOS ONE 2015"
    needs: ClassVar[str] = "2 forwards, 1 backward"
    networks: ClassVar[str] = "convolutional, with ReLUs or other activations that keep the sign"
    differentiates: ClassVar[str] = "image"
    follows: ClassVar[frozenset[str]] = FOLLOWED | SIGN_KEEPING

    def __post_init__(self) -> None:
        one_of(self, "rule", RULES)
        one_of(self, "bias", BIASES)
        if self.rule == "epsilon" and self.bias == "drop":
            raise ValueError("bias='drop', rule='epsilon'; allowed with it: keep, since sums without biases cross 0")
        at_least(self, 0, "epsilon", "gamma")
        at_least(self, 1, "alpha")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, signed; the sum over an image is the logit minus what biases and epsilon keep."""
        last = _count(forward.module, forward.images[:1]) - 1 if self.rule == "composite" else None

        def make(x: Tensor, y: Tensor) -> Tensor:
            layers = LinearRules(_Calls(self._rule, self._epsilon, last))
            if self.rule not in BOXED:
                value, gradient = gradients(forward.module, x, y, rules=layers.rules)
                return (value * gradient).sum(1)
            value, gradient = gradients(forward.module, x, y, rules=layers.rules, by=lambda: self._first(layers)[3])
            op, seen, weight, _ = self._first(layers)
            ends = (end.to(x).expand_as(x) for end in (forward.black, forward.white))
            low, high = (entering(forward.module, end).detach() for end in ends)
            return _to_image(forward.module, x, _z_box(op, seen, weight, value * gradient, (low, high))).sum(1)

        return chunked(make, forward.images, targets, forward.chunk, forward.progress)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        if self.rule in BOXED and all(op.kind != "conv2d" for op in traced(network).operations):
            return self._unboxed
        return ""

    @property
    def _unboxed(self) -> str:
        return f"rule={self.rule} needs a convolution that sees the image; set another rule"

    def _first(self, layers: LinearRules) -> tuple[Op, Tensor, Tensor, Tensor]:
        if layers.first is None:
            raise ValueError(self._unboxed)
        return layers.first

    def _rule(self, kind: str, _first: bool) -> LinearRule:
        if self.rule == "epsilon" or kind == "batch_norm" or (kind == "linear" and self.rule in BOXED):
            return self._epsilon
        return self._gamma if self.rule == "gamma" else self._alpha_beta

    def _kept(self, bias: Tensor | None) -> Tensor | None:
        return bias if self.bias == "keep" else None

    def _epsilon(self, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        z = op(x, weight, bias)
        away = self.epsilon * torch.where(z < 0, -1.0, 1.0).to(z.dtype)
        return like(z.detach(), z + away)

    def _alpha_beta(self, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        z, alpha = op(x, weight, bias).detach(), self.alpha if self.rule == "alphabeta" else 1.0
        through = alpha * like(z, _parts(op, x, weight, 1, self._kept(bias)))
        if alpha > 1:
            through = through - (alpha - 1) * like(z, _parts(op, x, weight, -1, self._kept(bias)))
        return through + (z - through).detach()

    def _gamma(self, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain = op(x, weight, self._kept(bias))
        up, down = (_parts(op, x, weight, sign, self._kept(bias)) for sign in (1, -1))
        return like(op(x, weight, bias).detach(), plain + self.gamma * torch.where(plain > 0, up, down))


@dataclass(frozen=True, slots=True)
class DeepLIFT:
    """DeepLIFT, Rescale rule; the reference is the mean colour."""

    version = 2
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Shrikumar et al., ICML 2017"
    needs: ClassVar[str] = "3 forwards, 1 backward"
    networks: ClassVar[str] = "convolutional, whose nonlinearities are functions of one number, max-pools or products"
    differentiates: ClassVar[str] = "image"
    follows: ClassVar[frozenset[str]] = AFFINE | RESCALED.keys()

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, signed; the sum is the logit minus that of the reference."""

        def make(x: Tensor, y: Tensor) -> Tensor:
            both = torch.cat([x, torch.zeros_like(x)])
            _, gradient = gradients(forward.module, both, y.repeat(2), rules=RESCALED)
            return (gradient[: len(x)] * x.float()).sum(1)

        return chunked(make, forward.images, targets, max(1, forward.chunk // 2), forward.progress)


@dataclass(frozen=True, slots=True)
class ExcitationBackprop:
    """Excitation Backprop (MWP), or `contrastive` (c-MWP); `layer`: the saliency layer, None: the paper's."""

    contrastive: bool = False
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Zhang et al., ECCV 2016"
    needs: ClassVar[str] = "2 forwards, 1 backward; contrastive: twice"
    networks: ClassVar[str] = "convolutional, with ReLUs"
    differentiates: ClassVar[str] = "image"
    follows: ClassVar[frozenset[str]] = FOLLOWED

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        layer = self.layer or saliency_layer(forward.module) or forward.layer
        last = _count(forward.module, forward.images[:1]) - 1

        def winning(x: Tensor, y: Tensor, classifier: LinearRule) -> Tensor:
            rules = LinearRules(_Calls(lambda _kind, _first: z_plus, classifier, last)).rules
            value, gradient = gradients(forward.module, x, y, rules=rules, layer=layer, normalize=True)
            return (value * gradient).sum(1)

        def make(x: Tensor, y: Tensor) -> Tensor:
            probability = winning(x, y, _speaks_for)
            return (probability - winning(x, y, _speaks_against)).clamp(min=0) if self.contrastive else probability

        return chunked(make, forward.images, targets, forward.chunk, forward.progress)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        layer = self.layer or saliency_layer(network.module) or network.layer
        modules = list(network.module.modules())
        if isinstance(network.module.get_submodule(module_path(layer)), nn.Conv2d) and any(
            isinstance(m, nn.BatchNorm2d) for m in modules
        ):
            return (
                f"{layer} is a convolution, into which the batch norm behind it is merged; take the layer behind that"
            )
        return ""


def z_plus(op: Op, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Relevance in proportion to the positive parts x w, without the bias."""
    return like(op(x, weight, bias).detach(), _parts(op, x, weight, 1))


def saliency_layer(module: nn.Module) -> str | None:
    """Excitation Backprop's saliency layer for the paper's networks; None for others."""
    modules = dict(module.named_modules())
    layer = {"VGG": "features.23", "ResNet": "layer3", "GoogLeNet": "maxpool2"}.get(type(module).__name__)
    if layer == "features.23" and not isinstance(modules.get(layer), nn.MaxPool2d):
        return None
    return layer if layer in modules else None


class _Calls:
    """Rules for a pass's linear operations, which are counted; operation number `chosen` uses the rule `other`."""

    def __init__(self, rule_of: Callable[[str, bool], LinearRule], other: LinearRule, chosen: int | None) -> None:
        self.rule_of, self.other, self.chosen, self.count = rule_of, other, chosen, 0

    def __call__(self, kind: str, first: bool) -> LinearRule:
        number, self.count = self.count, self.count + 1
        return self.other if number == self.chosen else self.rule_of(kind, first)


def _count(module: nn.Module, images: Tensor) -> int:
    """Number of linear operations in a pass; the last one is the classifier."""
    calls = _Calls(lambda _kind, _first: _plain, _plain, None)
    with evaluating(module), torch.inference_mode(False), torch.no_grad():
        images = images.clone()
        with relevance_rules(LinearRules(calls).rules, images):
            network_logits(module, images)
    return calls.count


def _plain(op: Op, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return op(x, weight, bias)


def _speaks_for(op: Op, x: Tensor, weight: Tensor, _bias: Tensor | None) -> Tensor:
    return _parts(op, x, weight, 1)


def _speaks_against(op: Op, x: Tensor, weight: Tensor, _bias: Tensor | None) -> Tensor:
    return _parts(op, x, -weight, 1)


def _parts(op: Op, x: Tensor, weight: Tensor, sign: int, bias: Tensor | None = None) -> Tensor:
    """The sum of the positive (sign 1) or negative (sign -1) parts x w of an operation, and of its bias."""
    plus, minus = x.clamp(min=0), x.clamp(max=0)
    more, less = weight.clamp(min=0), weight.clamp(max=0)
    if sign < 0:
        more, less = less, more
    part = None if bias is None else sign * (sign * bias).clamp(min=0)
    return op(plus, more, part) + op(minus, less, None)


def _z_box(op: Op, x: Tensor, weight: Tensor, relevance: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
    """Distribute the relevance of a convolution's output over its input, which lies between `ends`."""
    low, high = (end.float().expand_as(x).clone().requires_grad_() for end in ends)
    image, weight = x.detach().float().clone().requires_grad_(), weight.detach().float()
    with torch.enable_grad():
        less, more = op(low, weight.clamp(min=0), None), op(high, weight.clamp(max=0), None)
        z = op(image, weight, None) - less - more
        share = torch.where(z != 0, relevance / torch.where(z != 0, z, 1.0), 0.0).detach()
        grads = torch.autograd.grad((z * share).sum(), [image, low, high])
    return sum(
        (value.detach() * grad for value, grad in zip((image, low, high), grads, strict=True)),
        torch.zeros_like(image),
    )


def _to_image(module: nn.Module, images: Tensor, relevance: Tensor) -> Tensor:
    """(N, 3, H, W): the relevance of the first convolution's input, moved to the pixels that it was computed from."""
    image = images.detach().clone().requires_grad_()
    seen = entering(module, image)
    if seen is image:
        return relevance
    (share,) = torch.autograd.grad(seen, image, relevance.to(seen.dtype), retain_graph=True)
    (whole,) = torch.autograd.grad(seen, image, torch.ones_like(seen))
    return torch.where(whole != 0, share / torch.where(whole != 0, whole, 1.0), 0.0).float()
