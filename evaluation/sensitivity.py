r"""How much does a map change when the image changes slightly? Max-sensitivity.

C.-K. Yeh et al., "On the (In)fidelity and Sensitivity of Explanations" (NeurIPS 2019), by random search as in the
authors' code: over `samples` draws of noise u, uniform within `radius` in every value of the input,

$$max\_sensitivity = \max_u \frac{\lVert \Phi(x + u) - \Phi(x) \rVert_2}{\lVert \Phi(x) \rVert_2}$$

and `mean_sensitivity`, the mean over the draws, which depends less on their number. The maps are raw, at the method's
own resolution, for the same class whatever is predicted; noise and `radius` are in units of the image before
normalisation, 0 black and 1 white, without clipping. The draws are the same for all images and methods. A
map that ignores the image does not change: lower is more stable, not more correct.

A map that is constant or not finite, or whose changed version is not finite, has no such ratio: the image is left out,
and n shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.evaluation import states
from eigencam.evaluation.base import Metric, Probe, Row
from eigencam.evaluation.changed_images import rows_with_states
from eigencam.evaluation.sums import Part, Sums, summed

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class MaxSensitivity:
    """Evaluator of max-sensitivity; see the module.

    Attributes:
        radius: radius of the noise, in units of the image's range.
        samples: number of draws; each costs one pass and one map of the method.
        seed: seed of the draws.
    """

    radius: float = 0.05
    samples: int = 10
    seed: int = 0

    version = 1
    summary_version = 1
    headline = ("max_sensitivity", "mean_sensitivity")

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"radius={self.radius}; allowed: more than 0")
        if self.samples < 1:
            raise ValueError(f"samples={self.samples}; allowed: 1 or more")

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """Return `max_sensitivity` and `mean_sensitivity`; NaN without a ratio."""
        import torch

        from eigencam.transfer import made, to_device

        images = probe.images
        (before,) = to_device(images.device, torch.from_numpy(np.ascontiguousarray(maps, np.float32)))
        reach = self.radius * (probe.white - probe.black).float()
        length = before.flatten(1).norm(dim=1)
        ratios = []
        for sample in range(self.samples):
            noise = made(_noise, (self.seed, sample, *images.shape[1:]), images.device, torch.float32)
            after = probe.explain((images + reach * noise).to(images.dtype)).float()
            ratios.append((after - before).flatten(1).norm(dim=1) / length)
        found = torch.stack(ratios)
        columns = {"max_sensitivity": found.amax(0), "mean_sensitivity": found.mean(0)}
        return rows_with_states(columns, [score_map.state for score_map in probe.score_maps])

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row."""
        values = {name: rows[name].to_numpy(np.float64) for name in self.headline}
        without = states.no_map(rows, meant=False)
        parts = {name: np.where(without | ~np.isfinite(v), np.nan, v) for name, v in values.items()}
        return {**parts, "map_state": states.flags(rows)}

    def metrics(self, sums: Sums) -> list[Metric]:
        """The means over images, plain numbers."""
        maps = states.counted(sums.total("map_state"), sums.rows, "maps")
        notes = maps, ""
        return [
            sums.mean(name, name, better="lower", scale=1, note=note)
            for name, note in zip(self.headline, notes, strict=True)
        ]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words = "uniform in each value, in units of 0 black to 1 white; raw maps for the same class"
        rule = "map constant or not finite, before or after: left out, n says of how many"
        return {"evaluator": "max_sensitivity", **asdict(self), "noise": words, "undefined": rule}


def _noise(seed: int, sample: int, *shape: int) -> Tensor:
    """Uniform in -1..1, the same for all images."""
    import torch

    generator = torch.Generator().manual_seed(1_000_003 * seed + sample)
    return 2 * torch.rand(shape, generator=generator) - 1
