r"""Expected Gradients: integrated gradients from images of the dataset instead of a chosen colour.

Expected Gradients (Erion et al., Nature Machine Intelligence 2021): with references x' drawn from the dataset and t
uniform in 0..1 for each,

$$\phi = \operatorname{mean}_{x'}\, (x - x') \odot \nabla f\big(x' + t (x - x')\big), \qquad
  E \sum \phi = f(x) - \operatorname{mean}_{x'} f(x')$$

f is the class's logit. The estimate is unbiased; `Completeness` gives the error of its sum and its
standard error. GradientSHAP (Lundberg & Lee, NeurIPS 2017; Captum) is the same with noise on the image: `sigma`, as a
share of the image's range; 0 in both codes by default.

The references are `references` images of the dataset, drawn once without replacement and the same for all images; each
image meets each of them once, at its own t. The dataset is that of the run, or the evaluated subset of it.
Without a dataset, as for your own images in `explain`, the method is refused; `Explainer` takes `references` instead.

`reduce` combines the three channels: `sum` (signed), `max` of the absolute values or `l2`.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from eigencam.methods.input_gradients import REDUCES, Reduce, image_gradients, reduced
from eigencam.methods.parameter_checks import at_least, one_of
from eigencam.methods.randomness import normal, uniform
from eigencam.passes.forward import Forward
from eigencam.transfer import to_device


@dataclass(frozen=True, slots=True)
class Completeness:
    """How well the sums of Expected Gradients match what they estimate, for N images, float32.

    Attributes:
        sums: (N,) the attributions' sums.
        differences: (N,) the logit minus the references' mean logit.
        errors: (N,) standard error of the sum.
    """

    sums: Tensor
    differences: Tensor
    errors: Tensor


@dataclass(frozen=True, slots=True)
class ExpectedGradients:
    """Expected Gradients with `references` references; with `sigma`, GradientSHAP."""

    references: int = 50
    sigma: float = 0.0
    reduce: Reduce = "sum"
    seed: int = 0

    version = 1
    needs_gradient: ClassVar[bool] = False  # not of a layer
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Erion et al., Nature Machine Intelligence 2021"
    needs: ClassVar[str] = "R + 1 forwards, R backwards; R images of the dataset"
    networks: ClassVar[str] = "differentiable, without jumps"
    differentiates: ClassVar[str] = "image"
    needs_smooth: ClassVar[bool] = True
    draws_references: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(self, 1, "references")
        at_least(self, 0, "sigma")
        one_of(self, "reduce", REDUCES)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32."""
        return reduced(self.attributions(forward, targets)[0], self.reduce)

    def completeness(self, forward: Forward, targets: Tensor) -> Completeness:
        """Compare the sums with what they estimate, at the cost of R more forward passes."""
        sums = self.attributions(forward, targets)[1]
        background = self.background(forward)
        of_references = forward.predict(len(background), lambda part: background[part])[:, targets].mean(0)
        logits = forward.logits.gather(1, targets[:, None])[:, 0]
        return Completeness(sums.mean(0), logits - of_references, sums.std(0) / len(sums) ** 0.5)

    def attributions(self, forward: Forward, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) mean attributions, and (R, N) their sums by reference."""
        images = forward.images.float()
        spread = self.sigma * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
        background = self.background(forward)
        share = uniform(forward.seeds, (len(background),), 2 * self.seed)
        total, sums = torch.zeros_like(images), list[Tensor]()
        for k, reference in enumerate(background.float()):
            x = images
            if self.sigma:
                noise = normal(forward.seeds, tuple(images.shape[1:]), 2 * (self.seed * len(background) + k) + 1)
                x = images + spread * noise
            away = x - reference
            part = away * image_gradients(forward, targets, reference + share[:, k, None, None, None] * away)
            total += part / len(background)
            sums.append(part.sum((1, 2, 3)))
        return total, torch.stack(sums)

    def background(self, forward: Forward) -> Tensor:
        """(R, 3, H, W) the references as the network sees them; decoded once per pass."""
        return forward.shared(("background", self.references, self.seed), lambda: self._background(forward))

    def _background(self, forward: Forward) -> Tensor:
        if forward.population is None:
            raise ValueError(
                "Expected Gradients draws its references from the dataset, and there is none here; run it on a dataset"
            )
        count, image = forward.population
        keys = uniform(torch.zeros(1, dtype=torch.long), (count,), 2 * self.seed)[0]
        chosen = keys.argsort(stable=True)[: self.references].sort().values
        pixels = torch.from_numpy(np.stack([image(k) for k in chosen.tolist()]))
        (on_device,) = to_device(forward.images.device, pixels)
        return forward.normalized(on_device).to(forward.images.dtype)
