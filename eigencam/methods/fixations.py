r"""CNN-Fixations (Mopuri, Garg & Babu, IEEE Transactions on Image Processing 28(5), 2019; arXiv 1708.06670).

From the class's logit backwards, a set of points is replaced layer by layer by the points that contribute to it; those
that arrive at the image are the fixations. Duplicates do not count: they are merged before every convolution and linear
layer, and at the image. Rules, as in the authors' code:

| layer | a point becomes |
|---|---|
| linear, on a vector a | every j with $w_{ij} a_j > 0$ |
| linear, on a map | the position of the largest $w_i \odot a$ |
| max-pool, average pool | the position of the largest value in the window |
| convolution, point (c, i, j) | $(c^*, S i, S j)$, where channel c* contributes most; group convolutions likewise |
| concatenation | the point in the branch of its channel |
| residual sum | the larger addend, the shortcut on a tie |
| convolution on one side of a residual sum | c*, then the position of its largest value in the window |
| ReLU, batch norm, dropout, LRN | itself; a layer directly behind an LRN is judged by the values before it |

S i is the window's centre for a kernel of 2 P + 1; for the first layer of BVLC AlexNet, which has no padding, it is the
corner, as in the authors' code. Our choices, where their code does not say or has no case: a batch norm with a negative
weight behind a convolution inverts its contributions; padding is never a position; an average pool over class maps
(SqueezeNet) is treated as a pooling of the layer below and then a linear layer, which is equivalent except for the
ReLU.

A point is an outlier unless more than `share` of an image's points, including itself, are closer to it than `radius`
times the image's diagonal. The map has an impulse at each remaining point, blurred by a Gaussian of `sigma` pixels of
the input (the largest odd kernel that fits into the image); or it is the tight box around these points, filled.

Agreement with the boxes that the authors published for GoogLeNet, on 99 images of ILSVRC validation at their original
sizes (`scripts/fixations_agreement.py`, `results/cnn_fixations_agreement.csv`): with the authors' ten crops, our class
is the published one for 98 % of the images. The mean IoU of our box with theirs is 0.86, and no IoU is below 0.5.
70.7 % of our boxes are right, against 69.7 % of theirs. Each change of the outlier rule lowers the mean IoU to 0.70 or
less. The remaining differences are their framework's resize and the rule from points to a box, which is not in their
code. The method itself, as in all results of this package, sees the whole image once: mean IoU 0.67. A centred box of
half the area reaches 0.68.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.parameter_checks import one_of
from eigencam.methods.refusal import probe, traced
from eigencam.passes.forward import Forward
from eigencam.passes.tape import Step, Tape, record

if TYPE_CHECKING:
    from eigencam.networks.network import Network

MapKind = Literal["gaussian", "box"]
MAPS: tuple[MapKind, ...] = ("gaussian", "box")

BUDGET = 1 << 24
"""Number of values processed at a time, to limit memory."""

Found = Iterator[tuple[int, Tensor]]
"""(step, points at its output); points are positions in the flattened output and may repeat."""


@dataclass(frozen=True, slots=True)
class CNNFixations:
    """CNN-Fixations; see the module."""

    map: MapKind = "gaussian"
    sigma: float = 20.0
    radius: float = 0.1
    share: float = 0.05

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Mopuri et al., TIP 2019"
    needs: ClassVar[str] = "2 forwards"
    networks: ClassVar[str] = "convolutional, with ReLUs"

    def __post_init__(self) -> None:
        one_of(self, "map", MAPS)
        if self.sigma <= 0 or self.radius <= 0 or not 0 <= self.share < 1:
            numbers = f"sigma={self.sigma}, radius={self.radius}, share={self.share}"
            raise ValueError(f"{numbers}; allowed: above 0, above 0, 0 or more and below 1")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, non-negative; zero for a class without contributions."""
        size = (forward.images.shape[2], forward.images.shape[3])
        owner, places = self._points(forward, targets)
        impulses = torch.zeros(len(forward) * size[0] * size[1], device=places.device)
        ones = torch.ones(len(places), device=places.device)
        impulses.index_add_(0, (owner * size[0] + places[:, 0]) * size[1] + places[:, 1], ones)
        impulses = impulses.view(len(forward), *size)
        return boxed(impulses) if self.map == "box" else blurred(impulses, self.sigma)

    def points(self, forward: Forward, targets: Tensor) -> list[Tensor]:
        """For each image the (P, 2) int64 rows and columns that are not outliers."""
        return _by_image(*self._points(forward, targets), len(forward))

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        if reason := traced(network).unfollowed:
            return reason
        try:
            record(network.module, probe(network))
        except ValueError as error:
            return str(error)
        return ""

    def _points(self, forward: Forward, targets: Tensor) -> tuple[Tensor, Tensor]:
        owner, places = _tracked(forward, targets)
        height, width = forward.images.shape[2:]
        kept = crowded(owner, places, len(forward), self.radius * (height**2 + width**2) ** 0.5, self.share).nonzero()[
            :, 0
        ]
        return owner[kept], places[kept]


COSTLY = ("conv2d", "linear")
"""Operations before which duplicate points are merged; elsewhere merging costs more (on a GPU a wait) than it saves."""


def fixations(forward: Forward, targets: Tensor) -> list[Tensor]:
    """For each image the (P, 2) int64 rows and columns that its class leads to, including outliers.

    A position occurs once for each of the image's channels that is reached there.
    """
    return _by_image(*_tracked(forward, targets), len(forward))


def crowded(owner: Tensor, places: Tensor, count: int, distance: float, share: float) -> Tensor:
    """(P,) bool: points with more than `share` of their image's points, including themselves, closer than `distance`.

    Args:
        owner: (P,) image of each point, ascending.
        places: (P, 2) rows and columns.
        count: number of images.
        distance: limit in pixels.
        share: share of an image's points, 0..1.
    """
    sizes = torch.zeros(count, dtype=torch.long, device=owner.device).scatter_add_(0, owner, torch.ones_like(owner))
    longest = int(sizes.max()) if len(owner) else 0
    if not longest:
        return torch.zeros(0, dtype=torch.bool, device=owner.device)
    rank = torch.arange(len(owner), device=owner.device) - (sizes.cumsum(0) - sizes)[owner]
    padded = torch.full((count, longest, 2), 1e9, device=owner.device)  # far from everything
    padded[owner, rank] = places.float()
    near = []
    for some in padded.split(max(1, BUDGET // longest**2)):
        distances = torch.cdist(some, some, compute_mode="donot_use_mm_for_euclid_dist")
        near.append((distances < distance).sum(2))
    return torch.cat(near)[owner, rank] > share * sizes[owner]


def blurred(impulses: Tensor, sigma: float) -> Tensor:
    """(N, H, W) smoothed by a Gaussian, mirrored about the centres of the outer pixels (OpenCV's default border)."""
    height, width = impulses.shape[1:]
    shorter = min(height, width)
    reach = (shorter - 1 + shorter % 2) // 2 if shorter > 1 else 0
    down, across = (_gaussian(side, reach, sigma, impulses.device) for side in (height, width))
    return down @ impulses @ across.mT


def boxed(impulses: Tensor) -> Tensor:
    """(N, H, W): 1 in the tight box around nonzero values, else 0."""
    rows, columns = (_between((impulses > 0).any(dim)) for dim in (2, 1))
    return (rows[:, :, None] & columns[:, None, :]).float()


def _tracked(forward: Forward, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) image, ascending, and (P, 2) position of each point."""
    owners, places, first = [], [], 0
    for images, wanted in zip(forward.images.split(forward.chunk), targets.split(forward.chunk), strict=True):
        tape = record(forward.module, images)
        points = track(
            tape, torch.arange(len(images), device=wanted.device) * tape.steps[tape.output].shape[1] + wanted
        )
        image, _, row, column = _unravel(points, tape.steps[0].shape)
        owners.append(image + first)
        places.append(torch.stack([row, column], 1))
        first += len(images)
        forward.progress(len(images))
    return torch.cat(owners), torch.cat(places)


def track(tape: Tape, points: Tensor) -> Tensor:
    """The points of the image reached from given points of the logits; positions in the flattened tensors."""
    waiting: dict[int, list[Tensor]] = {tape.output: [points]}
    residual = _residual(tape)
    if (head := _class_maps(tape)) is not None:
        convolution, pool = head
        for k, found in _head_rule(tape.steps[convolution], tape.steps[pool], waiting.pop(tape.output)[0]):
            waiting[k] = [found]
    for k in range(tape.output, 0, -1):
        if k not in waiting:
            continue
        step, here = tape.steps[k], torch.cat(waiting.pop(k))
        if step.operation in COSTLY:
            here = here.unique()
        if step.operation == "conv2d":
            found = _conv_rule(step, here, locate=bool(residual >> k & 1))
        elif step.operation == "linear":
            found = _linear_rule(step, here, _map_below(tape, step))
        else:
            found = RULES[step.operation](step, here)
        for source, reached in found:
            waiting.setdefault(source, []).append(reached)
    return torch.cat(waiting.get(0, [points[:0]])).unique()


def _residual(tape: Tape) -> int:
    """Steps on only one side of a residual sum, as bits of an integer."""
    sets, found = tape.ancestors(), 0
    for step in tape.steps:
        if step.operation == "add":
            one, other = step.sources
            found |= sets[one] ^ sets[other]
    return found


def _class_maps(tape: Tape) -> tuple[int, int] | None:
    """The final 1x1 convolution to class maps and the pool over the whole map; None if the network ends differently."""
    pool = _through(tape, tape.output)
    step = tape.steps[pool]
    if step.operation != "avg_pool2d" or step.shape[2:] != (1, 1):
        return None
    convolution = _through(tape, step.sources[0])
    step = tape.steps[convolution]
    plain = step.operation == "conv2d" and step.options["weight"].shape[2:] == (1, 1) and step.options["groups"] == 1
    return (convolution, pool) if plain and step.inputs[0].shape[2:] == step.shape[2:] else None


def _through(tape: Tape, k: int) -> int:
    """The step that computed the values of step `k`, before ReLUs and similar operations."""
    while tape.steps[k].operation == "same":
        (k,) = tape.steps[k].sources
    return k


def _map_below(tape: Tape, step: Step) -> bool:
    """Whether the input of a linear layer is a flattened map with more than one position."""
    (k,) = step.sources
    while tape.steps[k].operation == "same" and len(tape.steps[k].shape) != 4:
        (k,) = tape.steps[k].sources
    shape = tape.steps[k].shape
    return len(shape) == 4 and shape[2] * shape[3] > 1


def _head_rule(convolution: Step, pool: Step, points: Tensor) -> Found:
    """Pooled class maps: a linear layer on pooled channels, then the position of each channel's largest value."""
    (below,) = convolution.inputs
    n, channels, *size = below.shape
    mean = below.float().mean((2, 3))
    linear = Step("linear", "linear", convolution.sources, pool.shape, (mean,), {"weight": _flat(convolution)})
    for source, found in _linear_rule(linear, points, on_map=False):
        best = below.reshape(n * channels, -1).float().argmax(1)
        yield source, found * (size[0] * size[1]) + best[found]


def _flat(step: Step) -> Tensor:
    return step.options["weight"].flatten(1)


def _linear_rule(step: Step, points: Tensor, on_map: bool) -> Found:
    (values,), weight = step.inputs, step.options["weight"]
    outputs, inputs = weight.shape
    image, unit = points // outputs, points % outputs
    if on_map:
        parts = []
        for one in torch.arange(len(points), device=points.device).split(max(1, BUDGET // inputs)):
            best = (values[image[one]].float() * weight[unit[one]].float()).argmax(1)
            parts.append(image[one] * inputs + best)
        yield step.sources[0], torch.cat([*parts, points[:0]])
        return
    asked = torch.zeros(len(values), outputs, device=points.device)
    asked[image, unit] = 1
    up, down = ((asked @ (sign * weight > 0).float()) > 0 for sign in (1, -1))
    yield step.sources[0], ((up & (values > 0)) | (down & (values < 0))).flatten().nonzero()[:, 0]


def _conv_rule(step: Step, points: Tensor, *, locate: bool) -> Found:
    (values,), weight, groups = step.inputs, step.options["weight"], step.options["groups"]
    _, channels, height, width = values.shape
    outputs, each, *kernel = weight.shape
    pads, device = step.options["padding"], points.device
    padded = (
        F.pad(values, (pads[1], pads[1], pads[0], pads[0])).permute(0, 2, 3, 1).contiguous().unflatten(3, (-1, each))
    )
    # with channels last, one point's channels are contiguous
    span = [torch.arange(k, device=device) * d for k, d in zip(kernel, step.options["dilation"], strict=True)]
    parts = []
    for some in points.split(max(1, BUDGET // (each * kernel[0] * kernel[1]))):
        image, unit, i, j = _unravel(some, step.shape)
        top, left = i * step.options["stride"][0], j * step.options["stride"][1]
        rows, columns = top[:, None, None] + span[0][:, None], left[:, None, None] + span[1]
        group = unit // (outputs // groups)
        window = padded[image[:, None, None], rows, columns, group[:, None, None]].float()  # (B, k, l, each)
        adds = (window * weight[unit].permute(0, 2, 3, 1).float()).sum((1, 2))
        if step.options["negative"] is not None:
            adds = torch.where(step.options["negative"][unit, None], -adds, adds)
        best = adds.argmax(1)
        if locate:
            seen = window.gather(3, best[:, None, None, None].expand(-1, *kernel, 1))[..., 0]
            rows, columns = rows - pads[0], columns - pads[1]
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            place = seen.masked_fill(~inside, -torch.inf).flatten(1).argmax(1)
            top = rows[:, :, 0].gather(1, place[:, None] // kernel[1])[:, 0]
            left = columns[:, 0].gather(1, place[:, None] % kernel[1])[:, 0]
        top, left = top.clamp(0, height - 1), left.clamp(0, width - 1)
        parts.append(((image * channels + group * each + best) * height + top) * width + left)
    yield step.sources[0], torch.cat([*parts, points[:0]])


def _pool_rule(step: Step, points: Tensor) -> Found:
    (values,), size = step.inputs, (*step.shape, 1, 1)[2:4]
    if "output_size" in step.options:
        _, winners = F.adaptive_max_pool2d(values, step.options["output_size"], return_indices=True)
    else:
        _, winners = F.max_pool2d(values, **step.options, return_indices=True)
    area = values.shape[2] * values.shape[3]
    yield step.sources[0], points // (size[0] * size[1]) * area + winners.flatten()[points]


def _add_rule(step: Step, points: Tensor) -> Found:
    """Points go to the larger addend; on a tie to the earlier one, which is the shortcut."""
    order = sorted((0, 1), key=lambda k: step.sources[k])
    first, second = (step.inputs[k].reshape(-1)[points] for k in order)
    yield step.sources[order[0]], points[first >= second]
    yield step.sources[order[1]], points[first < second]


def _cat_rule(step: Step, points: Tensor) -> Found:
    image, channel, i, j = _unravel(points, step.shape)
    _, _, height, width = (*step.shape, 1, 1)[:4]
    start = 0
    for source, channels in zip(step.sources, step.options["channels"], strict=True):
        mine = (channel >= start) & (channel < start + channels)
        place = (i * width + j)[mine]
        yield source, (image[mine] * channels + channel[mine] - start) * height * width + place
        start += channels


def _pad_rule(step: Step, points: Tensor) -> Found:
    """Points on the padding move to the nearest position of the map."""
    image, channel, i, j = _unravel(points, step.shape)
    (top, left), (height, width) = step.options["before"], step.options["size"]
    i, j = (i - top).clamp(0, height - 1), (j - left).clamp(0, width - 1)
    yield step.sources[0], ((image * step.shape[1] + channel) * height + i) * width + j


def _same_rule(step: Step, points: Tensor) -> Found:
    yield step.sources[0], points


RULES: Mapping[str, Callable[[Step, Tensor], Found]] = {
    "max_pool2d": _pool_rule,
    "avg_pool2d": _pool_rule,
    "add": _add_rule,
    "cat": _cat_rule,
    "pad": _pad_rule,
    "same": _same_rule,
}


def _unravel(points: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, channel, row and column of positions in a flattened (N, C, h, w) or (N, C) tensor."""
    _, channels, height, width = (*shape, 1, 1)[:4]
    place, column = points // width, points % width
    plane, row = place // height, place % height
    return plane // channels, plane % channels, row, column


def _by_image(owner: Tensor, places: Tensor, count: int) -> list[Tensor]:
    return list(places.split(torch.bincount(owner, minlength=count).tolist()))


def _gaussian(side: int, reach: int, sigma: float, device: torch.device) -> Tensor:
    """(side, side): the matrix that blurs a column of pixels."""
    offset = torch.arange(-reach, reach + 1, device=device)
    kernel = (-(offset.float() ** 2) / (2 * sigma**2)).exp()
    source = (torch.arange(side, device=device)[:, None] + offset).abs()
    source = (side - 1) - ((side - 1) - source).abs()
    matrix = torch.zeros(side, side, device=device)
    return matrix.scatter_add_(1, source, (kernel / kernel.sum()).expand(side, -1))


def _between(some: Tensor) -> Tensor:
    """(N, L) bool, true from each row's first to its last true entry."""
    return (some.cumsum(1) > 0) & (some.flip(1).cumsum(1).flip(1) > 0)
