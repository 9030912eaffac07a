"""Sanity checks: does a map depend on what the network has learnt?

J. Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018. A map of the trained network is compared with the
same method's map, for the same image and class,

* `Randomization` (section 3.2): in networks whose layers are reinitialised, from the output down, more with each
  stage (`cascading`), or one stage at a time (`independent`);
* `LabelRandomization` (section 3.3): in a network trained on permuted labels.

The rank correlation is over the raw maps, once of the values and once of absolute values, as in the paper. SSIM and HOG
are optional and use maps enlarged to the network's input (see `evaluation/similarity.py`). A map that stays
similar depends on the image more than on the network: lower is better. A method that reads only layers in front of the
changed ones keeps its map; for a class-agnostic map this is by construction, not a fault.

An image in which one of the maps is constant or not finite has no similarity there, and is left out of that
stage's mean; `_mean` averages, for each image, the stages in which it is included. n says how many count, and a method
that misses images that others have is not marked as best. The maps are for the classes that the run requests, whatever
a randomised network predicts; if the predicted class is requested and there is no prediction, there is no map.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.evaluation import similarity, states
from eigencam.evaluation.base import Metric, Probe, Row
from eigencam.evaluation.sums import Part, Sums, summed

Order = Literal["cascading", "independent"]
ORDERS: tuple[Order, ...] = ("cascading", "independent")
RANKS = ("rank", "rank_abs")
MEASURES = (*RANKS, "ssim", "hog")
LEFT_OUT = "a pair with a map that is constant or not finite: left out, n says of how many"


@dataclass(frozen=True, slots=True)
class Randomization:
    """Evaluator of parameter randomisation; see the module.

    Attributes:
        order: `cascading` or `independent`.
        stages: number of groups of layers: first the output layer, then roughly equal groups; 0: every layer is a
            stage.
        seed: seed of the new weights.
        structure: whether to compute SSIM and HOG, too.
    """

    order: Order = "cascading"
    stages: int = 6
    seed: int = 0
    structure: bool = False

    version = 1
    summary_version = 1
    headline = (
        *("rank_output", "rank_mean", "rank_last", "rank_abs_output", "rank_abs_mean", "rank_abs_last"),
        *("ssim_mean", "hog_mean"),
    )

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order={self.order!r}; allowed: {', '.join(ORDERS)}")
        if self.stages < 0:
            raise ValueError(f"stages={self.stages}; allowed: 0 (every layer), 1, 2, ...")

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """`rank`, `rank_abs` and with `structure` `ssim`, `hog`: (stages,) float64; `stages`, the layers' names."""
        found = probe.randomised(self.order, self.stages, self.seed)
        alike = [_alike(maps, other, self.structure, tuple(probe.images.shape[2:])) for _, other in found]
        stages = " ".join(name for name, _ in found)
        return [
            {
                **{measure: np.array([stage[measure][n] for stage in alike]) for measure in alike[0]},
                "stages": stages,
                "map_state": score_map.state,
            }
            for n, score_map in enumerate(probe.score_maps)
        ]

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row: each measure at each stage, and its mean over the stages."""
        parts: dict[str, Part] = {"map_state": states.flags(rows), "stages": str(rows["stages"].iloc[0])}
        for measure in [m for m in MEASURES if m in rows]:
            values = np.stack(rows[measure].to_numpy()).astype(np.float64)
            defined = ~np.isnan(values).all(axis=1)
            means = np.full(len(values), np.nan)
            means[defined] = np.nanmean(values[defined], axis=1)
            parts |= {f"{measure}_mean": means} | {f"{measure}_{k + 1}": column for k, column in enumerate(values.T)}
        return parts

    def metrics(self, sums: Sums) -> list[Metric]:
        """For each measure: `_output` (only the output layer is new), `_last`, `_mean` over stages, `_1`, `_2`, ..."""
        names = sums.text("stages").split(" ")
        to = "down to" if self.order == "cascading" else "at"
        stages = [(str(k + 1), str(k + 1), f"new weights {to} {name}") for k, name in enumerate(names)]
        ends = [("output", "1", f"new weights at {names[0]}"), ("mean", "mean", ""), ("last", *stages[-1][1:])]
        metrics = [
            sums.mean(f"{measure}_{suffix}", f"{measure}_{part}", threshold=at, better="lower", scale=1)
            for measure in MEASURES
            if f"{measure}_mean" in sums
            for suffix, part, at in ends + stages
        ]
        return [replace(metrics[0], note=states.noted(sums)), *metrics[1:]]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words = "each layer's own initialisation, running statistics too; the class of the trained network's map"
        return {"evaluator": "randomization", **asdict(self), "weights": words, "undefined": LEFT_OUT}


@dataclass(frozen=True, slots=True)
class LabelRandomization:
    """Evaluator of label randomisation; see the module.

    Attributes:
        weights: file of a network of the same architecture, trained on permuted labels.
        structure: whether to compute SSIM and HOG, too.
    """

    weights: str
    structure: bool = False

    version = 1
    summary_version = 1
    headline = ("rank", "rank_abs", "ssim", "hog")

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """`rank`, `rank_abs` and with `structure` `ssim`, `hog`."""
        other = probe.reweighted(self.weights)
        alike = _alike(maps, other, self.structure, tuple(probe.images.shape[2:]))
        return [
            {**{measure: float(values[n]) for measure, values in alike.items()}, "map_state": score_map.state}
            for n, score_map in enumerate(probe.score_maps)
        ]

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row: each measure."""
        measures = [measure for measure in MEASURES if measure in rows]
        return {"map_state": states.flags(rows)} | {name: rows[name].to_numpy(np.float64) for name in measures}

    def metrics(self, sums: Sums) -> list[Metric]:
        """The mean of each measure."""
        metrics = [sums.mean(name, name, better="lower", scale=1) for name in MEASURES if name in sums]
        return [replace(metrics[0], note=states.noted(sums)), *metrics[1:]]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        whose = "that of the trained network's map"
        return {"evaluator": "label_randomization", **asdict(self), "class": whose, "undefined": LEFT_OUT}


def _alike(
    a: NDArray[np.float32], b: NDArray[np.float32], structure: bool, size: tuple[int, ...]
) -> dict[str, NDArray[np.float64]]:
    """(N,) values of each measure."""
    import torch
    import torch.nn.functional as F

    found = {name: similarity.rank_correlation(a, b, absolute=name == "rank_abs") for name in RANKS}
    if structure:
        x, y = (
            F.interpolate(torch.from_numpy(m)[:, None], size, mode="bilinear", align_corners=False)[:, 0].numpy()
            for m in (a, b)
        )
        found |= {"ssim": similarity.ssim(x, y), "hog": similarity.hog(x, y)}
    return found
