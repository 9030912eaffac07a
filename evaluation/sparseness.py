r"""How concentrated is a map? Sparseness and complexity, which need neither the network nor the truth.

With the absolute values $a_1 \le \dots \le a_n$ of a map that is enlarged to the image's own size, without ReLU or
scaling,

$$gini = \frac{\sum_i (2 i - n - 1)\, a_i}{n \sum_i a_i}, \qquad entropy = - \sum_i p_i \ln p_i,
  \quad p_i = a_i / \sum_j a_j$$

`gini` is the sparseness of P. Chalasani et al., "Concise Explanations of Neural Networks using Adversarial Training"
(ICML 2020): 0 for a constant map, 1 - 1/n for a single pixel. `entropy`, in nats, is the complexity of U. Bhatt et al.,
"Evaluating and Aggregating Feature-based Model Explanations" (IJCAI 2020): ln n for a constant map, 0 for a single
pixel; `evenness` is the entropy divided by ln n, for comparing images of different sizes. A map with all its mass in
one wrong pixel is the best in both: they describe what a map looks like, not whether it is right.

A map that is constant or not finite carries no information, and gets the values of a constant one, the worst.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import entr

from eigencam.datasets.base import Truth
from eigencam.evaluation import states
from eigencam.evaluation.base import Metric, Row
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.sums import Part, Sums, summed


@dataclass(frozen=True, slots=True)
class Sparseness:
    """Evaluator of sparseness and complexity; see the module."""

    version = 1
    summary_version = 1
    headline = ("gini", "entropy", "evenness")

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """`gini` in 0..1, `entropy` in nats, `evenness` in 0..1."""
        n = score_map.full.size
        gini, entropy = 0.0, float(np.log(n))
        if score_map.state == "ok":
            values = np.sort(np.abs(score_map.full), axis=None).astype(np.float64)
            values /= values.sum()
            gini = float((2 * np.arange(1, n + 1) - n - 1) @ values) / n
            entropy = float(entr(values).sum())
        evenness = entropy / np.log(n) if n > 1 else 1.0
        return {"gini": gini, "entropy": entropy, "evenness": float(evenness), "map_state": score_map.state}

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row."""
        return {name: rows[name].to_numpy(np.float64) for name in self.headline} | {"map_state": states.flags(rows)}

    def metrics(self, sums: Sums) -> list[Metric]:
        """The means over images: `gini` and `evenness` in percent, `entropy` in nats."""
        note = states.counted(sums.total("map_state"), sums.rows, "maps")
        return [
            sums.mean("gini", "gini", note=note),
            sums.mean("entropy", "entropy", better="lower", scale=1),
            sums.mean("evenness", "evenness", better="lower"),
        ]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def protocol(self) -> Mapping[str, object]:
        """The rule in words."""
        words = "absolute values of the map, enlarged bilinearly to the image's own size"
        return {
            "evaluator": "sparseness",
            "map": words,
            "undefined": "map constant or not finite: gini 0, entropy ln n",
        }
