r"""Does the network rely on what the map shows? Metrics that run the network on changed images.

Y and O are the softmax probabilities of the map's class for the image and for the changed image.

* Average drop and increase in confidence (Chattopadhay et al., "Grad-CAM++", WACV 2018), for the image weighted with
  the map m, scaled to 0..1 and enlarged bilinearly. As in L-CAM (Gkartzonika et al., ECCV Workshops 2022), a share p of
  the pixels, the highest ones, keep their value in m, and all others are set to 0.

  $$AD_p = 100\,\operatorname{mean}\frac{\max(0, Y - O_p)}{Y}, \qquad IC_p = 100\,\operatorname{mean}[O_p > Y]$$

  Removed pixels are filled: `black` (the image before normalisation, L-CAM), `mean` (0 after it, most libraries)
  or `blur`.
* Deletion and insertion (Petsiuk et al., "RISE", BMVC 2018): the area under the curve of the probability while pixels
  are removed in the order of descending m (to the mean colour), or inserted into a blurred image (the kernel of the
  authors' code: 11 x 11, sigma 5 reflected into it, zeros beyond the border). Pixels of equal value are in raster
  order, the steps are equal shares, and both ends count.
* ROAD (Rong et al., ICML 2022): the same at four shares, with removed pixels filled from their neighbours (the
  solution of a linear system, weights 1/6 and 1/12 for the 8 neighbours, and noise of 0.01), most relevant first and
  least relevant first; the number is half the mean difference (LeRF - MoRF), as in pytorch-grad-cam.
* Coherency, complexity and ADCC (Poppi et al., CVPR Workshops 2021): coherency (r + 1) / 2 with Pearson's r of the map
  and the same method's map of the image weighted with it; complexity the mean of m; ADCC the harmonic mean of
  coherency, 1 - complexity and 1 - average drop, of each image.

The share of images in which a method has the smallest drop, "win" in Grad-CAM++, needs the rows of several methods:
`eigencam table --win`.

If a number is not defined, the image counts at the metric's worst value, for every method alike, and is counted in
the table's note: a drop of 100 %, no increase, a probability of 1 throughout the deletion and of 0 throughout the
insertion, ROAD's shares likewise, coherency and ADCC of 0, complexity of 100 %. This applies if

* the map is constant, even if a baseline returns it on purpose (it says nothing about what to remove), or not finite;
* the network's logits for the image are constant or not finite, or those for a changed image are not finite;
* for the drop only, the class has probability 0 initially: 0/0.

If the network has no logits for any image, or the drop is 0/0 in all of them, the metric is not defined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Curve, Metric, Probe, Row
from eigencam.evaluation.changed_images import (
    Fill,
    drop_and_increase,
    filling,
    is_gone,
    points_gone,
    probabilities,
    ranks_of,
    rows_with_states,
    scaled,
    unit,
    variant_and_image,
)
from eigencam.evaluation.contributions import Totals
from eigencam.evaluation.curves import mean_lines, sums_of
from eigencam.evaluation.missing_predictions import (
    all_missing,
    at_worst,
    footnote_parts,
    mean,
    no_prediction,
    note,
    value_parts,
    worst_or_undefined,
)
from eigencam.evaluation.sums import Part, Sums, summed

if TYPE_CHECKING:
    from torch import Tensor


FILLS: tuple[Fill, ...] = ("black", "mean", "blur")
ROAD_SHARES = (0.2, 0.4, 0.6, 0.8)
UNDEFINED = "map constant or not finite, or no finite answer of the network"


@dataclass(frozen=True, slots=True)
class AverageDrop:
    """Evaluator of average drop and increase in confidence; see the module.

    Attributes:
        shares: shares of the pixels that are kept, in (0, 1].
        fill: what removed pixels become: `black`, `mean` or `blur`.
    """

    shares: Sequence[float] = (1.0, 0.5, 0.3, 0.15)
    fill: Fill = "black"

    version = 2
    summary_version = 2
    headline = (
        *("drop_100", "increase_100", "drop_50", "increase_50", "drop_30", "increase_30", "drop_15", "increase_15"),
    )

    def __post_init__(self) -> None:
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares={list(self.shares)}; allowed: 0 < share <= 1")
        if len({_name("kept", share) for share in self.shares}) < len(self.shares):
            raise ValueError(f"shares={list(self.shares)}; allowed: each once, to six digits")
        if self.fill not in FILLS:
            raise ValueError(f"fill={self.fill!r}; allowed: {', '.join(FILLS)}")

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """Return `confidence` Y, and `kept_P` O for each share P in percent; 0..1."""
        import torch

        from eigencam.transfer import constant

        m, map_states = scaled(maps, probe)
        n, ranks = len(m), ranks_of(m)
        base, shares = filling(probe, self.fill), constant(tuple(self.shares), m.device)

        def inputs(part: slice) -> Tensor:
            p, i = variant_and_image(part, n, m.device)
            keep = shares[p][:, None, None]
            weight = torch.where(ranks[i] < (keep * m[0].numel()).ceil(), m[i], 0.0)[:, None]
            return base[i] + weight * (probe.images[i] - base[i])

        kept = probabilities(probe, len(self.shares) * n, inputs).view(len(self.shares), n)
        before = probe.logits.softmax(1).gather(1, probe.targets[:, None])[:, 0]
        columns = {"confidence": before} | {
            _name("kept", share): row for share, row in zip(self.shares, kept, strict=True)
        }
        return rows_with_states(columns, map_states)

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row: by how much the probability drops, and whether it increases."""
        parts = footnote_parts(rows, rows["confidence"].to_numpy(np.float64))
        for share in self.shares:
            kept = _name("kept", share)
            drop, increase = drop_and_increase(rows, kept)
            parts |= value_parts(rows, _name("drop", share), drop, 1) | value_parts(
                rows, _name("increase", share), increase, 0
            )
        return parts

    def metrics(self, sums: Sums) -> list[Metric]:
        """`drop_P` (average drop) and `increase_P` (increase in confidence) in percent."""
        metrics, said = list[Metric](), note(sums)
        for share in self.shares:
            at = f"{100 * share:g} % of the pixels"
            metric = mean(sums, _name("drop", share), threshold=at, better="lower", note=said)
            metrics.append(replace(metric, win=_name("win", share), kept=_name("kept", share)))
            name = _name("increase", share)
            lost = all_missing(sums, name)
            why = states.UNANSWERED
            metrics.append(
                statistics.undefined(name, 0, why, threshold=at) if lost else sums.rate(name, name, threshold=at)
            )
            said = ""
        return metrics

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """Average drop and increase in confidence against the share of pixels that is kept."""
        return self.drawn(self.totals(rows))

    def totals(self, rows: pd.DataFrame) -> Totals:
        """Number of images, and the sums over them of the drop and the increase at each share; empty for one share."""
        if len(self.shares) < 2 or rows.empty:
            return {}
        points = [drop_and_increase(rows, _name("kept", share)) for share in sorted(self.shares)]
        drop = [worst_or_undefined(rows, values, 1).sum() for values, _ in points]
        increase = [worst_or_undefined(rows, values, 0).sum() for _, values in points]
        return {"n": np.array([len(rows)]), "drop": np.array(drop), "increase": np.array(increase)}

    def drawn(self, totals: Totals) -> list[Curve]:
        """The curves of the totals of all rows."""
        x, rise = "pixels kept %", "increase in confidence"
        words = {"drop": ("average drop against pixels kept", x, "average drop %")}
        words["increase"] = f"{rise} against pixels kept", x, f"{rise} %"
        return mean_lines(totals, 100 * np.array(sorted(self.shares)), words)

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words = "map scaled to 0..1, enlarged bilinearly; softmax of the map's class"
        rule = f"{UNDEFINED}: drop 100 %, no increase; probability 0 to begin with: drop 100 %"
        shares = list(self.shares)
        return {"evaluator": "average_drop", **asdict(self), "shares": shares, "map": words, "undefined": rule}


@dataclass(frozen=True, slots=True)
class InsertionDeletion:
    """Evaluator of insertion and deletion; see the module. `steps`: number of equal shares of the pixels."""

    steps: int = 28

    version = 2
    summary_version = 2
    headline = ("deletion_auc", "insertion_auc")

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}; allowed: 1 or more")

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """`deletion` and `insertion`: (steps + 1,) float32 probabilities."""
        import torch

        m, map_states = scaled(maps, probe)
        n, ranks, points = len(m), ranks_of(m), self.steps + 1
        gone = points_gone(ranks, torch.linspace(0, m[0].numel(), points, device=m.device).round())
        blurred = filling(probe, "blur")

        def inputs(part: slice) -> Tensor:
            which, i = variant_and_image(part, n, m.device)
            first = is_gone(gone, which % points, i)[:, None]
            deleting = (which < points)[:, None, None, None]
            image = probe.images[i]
            return torch.where(first == deleting, torch.where(deleting, 0.0, blurred[i]), image)

        curves = probabilities(probe, 2 * points * n, inputs).view(2, points, n)
        return rows_with_states({"deletion": curves[0].T, "insertion": curves[1].T}, map_states)

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row: the area under each curve."""
        parts = footnote_parts(rows, np.stack(rows["deletion"].to_numpy()))
        for name, worst in (("deletion", 1), ("insertion", 0)):
            curve = np.stack(rows[name].to_numpy()).astype(np.float64)
            area = (curve[:, 1:] + curve[:, :-1]).mean(axis=1) / 2
            parts |= value_parts(rows, f"{name}_auc", np.where(np.isnan(curve).any(axis=1), np.nan, area), worst)
        return parts

    def metrics(self, sums: Sums) -> list[Metric]:
        """`deletion_auc` and `insertion_auc`, in percent."""
        return [mean(sums, "deletion_auc", better="lower", note=note(sums)), mean(sums, "insertion_auc")]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """The mean probability of the map's class while pixels are removed, and while they are inserted."""
        return self.drawn(self.totals(rows))

    def totals(self, rows: pd.DataFrame) -> Totals:
        """Number of images, and the sums over them of the probabilities at each step."""
        return sums_of(rows, {"deletion": 1, "insertion": 0})

    def drawn(self, totals: Totals) -> list[Curve]:
        """The curves of the totals of all rows."""
        x = {"deletion": "pixels deleted %", "insertion": "pixels inserted %"}
        words = {name: (name, x[name], "probability %") for name in x}
        return mean_lines(totals, np.linspace(0, 100, self.steps + 1), words)

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words = "trapezoids over equal shares, both ends; to the mean colour; from the authors' blur of 11 x 11"
        rule = f"{UNDEFINED}: deletion 100 %, insertion 0"
        return {"evaluator": "insertion_deletion", "steps": self.steps, "curve": words, "undefined": rule}


@dataclass(frozen=True, slots=True)
class Road:
    """Evaluator of ROAD; see the module. `noise`: standard deviation of the noise, in normalised values."""

    noise: float = 0.01

    version = 2
    summary_version = 2
    headline = ("road",)

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """Return `morf`, `lerf`: (4,) float32 probabilities after removing the most and the least relevant shares."""
        import torch

        from eigencam.evaluation.imputation import impute
        from eigencam.transfer import constant, made

        m, map_states = scaled(maps, probe)
        n, ranks, pixels = len(m), ranks_of(m), m[0].numel()
        shares = constant(tuple(ROAD_SHARES), m.device)
        noise = self.noise * made(_drawn, tuple(probe.images.shape[1:]), m.device, torch.float32)

        def inputs(part: slice) -> Tensor:
            which, i = variant_and_image(part, n, m.device)
            removed = (shares[which % 4] * pixels).round()[:, None, None]
            most = (which < 4)[:, None, None]
            gone = torch.where(most, ranks[i] < removed, ranks[i] >= pixels - removed)
            return impute(probe.images[i].float(), gone[:, None], noise)

        curves = probabilities(probe, 8 * n, inputs).view(2, 4, n)
        return rows_with_states({"morf": curves[0].T, "lerf": curves[1].T}, map_states)

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row: half the mean of LeRF - MoRF, and both means."""
        morf, lerf = (np.stack(rows[name].to_numpy()).astype(np.float64).mean(axis=1) for name in ("morf", "lerf"))
        parts = footnote_parts(rows, np.stack(rows["morf"].to_numpy()))
        parts |= value_parts(rows, "road_morf", morf, 1) | value_parts(rows, "road_lerf", lerf, 0)
        worst = at_worst(rows, lerf, 0) - at_worst(rows, morf, 1)
        return parts | {"road": worst / 2, "road missing": no_prediction(rows, lerf) | no_prediction(rows, morf)}

    def metrics(self, sums: Sums) -> list[Metric]:
        """`road`, half the mean of LeRF - MoRF, and both, in percent."""
        road = mean(sums, "road", note=note(sums))
        return [road, mean(sums, "road_morf", better="lower"), mean(sums, "road_lerf")]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """The mean probability of the map's class at each removed share."""
        return self.drawn(self.totals(rows))

    def totals(self, rows: pd.DataFrame) -> Totals:
        """Number of images, and the sums over them of the probabilities at each share."""
        return sums_of(rows, {"morf": 1, "lerf": 0})

    def drawn(self, totals: Totals) -> list[Curve]:
        """The curves of the totals of all rows."""
        axes = "pixels taken away %", "probability %"
        words = {"morf": ("most relevant first", *axes), "lerf": ("least relevant first", *axes)}
        return mean_lines(totals, 100 * np.array(ROAD_SHARES), words)

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        rule = f"{UNDEFINED}: LeRF 0, MoRF 100 %"
        return {"evaluator": "road", "noise": self.noise, "shares": list(ROAD_SHARES), "undefined": rule}


@dataclass(frozen=True, slots=True)
class Adcc:
    """Evaluator of coherency, complexity and ADCC; see the module. The map weights the normalised image."""

    version = 2
    summary_version = 2
    headline = ("adcc", "coherency", "complexity", "average_drop")

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """Return `coherency`, `complexity`, `drop`; 0..1, the drop NaN if it is not defined."""
        import torch

        m, map_states = scaled(maps, probe)
        weighted = (probe.images * m[:, None]).to(probe.images.dtype)
        again = unit(probe.explain(weighted).float(), probe)
        a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (m, again))
        norms = a.norm(dim=1) * b.norm(dim=1)
        r = torch.where(norms > 0, (a * b).sum(1) / norms.clamp(min=torch.finfo(torch.float32).tiny), -1.0).clamp(-1, 1)
        before = probe.logits.softmax(1).gather(1, probe.targets[:, None])[:, 0]
        after = probabilities(probe, len(m), lambda part: weighted[part])
        drop = torch.where(before > 0, (before - after).clamp(min=0) / before, torch.nan)
        return rows_with_states({"coherency": (r + 1) / 2, "complexity": m.mean((1, 2)), "drop": drop}, map_states)

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row: its ADCC, and its three parts."""
        worst = {"coherency": 0, "complexity": 1, "drop": 1}
        values = {name: rows[name].to_numpy(np.float64) for name in worst}
        coherency, complexity, drop = (at_worst(rows, values[name], at) for name, at in worst.items())
        goods = np.stack([coherency, 1 - complexity, 1 - drop])
        inverse = np.divide(1, goods, out=np.full_like(goods, np.inf), where=goods > 0)
        parts = footnote_parts(rows, values["drop"])
        for name, value in values.items():
            parts |= value_parts(rows, "average_drop" if name == "drop" else name, value, worst[name])
        lost = np.any([no_prediction(rows, value) for value in values.values()], axis=0)
        return parts | {"adcc": 3 / inverse.sum(axis=0), "adcc missing": lost}

    def metrics(self, sums: Sums) -> list[Metric]:
        """`adcc`, the mean over the images' own values, and its three parts, in percent."""
        return [
            mean(sums, "adcc", note=note(sums)),
            mean(sums, "coherency"),
            mean(sums, "complexity", better="lower"),
            mean(sums, "average_drop", better="lower"),
        ]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def protocol(self) -> Mapping[str, object]:
        """The rule in words."""
        words = "map times the normalised image; coherency of a constant map is 0; a part that is 0 makes ADCC 0"
        rule = f"{UNDEFINED}: coherency 0, complexity 100 %, drop 100 %; probability 0 to begin with: drop 100 %"
        return {"evaluator": "adcc", "rule": words, "undefined": rule}


def _drawn(*shape: int) -> Tensor:
    """Normal noise, the same for all images."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _name(what: str, share: float) -> str:
    return f"{what}_{100 * share:g}"
