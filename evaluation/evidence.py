r"""How much of a map lies where the evidence is known to be: grid pointing, mass and rank accuracy.

With the map enlarged bilinearly to the image's own size, $m^+$ its positive part, and S the pixels of the
evidence,

$$mass\_inside = \sum_{S} m^+ / \sum m^+, \qquad
  rank\_inside = |\text{the } |S| \text{ highest pixels} \cap S| / |S|$$

* `grid_pointing`: on mosaics of images of distinct classes (`dataset=scenes_grid`), whose boxes are their cells, with
  `target=each`: `mass_inside` is the score of GridPG (M. Böhle et al., "Convolutional Dynamic Alignment Networks for
  Interpretable Classifications", CVPR 2021). If the logits of each class depend on its own cell only
  (`model=scenes_resnet_cells dataset=scenes_grid_cells`), it is that of DiFull (S. Rao et al., "Towards Better
  Understanding Attribution Methods", CVPR 2022). A uniform map has 1 / n^2 on mosaics of n x n.
* `evidence`: against masks: mass and rank accuracy of L. Arras et al., "CLEVR-XAI" (Information Fusion 2022); on
  `dataset=planted model=planted`, where only the mask's pixels can change the class's logit.

Negative values of a map do not count as mass. Pixels that tie with the last of the |S| highest ones share the places
that are left. A map that is not finite, or constant without being meant to be, has nothing inside by either metric; one
without positive values has no mass inside. An image without a target object is left out.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import Truth
from eigencam.evaluation import states
from eigencam.evaluation.base import Metric, Row
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.pointing import fill
from eigencam.evaluation.sums import Part, Sums, summed

Objects = Literal["boxes", "mask"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evaluator of the share of a map inside the known evidence; see the module.

    Attributes:
        objects: the evidence: the `boxes` of the target object, or its `mask`.
    """

    objects: Objects = "boxes"

    version = 1
    summary_version = 1
    headline = ("mass_inside", "rank_inside")

    def __post_init__(self) -> None:
        if self.objects not in get_args(Objects):
            raise ValueError(f"objects={self.objects!r}; allowed: {', '.join(get_args(Objects))}")

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """`mass` and `rank`, 0..1; NaN without a target object."""
        if self.objects == "mask" and truth.mask is None:
            raise ValueError(f"{truth.image_id}: the dataset has no masks; set objects=boxes")
        key = ("evidence", self.objects, truth.label, truth.foreground)
        inside = score_map.of_image(key, lambda: self._inside(truth))
        count = int(np.count_nonzero(inside))
        if not count:
            return {"mass": np.nan, "rank": np.nan, "map_state": score_map.state}
        if score_map.state == "nonfinite":
            return {"mass": 0.0, "rank": 0.0, "map_state": score_map.state}
        full = score_map.full
        positive = np.maximum(full, 0)
        within = float(positive[inside].sum(dtype=np.float64))
        total = within + float(positive[~inside].sum(dtype=np.float64))
        mass = within / total if total > 0 else 0.0
        return {"mass": mass, "rank": _rank(full, inside, count), "map_state": score_map.state}

    def _inside(self, truth: Truth) -> NDArray[np.bool_]:
        return truth.sought_pixels() if self.objects == "mask" else fill(truth.boxes[truth.sought()], truth.size)

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row."""
        found = states.at_worst(rows, mass=0.0, rank=0.0)
        return {name: found[name].to_numpy(np.float64) for name in ("mass", "rank")} | {"map_state": states.flags(rows)}

    def metrics(self, sums: Sums) -> list[Metric]:
        """`mass_inside` and `rank_inside`, means over images, or over images' classes, in percent."""
        note = states.counted(sums.total("map_state"), sums.rows, "maps")
        return [sums.mean("mass_inside", "mass", note=note), sums.mean("rank_inside", "rank")]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words = "what is positive of the map, enlarged bilinearly to the image's own size"
        rule = "map constant or not finite: nothing inside"
        return {"evaluator": "evidence", **asdict(self), "map": words, "undefined": rule}


def _rank(full: NDArray[np.float32], inside: NDArray[np.bool_], count: int) -> float:
    """Share of the `count` highest values that are inside; ties with the last one share the remaining places."""
    last = np.partition(full, full.size - count, axis=None)[full.size - count]
    above, ties = full > last, full == last
    room = (count - np.count_nonzero(above)) / np.count_nonzero(ties)
    return float(np.count_nonzero(above & inside) + room * np.count_nonzero(ties & inside)) / count
