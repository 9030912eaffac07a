"""The effect of each ATen operation on the coordinates of `eigencam.passes.positions`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from eigencam.passes.positions import LOST, NOTHING, Axes, Axis, Vector, joined, mapped, regrouped, stretched, unified


@dataclass(frozen=True, slots=True)
class Call:
    """One operation: arguments, output, axes of tensors, and the tensors' numbers in order of creation."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Any
    axes: Callable[[Tensor], Axes]
    number: Callable[[Tensor], int]

    def given(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or name."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    @property
    def source(self) -> Axes:
        """Return the axes of the first argument."""
        return self.axes(self.args[0])

    def axis(self, index: int, name: str = "dim", default: int = 0) -> int:
        """Return an argument that names an axis of the first tensor, as a non-negative index."""
        return int(self.given(index, name, default)) % max(self.args[0].ndim, 1)


Rule = Callable[[Call], Axes | list[Axes]]


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [t for item in items for t in tensors(item)]


def lost(tensor: Tensor) -> Axes:
    """The axes of an output of an operation without a rule."""
    return (LOST,) * tensor.ndim


def _same(call: Call) -> Axes:
    return call.source


def pointwise(call: Call) -> Axes:
    """Elementwise combinations; the oldest operand gives the positions, so that residual blocks add no drift."""
    out = tensors(call.out)[0]
    axes: list[Axis] = [NOTHING] * out.ndim
    for tensor in sorted(tensors([call.args, call.kwargs]), key=call.number):
        shift = out.ndim - tensor.ndim
        for k, axis in enumerate(call.axes(tensor)):
            if shift + k >= 0 and (tensor.shape[k] > 1 or out.shape[shift + k] == 1):
                axes[shift + k] = unified(axes[shift + k], axis)
    return tuple(axes)


def _copied(call: Call) -> Axes:
    target, source = call.args[:2]
    axes, shift = call.axes(source), target.ndim - source.ndim
    return tuple(axes[k - shift] if k >= shift and source.shape[k - shift] > 1 else NOTHING for k in range(target.ndim))


def _emptied(call: Call) -> Axes:
    return (NOTHING,) * call.out.ndim


def _strided(call: Call) -> Axes:
    return call.source if call.out.shape == call.args[0].shape else lost(call.out)


def _halved(call: Call) -> Axes:
    dim = call.axis(1, default=-1)
    return _along(call, dim, lambda v: v[: len(v) // 2])


def _view(call: Call) -> Axes:
    return regrouped(call.source, tuple(call.args[0].shape), tuple(call.out.shape))


def _permute(call: Call) -> Axes:
    return tuple(call.source[d] for d in call.given(1, "dims"))


def _transpose(call: Call) -> Axes:
    axes = list(call.source)
    if len(axes) > 1:
        a, b = call.axis(1, "dim0", 0), call.axis(2, "dim1", 1)
        axes[a], axes[b] = axes[b], axes[a]
    return tuple(axes)


def _expand(call: Call) -> Axes:
    new, old = call.out.shape, call.args[0].shape
    shift = len(new) - len(old)
    return tuple(call.source[k - shift] if k >= shift and old[k - shift] == n else NOTHING for k, n in enumerate(new))


def _repeat(call: Call) -> Axes:
    counts = call.given(1, "repeats")
    axes = (NOTHING,) * (len(counts) - call.args[0].ndim) + call.source
    return tuple(mapped(axis, lambda v, k=k: np.tile(v, k)) for axis, k in zip(axes, counts, strict=True))


def _along(call: Call, dim: int, change: Callable[[Vector], Vector]) -> Axes:
    return tuple(mapped(axis, change) if k == dim else axis for k, axis in enumerate(call.source))


def _slice(call: Call) -> Axes:
    part = slice(call.given(2, "start"), call.given(3, "end"), call.given(4, "step", 1))
    return _along(call, call.axis(1), lambda v: v[part])


def _select(call: Call) -> Axes:
    dim = call.axis(1)
    return call.source[:dim] + call.source[dim + 1 :]


def _unbind(call: Call) -> list[Axes]:
    return [_select(call)] * len(call.out)


def _split(call: Call) -> list[Axes]:
    dim = call.axis(2)
    ends = np.cumsum([0, *(part.shape[dim] for part in call.out)])
    return [_along(call, dim, lambda v, a=a, b=b: v[a:b]) for a, b in pairwise(ends)]


def _cat(call: Call) -> Axes:
    parts = [t for t in call.args[0] if t.numel()]
    dim = int(call.given(1, "dim", 0)) % parts[0].ndim
    given = [call.axes(t) for t in parts]
    made: list[Axis] = []
    for k in range(parts[0].ndim):
        along = [axes[k] for axes in given]
        made.append(_end_to_end(along, [t.shape[dim] for t in parts]) if k == dim else _all(along))
    return tuple(made)


def _all(axes: Iterable[Axis]) -> Axis:
    found = NOTHING
    for axis in axes:
        found = unified(found, axis)
    return found


def _end_to_end(axes: Sequence[Axis], sizes: Sequence[int]) -> Axis:
    if any(axis is LOST for axis in axes):
        return LOST

    def one(vectors: Sequence[Vector | None]) -> Vector | None:
        if all(v is None for v in vectors):
            return None
        return np.concatenate([np.full(n, np.nan) if v is None else v for v, n in zip(vectors, sizes, strict=True)])

    images, rows, columns = (one([axis[k] for axis in axes]) for k in range(3))
    return images, rows, columns


def _stack(call: Call) -> Axes:
    given = [call.axes(t) for t in call.args[0]]
    axes = tuple(_all(along) for along in zip(*given, strict=True))
    dim = int(call.given(1, "dim", 0)) % call.out.ndim
    return (*axes[:dim], NOTHING, *axes[dim:])


def _flip(call: Call) -> Axes:
    dims = {d % call.args[0].ndim for d in call.given(1, "dims")}
    return tuple(mapped(axis, lambda v: v[::-1]) if k in dims else axis for k, axis in enumerate(call.source))


def _roll(call: Call) -> Axes:
    shifts, dims = call.args[1], call.given(2, "dims", ())
    by = dict(zip([d % call.args[0].ndim for d in dims], shifts, strict=False))
    if not by:
        return lost(call.out)  # over all axes at once
    axes = enumerate(call.source)
    return tuple(mapped(axis, lambda v, k=k: np.roll(v, by[k])) if k in by else axis for k, axis in axes)


def _index(call: Call) -> Axes:
    """One axis indexed by constant numbers."""
    chosen = [(k, i) for k, i in enumerate(call.args[1]) if i is not None]
    (dim, index), *others = chosen
    if others or index.ndim != 1 or any(axis is not NOTHING for axis in call.axes(index)):
        return lost(call.out)
    return _along(call, dim, lambda v: v[index.cpu().numpy()])


def _index_select(call: Call) -> Axes:
    return _along(call, call.axis(1), lambda v: v[call.args[2].cpu().numpy()])


def _without(call: Call, dims: Any) -> list[Axes]:
    """A sum, mean, maximum over axes."""
    source, made = call.args[0], tensors(call.out)
    listed = [] if dims is None else [dims] if isinstance(dims, int) else list(dims)
    gone = {d % max(source.ndim, 1) for d in listed or range(source.ndim)}
    kept = made[0].ndim == source.ndim
    axes = tuple(NOTHING if k in gone else axis for k, axis in enumerate(call.source) if kept or k not in gone)
    return [axes] * len(made)


def _reduced(call: Call) -> list[Axes]:
    return _without(call, call.given(1, "dim"))


def _norm(call: Call) -> list[Axes]:
    return _without(call, call.given(2, "dim"))


def _product(call: Call) -> Axes:
    """Batched or single matrix products; a third operand in front is added."""
    a, b = call.args[-2:]
    left, right = call.axes(a), call.axes(b)
    return (*(unified(x, y) for x, y in zip(left[:-2], right[:-2], strict=True)), left[-2], right[-1])


def _linear(call: Call) -> Axes:
    return (*call.source[:-1], NOTHING)


def _attention(call: Call) -> Axes:
    return (*call.source[:-1], call.axes(call.args[2])[-1])


def _convolution(call: Call) -> Axes:
    x, weight, stride, padding, dilation, transposed, groups = *call.args[:2], *call.args[3:7], call.args[8]
    sides = weight.ndim - 2
    axes = _resized(call) if transposed else _windows(call, weight.shape[2:], stride, padding, dilation)
    at = x.ndim - sides - 1
    alone = groups == x.shape[at] == call.out.shape[at]  # depthwise
    return (*axes[:at], axes[at] if alone else NOTHING, *axes[at + 1 :])


def _max_pool(call: Call) -> Axes:
    return _windows(
        call, call.args[1], call.given(2, "stride"), call.given(3, "padding", 0), call.given(4, "dilation", 1)
    )


def _average_pool(call: Call) -> Axes:
    return _windows(call, call.args[1], call.given(2, "stride"), call.given(3, "padding", 0), 1)


def _windows(call: Call, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Axes:
    """Each new index is at the centre of its window."""
    out, sides = tensors(call.out)[0], len(kernel)
    k, s, p, d = (_each(v, sides) for v in (kernel, stride or kernel, padding, dilation))
    spatial = [
        stretched(axis, out.shape[i - sides], lambda n, i=i: n * s[i] - p[i] + d[i] * (k[i] - 1) / 2)
        for i, axis in enumerate(call.source[-sides:])
    ]
    return (*call.source[:-sides], *spatial)


def _each(value: Any, count: int) -> list[int]:
    values = list(value) if isinstance(value, Iterable) else [value]
    return values * count if len(values) == 1 else values


def _resized(call: Call) -> Axes:
    """(N, C, ...) resized evenly to another size."""
    sizes = tensors(call.out)[0].shape[2:]
    return (*call.source[:2], *(stretched(axis, n) for axis, n in zip(call.source[2:], sizes, strict=True)))


def _padded(call: Call) -> Axes:
    """Rows and columns continue outside the image; a token appended to others has no position."""
    pads, axes = call.args[1], list(call.source)
    for k in range(len(pads) // 2):
        axis, (before, after), size = axes[-1 - k], pads[2 * k : 2 * k + 2], call.out.shape[-1 - k]
        if axis[1] is None or axis[2] is None or min(before, after) < 0:
            axes[-1 - k] = stretched(axis, size, lambda n, before=before: n - before)
        else:
            axes[-1 - k] = mapped(axis, lambda v, w=(before, after): np.pad(v, w, constant_values=np.nan))
    return tuple(axes)


def _unfold(call: Call) -> Axes:
    """Windows along an axis; the positions inside a window become the last axis."""
    dim, size, step = call.axis(1, "dimension"), call.args[2], call.args[3]
    inner = mapped(call.source[dim], lambda v: v[:size] - v[0])
    return (*_along(call, dim, lambda v: v[: len(v) - size + 1 : step]), inner)


def _im2col(call: Call) -> Axes:
    """(N, C, H, W) to (N, C k k, L): windows in row-major order; the positions inside a window become channels."""
    image, *settings = call.args
    outer, inner, sizes = [], [], []
    for axis, side, k, d, p, s in zip(call.source[2:], image.shape[2:], *settings, strict=True):
        sizes.append((side + 2 * p - d * (k - 1) - 1) // s + 1)
        outer.append(stretched(axis, sizes[-1], lambda n, s=s, p=p, k=k, d=d: n * s - p + d * (k - 1) / 2))
        inner.append(mapped(stretched(axis, k, lambda n, d=d: n * d), lambda v: v - v[0]))
    kernel = settings[0]
    return call.source[0], joined([call.source[1], *inner], [image.shape[1], *kernel]), joined(outer, sizes)


def _shuffled(call: Call) -> Axes:
    """Pixel shuffle and its inverse: channels become a finer grid, or places within a cell become channels."""
    h, w = (stretched(axis, n) for axis, n in zip(call.source[-2:], call.out.shape[-2:], strict=True))
    return (*call.source[:-3], NOTHING, h, w)


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: Mapping[str, Rule] = {
    **_named(_view, "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten"),
    **_named(_permute, "permute"),
    **_named(_transpose, "transpose transpose_ t"),
    **_named(_same, "clone detach alias _to_copy contiguous lift_fresh cumsum channel_shuffle native_channel_shuffle"),
    **_named(_same, "_softmax _log_softmax _safe_softmax native_dropout dropout _prelu_kernel"),
    **_named(_same, "native_layer_norm native_group_norm _fused_rms_norm native_batch_norm cudnn_batch_norm"),
    **_named(_same, "_native_batch_norm_legit_no_training _batch_norm_with_update miopen_batch_norm"),
    **_named(pointwise, "hardswish hardswish_ log_sigmoid_forward rrelu_with_noise"),
    **_named(_strided, "as_strided as_strided_"),
    **_named(_halved, "glu"),
    **_named(_copied, "copy_"),
    **_named(_emptied, "zero_ fill_"),
    **_named(_expand, "expand"),
    **_named(_repeat, "repeat"),
    **_named(_slice, "slice"),
    **_named(_select, "select"),
    **_named(_unbind, "unbind"),
    **_named(_split, "split split_with_sizes chunk"),
    **_named(_cat, "cat"),
    **_named(_stack, "stack"),
    **_named(_flip, "flip"),
    **_named(_roll, "roll"),
    **_named(_index, "index"),
    **_named(_index_select, "index_select"),
    **_named(_reduced, "mean sum amax amin max min var var_mean std std_mean prod logsumexp any all argmax argmin"),
    **_named(_norm, "linalg_vector_norm norm"),
    **_named(_product, "mm bmm addmm baddbmm"),
    **_named(_linear, "linear"),
    **_named(_attention, "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention"),
    **_named(_attention, "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"),
    **_named(_attention, "_scaled_dot_product_attention_math _scaled_dot_product_fused_attention_overrideable"),
    **_named(_convolution, "convolution"),
    **_named(_max_pool, "max_pool2d_with_indices"),
    **_named(_average_pool, "avg_pool1d avg_pool2d"),
    **_named(_resized, "_adaptive_avg_pool2d adaptive_avg_pool1d adaptive_max_pool2d"),
    **_named(
        _resized, "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_nearest1d upsample_linear1d"
    ),
    **_named(_resized, "_upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    **_named(_padded, "constant_pad_nd reflection_pad2d replication_pad2d reflection_pad1d replication_pad1d"),
    **_named(_unfold, "unfold"),
    **_named(_im2col, "im2col"),
    **_named(_shuffled, "pixel_shuffle pixel_unshuffle"),
}
"""Rules by operation name; operations that torch marks as pointwise need none."""
