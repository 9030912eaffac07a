r"""How well does a map predict the drops of the logit? Infidelity.

C.-K. Yeh et al., "On the (In)fidelity and Sensitivity of Explanations" (NeurIPS 2019). The image is divided into
`cells` x `cells` blocks, and each block k is removed alone. With the drop $d_k = f(x) - f(x_{-k})$ of the class's logit
and the map's value $s_k$ of the block,

$$infidelity = \operatorname{mean}_k (s_k - d_k)^2, \qquad
  infidelity\_scaled = \min_{\beta \ge 0} \operatorname{mean}_k (\beta s_k - d_k)^2$$

and `infidelity_share` is the latter divided by $\operatorname{mean}_k d_k^2$: the unexplained share of the drops,
0 to 100 %, whatever the units of map and logits. Except for attributions that sum to the logit, maps have units of
their own, so this is the number for comparing methods. A map of opposite sign explains nothing.

`reading` defines $s_k$, from the map enlarged bilinearly to the network's input. With `contribution` (class-activation
maps, gradient x input, relevance) it is the sum of the map over the block. With `slope` (gradients; the paper's
formula) it is the sum of the map times the change of the input, summed over colours.

Removed blocks are filled: `black` (the paper), `mean` (0 after normalisation) or `blur`. The changed images depend on
no map and no class, so they go through the network once for all methods.

If the map is constant or not finite, or logits are constant or not finite, or no block changes the logit, the
share counts as 100 %; an undefined map has the scaled infidelity of a zero map. `infidelity` has no worst
value: such an image is left out, and n shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.evaluation import states
from eigencam.evaluation.base import Metric, Probe, Row
from eigencam.evaluation.changed_images import Fill, filling, rows_with_states, variant_and_image
from eigencam.evaluation.missing_predictions import footnote_parts, mean, note, value_parts
from eigencam.evaluation.sums import Part, Sums, summed

if TYPE_CHECKING:
    from torch import Tensor

Reading = Literal["contribution", "slope"]


@dataclass(frozen=True, slots=True)
class Infidelity:
    """Evaluator of infidelity; see the module.

    Attributes:
        cells: blocks along each side.
        fill: what a removed block becomes: `black`, `mean` or `blur`.
        reading: meaning of a map's values: `contribution` or `slope`.
    """

    cells: int = 7
    fill: Fill = "black"
    reading: Reading = "contribution"

    version = 1
    summary_version = 1
    headline = ("infidelity_share", "infidelity_scaled", "infidelity")

    def __post_init__(self) -> None:
        if self.cells < 2:
            raise ValueError(f"cells={self.cells}; allowed: 2 or more")
        for name, value, kinds in (("fill", self.fill, Fill), ("reading", self.reading, Reading)):
            if value not in get_args(kinds):
                raise ValueError(f"{name}={value!r}; allowed: {', '.join(get_args(kinds))}")

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """Return `infidelity`, the mean squares `map_square` of s and `drop_square` of d, and their mean `product`."""
        if self.cells > min(probe.images.shape[2:]):
            raise ValueError(
                f"cells={self.cells}; allowed: no more than the {min(probe.images.shape[2:])} input pixels"
            )
        said, drops = self._said(maps, probe), self._drops(probe)
        columns = {
            "infidelity": (said - drops).square().mean(1),
            "map_square": said.square().mean(1),
            "product": (said * drops).mean(1),
            "drop_square": drops.square().mean(1),
        }
        return rows_with_states(columns, [score_map.state for score_map in probe.score_maps])

    def _drops(self, probe: Probe) -> Tensor:
        """(N, B): by how much the class's logit drops without each block."""
        import torch

        n, blocks, base = len(probe.images), self.cells**2, filling(probe, self.fill)
        lines, columns = self._members(probe)

        def inputs(part: slice) -> Tensor:
            which, i = variant_and_image(part, n, base.device)
            gone = lines[which // self.cells][:, :, None] * columns[which % self.cells][:, None]
            return torch.where(gone[:, None] > 0, base[i], probe.images[i])

        def make() -> Tensor:
            return probe.predict(blocks * n, inputs).view(blocks, n, -1)

        logits = probe.shared(("without a block", self.cells, self.fill), make)
        targets = probe.targets[:, None]
        return probe.logits.gather(1, targets) - logits.gather(2, targets.expand(blocks, n, 1))[..., 0].T

    def _said(self, maps: NDArray[np.float32], probe: Probe) -> Tensor:
        """(N, B): the map's value of each block."""
        import torch
        import torch.nn.functional as F

        from eigencam.transfer import to_device

        (m,) = to_device(probe.images.device, torch.from_numpy(np.ascontiguousarray(maps, np.float32)))
        m = F.interpolate(m[:, None], probe.images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        if self.reading == "slope":
            m = m * (probe.images - filling(probe, self.fill)).float().sum(1)
        lines, columns = self._members(probe)
        return (lines @ m @ columns.T).flatten(1)

    def _members(self, probe: Probe) -> tuple[Tensor, Tensor]:
        """(cells, H) and (cells, W) float32: 1 where a line or a column of pixels belongs to a block."""
        import torch

        from eigencam.transfer import made

        height, width = (
            made(_members, (side, self.cells), probe.images.device, torch.float32) for side in probe.images.shape[2:]
        )
        return height, width

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row to the three means."""
        raw, s, sd, d = (rows[name].to_numpy(np.float64) for name in (
            "infidelity", "map_square", "product", "drop_square",
        ))  # fmt: skip
        no_map, usable = states.no_map(rows, meant=False), np.isfinite(d) & (d > 0)
        with np.errstate(invalid="ignore", over="ignore"):
            explained = np.where(s > 0, np.maximum(sd, 0) ** 2 / np.where(s > 0, s, 1.0), 0.0)
        explained = np.where(no_map | ~np.isfinite(explained), 0.0, np.minimum(explained, d))
        share = 1 - np.divide(explained, d, out=np.full_like(d, np.nan), where=usable)
        answered = np.isfinite(d) & ~states.no_answer(rows)
        return {
            **footnote_parts(rows, np.where(usable, d, np.nan)),
            **value_parts(rows, "infidelity_share", share, 1),
            "infidelity_scaled": np.where(answered, d - explained, np.nan),
            "infidelity": np.where(answered & ~no_map & np.isfinite(raw), raw, np.nan),
        }

    def metrics(self, sums: Sums) -> list[Metric]:
        """`infidelity_share` in percent, `infidelity_scaled` and `infidelity` in squares of logits."""
        return [
            mean(sums, "infidelity_share", better="lower", note=note(sums)),
            sums.mean("infidelity_scaled", "infidelity_scaled", better="lower", scale=1),
            sums.mean("infidelity", "infidelity", better="lower", scale=1),
        ]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words = f"each of {self.cells} x {self.cells} blocks removed alone; logit of the map's class"
        rule = (
            "map constant or not finite, no finite answer of the network, or no block that matters: share 100 %; "
            "infidelity: left out"
        )
        return {"evaluator": "infidelity", **asdict(self), "perturbation": words, "undefined": rule}


def _members(side: int, cells: int) -> Tensor:
    """(cells, side): 1 where a pixel belongs to a block."""
    import torch

    return (torch.arange(side) * cells // side == torch.arange(cells)[:, None]).float()
