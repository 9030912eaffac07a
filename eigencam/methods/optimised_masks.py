r"""Masks that are optimised for one image: Meaningful Perturbation and Extremal Perturbations.

X is the normalised image, f the network's output for the class, and m a mask in 0..1 that is 1 where the image is
unchanged and 0 where it is changed most. Both methods optimise a mask of low resolution, which is enlarged and
smoothed.

* Meaningful Perturbation (Fong & Vedaldi, ICCV 2017, arXiv 1704.03296), the smallest deletion:
  $$\min_m\; \lambda_1 \lVert 1 - m \rVert_1 + \lambda_2 \sum \lVert \nabla m \rVert_2^\beta
  + f(\tau[M X + (1 - M)\, g_{10} * X])$$ with f the probability, one value of m for `cell` x `cell` pixels, M the
  enlarged mask smoothed by 5 pixels, $g_{10}$ a blur of the file by 10 of its own pixels and $\tau$ a shift of up
  to 3 pixels, a new one at each of 300 steps of Adam. The first mask deletes the smallest centred disc whose
  blur lowers the class's probability by more than 99 % of what a blur of the whole image does. The map is 1 - M. With
  `top: 5` f is the sum over the five likeliest classes; the paper's boxes were made in this way, with
  $\lambda_1 = 0.001$ and $\beta = 2$.
* Extremal Perturbations (Fong, Patrick & Vedaldi, ICCV 2019), the best preservation by a mask of given area a:
  $$\max_m\; f(X_m) - \lambda_t \operatorname{mean} (\operatorname{sort}(m) - r_a)^2$$ with f the logit and r_a zeros
  followed by ones, which are a share a of its values. At each pixel, $X_m$ interpolates by the mask's value between two
  neighbours in a series of eight images: from a blur of 20 pixels down to none, or faded in from the mean colour. The
  mask at a pixel is the smooth maximum $\sum_k v_k \operatorname{softmax}(20 v)_k$, where v_k is a parameter near the
  pixel times $k(d / \sigma)$, d its distance from the pixel, and $k(z) = \exp(-2 \max(z - \frac12, 0)^2)$. 800
  steps of gradient ascent, rate 0.01, momentum and dampening 0.9, every second one on the mirrored image; $\lambda_t$
  starts at 300 and grows by 0.35 % per step. The map is the sum of the masks of all `areas`, smoothed by a Gaussian of
  `smooth` times the shorter side. `areas` are TorchRay's for VOC; for COCO it has 0.018, 0.025, 0.05, 0.1.

All other sizes are in pixels of the network's input and meant for 224.

Sources: ruthcfong/perturb_explanations@1260ce8 (`optimize_mask.py`, `defaults.py`, `localization.ipynb`), and
facebookresearch/TorchRay@6a198ee (`extremal_perturbation.py`, `attribution_benchmark.py`): every number above is
from these codes. The text of the papers could not be read; a public implementation quotes the first paper for its start
and its shifts, and both are the same here.

Meaningful Perturbation blurs images as files, at their own size, by Pillow's filter. It smooths the mask by the same
filter in 8 bits, and the gradient passes the filter unchanged. All of this is as in its authors' code. The rank
correlation with maps of their loop, rewritten in NumPy with the same shifts, is 0.98 on files of ILSVRC with SqueezeNet
1.1 (median; 0.78 at least), and 1.00 after 20 steps (n = 4, `results/agreement_mask.csv`). Hundreds of steps amplify
rounding.

For Extremal Perturbations, the rank correlation with TorchRay's loop, on files of ILSVRC with MobileNetV2 at 112 pixels
and all in float64, is 0.98 after 20 steps and 0.90 after 60 (medians; 0.94 and 0.88 at least; n = 4;
`results/agreement_perturbation.csv`). The difference is due to ties: the mask starts constant, and rounding decides
which of its equal values count as ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, hypot
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from eigencam.methods.blur import SmoothMax, gaussian_blur, pillow_blur
from eigencam.methods.parameter_checks import at_least
from eigencam.methods.randomness import uniform
from eigencam.passes.calls import evaluating, network_logits
from eigencam.passes.forward import Forward
from eigencam.transfer import constant, to_device, to_host

Perturbation = Literal["blur", "fade"]
Variant = Literal["preserve", "delete", "dual"]

RADII = 5.0
"""Step in pixels between the radii of the discs that Meaningful Perturbation may start from."""

LEVELS, STRONGEST = 8, 20.0
"""Extremal Perturbations: number of images from the most changed to the intact one; the strongest blur in pixels."""


@dataclass(frozen=True, slots=True)
class MeaningfulPerturbation:
    """Meaningful Perturbation.

    Attributes:
        steps: number of steps of Adam, with learning rate `rate`.
        l1: weight of the deleted part.
        tv: weight of the mask's variation, to the power `beta`.
        cell: side, in pixels, of the squares that share a value of the mask.
        smooth: standard deviation of the enlarged mask's smoothing, in pixels.
        blur: standard deviation of the image's blur, in pixels of its file.
        jitter: number of different shifts along each side; 0: none.
        top: lower the probabilities of this many predicted classes; 0: of the requested class.
        seed: seed of the shifts.
    """

    steps: int = 300
    rate: float = 0.1
    l1: float = 1e-4
    tv: float = 1e-2
    beta: float = 3.0
    cell: int = 8
    smooth: float = 5.0
    blur: float = 10.0
    jitter: int = 4
    top: int = 0
    seed: int = 0

    version = 2
    needs_gradient: ClassVar[bool] = False  # its gradient is with respect to the image, not to a layer's output
    differentiates: ClassVar[str] = "image"
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Fong & Vedaldi, ICCV 2017"
    needs: ClassVar[str] = "S + 35 forwards, S backwards"

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "cell", "beta")
        at_least(self, 0, "rate", "l1", "tv", "smooth", "blur", "top")
        at_least(self, 0, "jitter")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32 in 0..1, high where deleting lowers the score."""
        with torch.inference_mode(False), torch.no_grad():
            return self._maps(forward, targets.clone())

    def _maps(self, forward: Forward, targets: Tensor) -> Tensor:
        discs = self.start(forward, targets)
        wanted = forward.logits.topk(min(self.top, forward.logits.shape[1])).indices if self.top else targets[:, None]
        shifts = uniform(forward.index, (self.steps, 2), self.seed)  # on the host, where they are used
        parts = together(forward, len(discs))
        wide = [forward.normalized(x) for x in self._resized(forward, self.jitter)]
        return torch.cat([self._descend(forward, [x[n] for x in wide], wanted[n], discs[n], shifts[n]) for n in parts])

    def start(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W): the smallest centred disc whose blur causes over 99 % of the drop by a blur of everything."""
        images, n, size = forward.images.float(), len(forward), tuple(forward.images.shape[2:])
        blurred, side = forward.normalized(self._resized(forward, 0)[1]), hypot(*size) / 2 + self.blur + RADII
        discs = gaussian_blur(circles(size, torch.arange(0, side, RADII, device=images.device)), self.blur, "reflect")

        def deleted(part: slice) -> Tensor:
            place = torch.arange(part.start, part.stop, device=images.device)
            return torch.lerp(images[place % n], blurred[place % n], discs[place // n, None])

        scores = forward.predict(len(discs) * n, deleted).softmax(1)
        scores = scores.gather(1, targets.repeat(len(discs))[:, None]).view(len(discs), n)
        intact = forward.logits.softmax(1).gather(1, targets[:, None])[:, 0]
        enough = (scores - scores[-1]) / (intact - scores[-1]) < 0.01
        enough[-1] = True
        return discs[enough.int().argmax(0)]

    def _resized(self, forward: Forward, more: int) -> tuple[Tensor, Tensor]:
        """The files and the blurred files at the network's input size plus `more` pixels, (N, 3, H', W') uint8.

        Without files, or if the network sees a border around them, the network's input images are blurred as much
        as the files would be.
        """
        h, w = forward.images.shape[2:]
        clear, dull = [], []
        bordered = any(min(x0, y0) < 0 for x0, y0, _, _ in forward.regions)
        shown = to_host(forward.pixels)()[0] if forward.original is None or bordered else torch.empty(0)
        for n in range(len(forward)):
            region = forward.regions[n] if forward.regions else (0.0, 0.0, float(w), float(h))
            if forward.original is not None and not bordered:
                image, radius = forward.original(n), (self.blur, self.blur)
            else:
                image = shown[n].permute(1, 2, 0).numpy()
                radius = (self.blur * w / (region[2] - region[0]), self.blur * h / (region[3] - region[1]))
                region = None
            bands = [Image.fromarray(band) for band in np.moveaxis(image, 2, 0)]
            blurred = [band.filter(ImageFilter.GaussianBlur(radius)) for band in bands]
            for into, some in ((clear, bands), (dull, blurred)):
                resized = [band.resize((w + more, h + more), Image.Resampling.BILINEAR, region) for band in some]
                into.append(torch.from_numpy(np.stack([np.asarray(band) for band in resized])))
        on_device = to_device(forward.images.device, torch.stack(clear), torch.stack(dull))
        return on_device[0], on_device[1]

    def _descend(
        self, forward: Forward, wide: Sequence[Tensor], wanted: Tensor, disc: Tensor, shifts: Tensor
    ) -> Tensor:
        (h, w), dtype = forward.images.shape[2:], forward.images.dtype
        corners = (shifts * self.jitter).long().tolist()  # B, steps, 2

        def enlarged(mask: Tensor) -> Tensor:
            return mask.repeat_interleave(self.cell, 1).repeat_interleave(self.cell, 2)[:, :h, :w]

        def energy(mask: Tensor, step: int) -> Tensor:
            hard = enlarged(mask)
            soft = hard + (pillow_blur(hard.detach(), self.smooth) - hard.detach())  # the gradient skips the filter
            clear, dull = (_crop(x, [c[step] for c in corners], (h, w)) for x in wide)
            logits = network_logits(forward.module, torch.lerp(dull, clear, soft[:, None]).to(dtype))
            scores = logits.float().softmax(1).gather(1, wanted)
            return scores.sum() + self.l1 * (1 - mask).abs().sum() + self.tv * variation(mask, self.beta).sum()

        rows, columns = (
            (torch.arange(0, x, self.cell, device=disc.device) + self.cell // 2).clamp(max=x - 1) for x in (h, w)
        )
        found = descend(
            forward,
            stretched(1 - disc)[:, rows][:, :, columns],  # at the centres of the cells
            lambda mask: torch.optim.Adam([mask], lr=self.rate),
            energy,
            self.steps,
            inputs=len(disc),
        )
        return 1 - pillow_blur(enlarged(found), self.smooth)


@dataclass(frozen=True, slots=True)
class ExtremalPerturbation:
    """Extremal Perturbations.

    Attributes:
        areas: the masks' areas, as shares of the image with its margin; one mask for each.
        steps: number of steps of gradient ascent.
        perturbation: `blur`, or `fade` to the mean colour.
        variant: `preserve` an area such that the logit is high, `delete` one such that it is low, or `dual`: an area
            that does both.
        cell: pixels between the mask's parameters.
        sigma: radius of a parameter's influence in pixels.
        smooth: standard deviation of the sum's smoothing, as a share of the shorter side.
    """

    areas: Sequence[float] = (0.025, 0.05, 0.1, 0.2)
    steps: int = 800
    perturbation: Perturbation = "blur"
    variant: Variant = "preserve"
    cell: int = 7
    sigma: float = 21.0
    smooth: float = 0.09

    version = 1
    needs_gradient: ClassVar[bool] = False
    differentiates: ClassVar[str] = "image"
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Fong et al., ICCV 2019"
    needs: ClassVar[str] = "A S forwards, A S backwards for A areas"

    def __post_init__(self) -> None:
        for name, kinds in (("perturbation", Perturbation), ("variant", Variant)):
            if (value := getattr(self, name)) not in get_args(kinds):
                raise ValueError(f"{name}={value!r}; allowed: {', '.join(get_args(kinds))}")
        if not self.areas or not all(0 < area < 1 for area in self.areas):
            raise ValueError(f"areas={list(self.areas)}; allowed: one or more, each 0 < a < 1")
        at_least(self, 1, "steps", "cell", "sigma")
        near, far = ceil(self.sigma / self.cell), ceil(2 * self.sigma / self.cell)
        if self.cell * (2 * (far - near) - 1) + 1 < round(self.sigma):  # too small for image and margin
            raise ValueError(f"cell={self.cell}, sigma={self.sigma}; allowed: e.g. a cell below 2/3 of sigma")
        at_least(self, 0, "smooth")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32 from 0 to the number of areas, high where keeping raises (or deleting lowers) the logit."""
        masks = self.masks(forward, targets).sum(1)
        return gaussian_blur(masks, self.smooth * min(masks.shape[1:]), "zero")

    def masks(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, areas, H, W) float32 in 0..1."""
        count = len(self.areas)
        with torch.inference_mode(False), torch.no_grad():
            images, classes = forward.images.float(), targets.clone()
            places = torch.arange(len(images) * count, device=images.device)
            some = [places[part] for part in together(forward, len(places))]
            parts = [self._ascend(forward, images[k // count], classes[k // count], k % count) for k in some]
        return torch.cat(parts).unflatten(0, (len(images), count))

    def _ascend(self, forward: Forward, images: Tensor, targets: Tensor, areas: Tensor) -> Tensor:
        h, w = images.shape[2:]
        levels = pyramid(images, self.perturbation)
        pool = SmoothMax((h, w), self.cell, self.sigma, images)
        inner = slice(pool.margin, None)
        count = pool.size[0] * pool.size[1]  # an area is a share of the image including the margin
        zeros = constant(tuple(int(count * (1 - area)) for area in self.areas), images.device)[areas]

        def score(masks: Tensor, step: int) -> Tensor:
            shown = perturbed(levels, masks).to(forward.images.dtype)
            logits = network_logits(forward.module, shown.flip(3) if step % 2 == 0 else shown)
            return logits.float().gather(1, targets[:, None]).sum()

        def energy(parameters: Tensor, step: int) -> Tensor:
            masks = pool(parameters)
            inside = masks[:, inner, inner][:, :h, :w]
            total = 300 * 1.0035**step * misfit(masks, zeros).sum()
            if self.variant != "delete":
                total = total - score(inside, step)
            return total if self.variant == "preserve" else total + score(1 - inside, step)

        found = descend(
            forward,
            images.new_ones(len(images), *(ceil(side / self.cell) for side in (h, w))),
            lambda p: torch.optim.SGD([p], lr=0.01, momentum=0.9, dampening=0.9),
            energy,
            self.steps,
            inputs=len(images) * (2 if self.variant == "dual" else 1),
        )
        return pool(found)[:, inner, inner][:, :h, :w]


def together(forward: Forward, count: int) -> Sequence[slice]:
    """Which of `count` masks are optimised together: a chunk; on a CPU, which gains little from batches, each alone.

    A batch's size changes the network's rounding, and hundreds of steps amplify it. Alone, a map does not depend on
    the batch at all.
    """
    step = 1 if forward.images.device.type == "cpu" else forward.chunk
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def descend(
    forward: Forward,
    start: Tensor,
    optimizer: Callable[[Tensor], torch.optim.Optimizer],
    energy: Callable[[Tensor, int], Tensor],
    steps: int,
    inputs: int,
) -> Tensor:
    """The mask after all steps, each followed by clipping to 0..1; progress counts `inputs` of the network per step."""
    with evaluating(forward.module), torch.enable_grad():
        mask = nn.Parameter(start.clone())
        stepper = optimizer(mask)
        for step in range(steps):
            stepper.zero_grad()
            energy(mask, step).backward()
            stepper.step()
            mask.data.clamp_(0, 1)
            forward.progress(inputs)
    return mask.detach()


def misfit(masks: Tensor, zeros: Tensor) -> Tensor:
    """(N,): mean squared difference between each mask's sorted values and zeros followed by ones.

    Args:
        masks: (N, h, w).
        zeros: (N,), the number of zeros for each mask.
    """
    values = masks.flatten(1).sort(1).values
    ideal = torch.arange(values.shape[1], device=masks.device) >= zeros[:, None]
    return (values - ideal.to(values)).square().mean(1)


def variation(masks: Tensor, beta: float) -> Tensor:
    """(N,) of (N, h, w): the sum of the gradient's norm to the power `beta`, by forward differences."""
    down, right = F.pad(masks.diff(dim=1), (0, 0, 0, 1)), F.pad(masks.diff(dim=2), (0, 1))
    # the minimum is far below any difference in a mask, and keeps the gradient of the power finite at 0
    return (down.square() + right.square()).clamp(min=1e-10).pow(beta / 2).sum((1, 2))


def stretched(masks: Tensor) -> Tensor:
    """(N, h, w) stretched to 0..1 in 8 bits; a constant mask becomes 0."""
    low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    return ((masks - low) * 255 / torch.where(high > low, high - low, 1.0) + 0.5).floor() / 255


def circles(size: tuple[int, ...], radii: Tensor) -> Tensor:
    """(R, H, W) float32: 1 within each radius of the centre pixel."""
    y, x = (torch.arange(side, device=radii.device) - side // 2 for side in size)
    return ((y**2)[:, None] + x**2 <= (radii**2)[:, None, None]).float()


def pyramid(images: Tensor, how: Perturbation) -> Tensor:
    """(N, levels, 3, H, W): from the most changed image to the intact one."""
    shares = [level / (LEVELS - 1) for level in range(LEVELS)]
    if how == "fade":
        return torch.stack([share * images for share in shares], 1)
    return torch.stack([gaussian_blur(images, (1 - share) * STRONGEST, "zero") for share in shares], 1)


def perturbed(levels: Tensor, masks: Tensor) -> Tensor:
    """(N, 3, H, W): each pixel interpolated between the two levels nearest to its mask's value.

    Args:
        levels: (N, levels, 3, H, W).
        masks: (N, H, W) in 0..1, from the first level to the last.
    """
    height = masks[:, None] * (LEVELS - 1)
    below = height.detach().floor().clamp(0, LEVELS - 2)
    index = below.long()[:, None].expand(-1, 1, *levels.shape[2:])
    low, high = levels.gather(1, index)[:, 0], levels.gather(1, index + 1)[:, 0]
    return torch.lerp(low, high, height - below)


def _crop(x: Tensor, corners: Sequence[Sequence[int]], size: tuple[int, int]) -> Tensor:
    return torch.stack([p[:, y : y + size[0], x0 : x0 + size[1]] for p, (y, x0) in zip(x, corners, strict=True)])
