"""Attention weights, read from the operations of a pass: how much each position takes from every other one.

Attention is a matrix product whose left factor comes from a softmax over its last axis, in any module or function.
Fused attention (`scaled_dot_product_attention`, `multi_head_attention_forward`) does not expose its weights, so it is
computed in steps: queries times keys, softmax, times values. The output is the same up to rounding. No other operation
counts as attention, and methods that need attention weights refuse a network in which none are found. Rollout and the
methods that read `eigencam.passes.recorded_graph` get attention from here. This module has no version: a change here
that alters a number raises theirs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from eigencam.passes.calls import evaluating, run_network
from eigencam.passes.following import Positions
from eigencam.passes.operations import Call, Watch, tensors
from eigencam.passes.precision import network_precision
from eigencam.passes.proposed_readings import WINDOWS, layout
from eigencam.passes.readings import Reading

KEEP_MATRICES = ("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as")
"""Functions that reshape; if the last two axes stay, each matrix stays as it is."""

WEIGHTS = "attention weights"
"""Key in `Forward.shared` of a batch's attention weights, set by a method that has recorded the batch's pass."""

NO_ATTENTION = (
    "its map is made of attention weights, a softmax that is multiplied by values of the positions, and the network "
    "has none"
)


class Attentive(Watch):
    """Context in which fused attention is computed in steps and each attention is reported.

    Args:
        images: (N, C, H, W), the network's input.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self._weights = WeakTensorKeyDictionary()

    def attend(self, weights: Tensor, values: Tensor) -> None:
        """Called for each attention with the two factors of its product: (..., T, S) and (..., S, d)."""

    def compute(self, call: Call) -> Any:
        """Return the output of an operation that is not computed in steps; subclasses may override this method."""
        return call()

    def perform(self, call: Call) -> Any:
        """Return the output of an operation; fused ones are computed in visible steps."""
        if (steps := STEPS.get(call.name)) is not None and (inner := steps(call)) is not None:
            with self:
                return inner()
        if call.kind == "matrix_product" and call.moving[0] in self._weights:
            self.attend(*call.moving)
        out = self.compute(call)
        if self._are_weights(call, out):
            self._weights[out] = True
        return out

    def _are_weights(self, call: Call, out: Any) -> bool:
        if not isinstance(out, Tensor) or call.kind not in ("softmax", "same", "reshape"):
            return False
        if call.kind == "softmax":
            dim = call.named(("input", "dim")).get("dim")
            return dim is not None and out.ndim > 2 and dim % out.ndim == out.ndim - 1
        whole = call.kind == "same" or (call.name in KEEP_MATRICES and out.shape[-2:] == call.moving[0].shape[-2:])
        return whole and call.moving[0] in self._weights


@dataclass(frozen=True, slots=True)
class Attended:
    """What a pass shows about a network's attention.

    Attributes:
        fault: why its weights do not say what each position of the image takes from the others; "" if they do.
        reading: how the tokens become a map; None if the operations do not determine it.
        kinds: kinds of the operations from the first attention on.
        apart: number of matrix products that are not part of attention.
    """

    fault: str = ""
    reading: Reading | None = None
    kinds: frozenset[str] = frozenset()
    apart: int = 0


def attended(module: nn.Module, images: Tensor) -> Attended:
    """Run a network once and report its attention.

    Args:
        module: the network.
        images: (1, C, H, W), normalised.
    """
    with evaluating(module), torch.inference_mode(False), torch.no_grad():
        images = images.repeat(2, 1, 1, 1)
        positions = Positions(images)
        watch = _Examined(images, positions)
        with positions, watch:
            run_network(module, images)
    if not watch.readings:
        return Attended(NO_ATTENTION)
    fault = next((one for one in watch.readings if isinstance(one, str)), "")
    if not fault and len(set(watch.sizes)) > 1:
        sizes = ", ".join(map(str, dict.fromkeys(watch.sizes)))
        fault = f"its layers mix positions by matrices of different sizes ({sizes})"
    reading = watch.readings[0]
    apart = watch.kinds.count("matrix_product") - 2 * len(watch.readings)
    known = reading if isinstance(reading, Reading) else None
    return Attended(fault, known, frozenset(watch.kinds[watch.first :]), apart)


class _Examined(Attentive):
    """Collects the form of each attention, and the kinds of operations."""

    def __init__(self, images: Tensor, positions: Positions) -> None:
        super().__init__(images)
        self.count, self.size, self.positions = len(images), (images.shape[2], images.shape[3]), positions
        self.readings: list[Reading | str | None] = []
        self.sizes: list[int] = []
        self.kinds: list[str] = []
        self.first = 0

    def attend(self, weights: Tensor, values: Tensor) -> None:
        """Record whether it mixes all positions of each image."""
        if not self.readings:
            self.first = len(self.kinds)
        self.sizes.append(weights.shape[-1])
        self.readings.append(self._read(weights, values))

    def compute(self, call: Call) -> Any:
        """Return the output, and record its kind."""
        out = call()
        if any(True for _ in tensors((out, {}))):
            self.kinds.append(call.kind)
        return out

    def _read(self, weights: Tensor, values: Tensor) -> Reading | str | None:
        if fault := form_fault(tuple(weights.shape), self.count):
            return fault
        split = values.reshape(self.count, -1, *values.shape[-2:])
        axes = self.positions.axes(split)
        if axes is None:
            return "its attention takes values that are not computed from the image"
        if any(vector is not None for vector in axes[1][1:]):
            return f"{IN_WINDOWS}: {WINDOWS}"
        found = layout((axes[0], axes[2]), (self.count, split.shape[2]), self.size)
        return f"{NOT_OF_POSITIONS}: {found.reason}" if found.reason else found.reading


NOT_OF_POSITIONS = "its attention is not over the positions of the image"
IN_WINDOWS = "its attention is within windows, for which no source has a rule"


def form_fault(shape: tuple[int, ...], count: int) -> str:
    """Why weights of this shape are not (count, heads, T, T) or (count * heads, T, T); "" if they are."""
    if shape[-1] != shape[-2]:
        return f"a layer mixes positions by a matrix {shape[-2:]}; a product over layers needs square ones of one size"
    first, axes = shape[0], len(shape)
    if axes > 4 or first % count or (axes == 4 and first != count):
        return f"{IN_WINDOWS} (weights of {shape} for {count} images)"
    return ""


def of_images(weights: Tensor, count: int) -> Tensor:
    """(count, heads, T, T) weights from an attention's left factor. ValueError for another shape."""
    if fault := form_fault(tuple(weights.shape), count):
        raise ValueError(fault)
    return weights.reshape(count, -1, *weights.shape[-2:])


def show_attention(module: nn.Module, images: Tensor, see: Callable[[Tensor], None]) -> None:
    """Run a network once without a graph, and call `see` with each attention's weights (N, heads, T, T), in order.

    Args:
        module: the network.
        images: (N, C, H, W), normalised.
        see: called with each attention's weights, to which nothing else refers.
    """
    with evaluating(module), torch.inference_mode(False), torch.no_grad():
        images = images.clone()
        watch = _Shown(images, see)
        with watch:
            run_network(module, images)


class _Shown(Attentive):
    def __init__(self, images: Tensor, see: Callable[[Tensor], None]) -> None:
        super().__init__(images)
        self.count, self.see = len(images), see

    def attend(self, weights: Tensor, values: Tensor) -> None:
        """Pass the weights on."""
        with network_precision(weights.device, always_full=True):
            self.see(of_images(weights, self.count))


def _dot_products(call: Call) -> Callable[[], Tensor] | None:
    """`scaled_dot_product_attention` in steps; None if it has dropout, `is_causal` or grouped queries."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    named = call.named(names)
    if named.get("dropout_p") or named.get("enable_gqa") or named.get("is_causal"):
        return None
    query, key, value, mask = (named.get(name) for name in names[:4])
    scale = named.get("scale")

    def inner() -> Tensor:
        assert query is not None
        factor = 1 / sqrt(query.shape[-1]) if scale is None else scale
        return _attention(query * factor, key, value, mask)

    return inner


def _attention(query: Tensor, key: Any, value: Any, mask: Any) -> Tensor:
    scores = query @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return F.softmax(scores, -1) @ value


MULTI_HEAD = (
    *("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v"),
    *("add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", "training", "key_padding_mask", "need_weights"),
    *("attn_mask", "use_separate_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "static_k"),
    *("static_v", "average_attn_weights", "is_causal"),
)
MASKS = ("bias_k", "bias_v", "add_zero_attn", "key_padding_mask", "attn_mask", "static_k", "static_v")


def _multi_head(call: Call) -> Callable[[], tuple[Tensor, Tensor | None]] | None:
    """`multi_head_attention_forward` in steps; None with dropout, masks, added keys or values, or without a batch."""
    named = call.named(MULTI_HEAD)
    random = named.get("dropout_p") and named.get("training", True)
    if random or named["query"].ndim != 3 or any(named.get(name) not in (None, False) for name in MASKS):
        return None

    def inner() -> tuple[Tensor, Tensor | None]:
        heads = [x.unflatten(-1, (named["num_heads"], -1)).permute(1, 2, 0, 3) for x in _projected(named)]
        query, key, value = heads  # (N, heads, T, d)
        weights = F.softmax((query * sqrt(1 / query.shape[-1])) @ key.transpose(-2, -1), -1)
        out = (weights @ value).permute(2, 0, 1, 3).flatten(2)
        out = F.linear(out, named["out_proj_weight"], named["out_proj_bias"])
        if not named.get("need_weights", True):
            return out, None
        return out, weights.mean(1) if named.get("average_attn_weights", True) else weights

    return inner


def _projected(named: Mapping[str, Any]) -> list[Tensor]:
    """(T, N, E) queries, keys and values."""
    given, bias = [named[name] for name in ("query", "key", "value")], named.get("in_proj_bias")
    if named.get("use_separate_proj_weight"):
        weights = [named[f"{name}_proj_weight"] for name in "qkv"]
    elif given[0] is given[1] is given[2]:
        return list(F.linear(given[0], named["in_proj_weight"], bias).chunk(3, -1))
    else:
        weights = named["in_proj_weight"].chunk(3)
    biases = [None] * 3 if bias is None else bias.chunk(3)
    return [F.linear(x, w, b) for x, w, b in zip(given, weights, biases, strict=True)]


def _einsum(call: Call) -> Callable[[], Tensor] | None:
    """A product of two batches of matrices written as `einsum`; None for any other sum."""
    if len(call.moving) != 2 or len(call.args) != 3 or not isinstance(call.args[0], str):
        return None
    equation, a, b = call.args
    terms = [term.strip() for term in equation.replace("->", ",").split(",")]
    if (
        "->" not in equation
        or len(terms) != 3
        or len({(len(term), term[:-2]) for term in terms}) > 1
        or len(terms[0]) < 2
    ):
        return None
    left, right, out = terms
    if out[-2] != left[-2]:
        return None
    if left[-1] == right[-2] and out[-1] == right[-1]:
        return lambda: a @ b
    if left[-1] == right[-1] and out[-1] == right[-2]:
        return lambda: a @ b.transpose(-2, -1)
    return None


STEPS: Mapping[str, Callable[[Call], Callable[[], Any] | None]] = {
    "scaled_dot_product_attention": _dot_products,
    "multi_head_attention_forward": _multi_head,
    "einsum": _einsum,
}
"""Versions of torch functions in visible operations; each returns None for a call that it cannot decompose."""
