r"""Does the network rely on what the map shows? Metrics that put changed pictures through the network again.

Y and O are the softmax probabilities of the map's class for the picture and for the changed picture.

* Average drop and increase in confidence (Chattopadhay et al., "Grad-CAM++", WACV 2018), of the picture weighted with
  the map m, scaled to 0..1 and enlarged bilinearly, at shares p of its highest pixels as L-CAM evaluates them
  (Gkartzonika et al., ECCV Workshops 2022): pixels below the p-th are set to 0 in m, the others stay soft.

  $$AD_p = 100\,\operatorname{mean}\frac{\max(0, Y - O_p)}{Y}, \qquad IC_p = 100\,\operatorname{mean}[O_p > Y]$$

  What m takes away is filled: `black` (the picture before normalisation, L-CAM), `mean` (0 after it, most libraries)
  or `blur`.
* Deletion and insertion (Petsiuk et al., "RISE", BMVC 2018): the area under the curve of the probability while pixels
  go by falling m (to the mean colour), or come onto a blurred picture (the kernel of the authors' code: 11 x 11, sigma
  5 reflected into it, zeros beyond the border). Pixels of the same value go in raster order, the steps are equal
  shares, both ends count.
* ROAD (Rong et al., ICML 2022): the same at four shares with the pixels taken away filled from their neighbours (the
  solution of a linear system, weights 1/6 and 1/12 for the 8 neighbours, and noise of 0.01), most relevant first and
  least relevant first; the number is half the mean difference (LeRF - MoRF), as pytorch-grad-cam combines them.
* Coherency, complexity and ADCC (Poppi et al., CVPR Workshops 2021): coherency (r + 1) / 2 with Pearson's r of the map
  and the same method's map of the picture weighted with it; complexity the mean of m; ADCC the harmonic mean of
  coherency, 1 - complexity and 1 - average drop, of each picture.

The share of images in which a method's drop is the smallest, "win" of Grad-CAM++, needs the rows of several methods:
`eigencam table --win`.

Where a number is not defined the image counts at the metric's worst value, for every method alike, and is counted in
the table's note: a drop of 100 %, no increase, a probability of 1 throughout the deletion and of 0 throughout the
insertion, ROAD's shares likewise, coherency and ADCC of 0, complexity of 100 %. That is so where

* the map is constant or not finite (also where its method means it: such a map says nothing about what to take away);
* the network's answer to the image is constant or not finite, or its answer to a changed image is not finite;
* of the drop alone, the class has the probability 0 to begin with: 0/0.

Where the network has no answer for any image, or the drop is 0/0 in all of them, the metric is not defined.
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
    filling,
    probabilities,
    ranks_of,
    rows_with_states,
    scaled,
    unit,
    variant_and_image,
)

if TYPE_CHECKING:
    from torch import Tensor


FILLS: tuple[Fill, ...] = ("black", "mean", "blur")
ROAD_SHARES = (0.2, 0.4, 0.6, 0.8)
UNDEFINED = "map constant or not finite, or no finite answer of the network"


@dataclass(frozen=True, slots=True)
class AverageDrop:
    """Evaluator of average drop and increase in confidence; see the module.

    Attributes:
        shares: of the pixels that are kept, in (0, 1].
        fill: what the map takes away becomes `black`, `mean` or `blur`.
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
        """`confidence` Y, and `kept_P` O for each share P in percent; 0..1."""
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

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """`drop_P` (average drop) and `increase_P` (increase in confidence) in percent."""
        metrics, note = list[Metric](), _note(rows, rows["confidence"].to_numpy(np.float64))
        for share in self.shares:
            at = f"{100 * share:g} % of the pixels"
            drop, increase = drop_and_increase(rows, _name("kept", share))
            metric = _mean(_name("drop", share), drop, threshold=at, better="lower", note=note)
            metrics.append(replace(metric, win=_name("win", share), kept=_name("kept", share)))
            metrics.append(_rate(_name("increase", share), increase, threshold=at))
            note = ""
        return metrics

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """Average drop and increase in confidence against the share of the pixels that is kept."""
        shares = sorted(self.shares)
        if len(shares) < 2 or not len(rows):
            return []
        points = [drop_and_increase(rows, _name("kept", share)) for share in shares]
        at, x = 100 * np.array(shares), "pixels kept %"
        drop, increase = 100 * np.array(points).mean(axis=2).T
        lines = (
            Curve("average drop against pixels kept", x, "average drop %", at, drop),
            Curve("increase in confidence against pixels kept", x, "increase in confidence %", at, increase),
        )
        return [line for line in lines if not np.isnan(line.ys).any()]

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words = "map scaled to 0..1, enlarged bilinearly; softmax of the map's class"
        rule = f"{UNDEFINED}: drop 100 %, no increase; probability 0 to begin with: drop 100 %"
        shares = list(self.shares)
        return {"evaluator": "average_drop", **asdict(self), "shares": shares, "map": words, "undefined": rule}


@dataclass(frozen=True, slots=True)
class InsertionDeletion:
    """Evaluator of insertion and deletion; see the module. `steps`: equal shares of the pixels, both ends beside."""

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
        gone = torch.linspace(0, m[0].numel(), points, device=m.device).round()
        blurred = filling(probe, "blur")

        def inputs(part: slice) -> Tensor:
            which, i = variant_and_image(part, n, m.device)
            first = (ranks[i] < gone[which % points, None, None])[:, None]
            deleting = (which < points)[:, None, None, None]
            picture = probe.images[i]
            return torch.where(first == deleting, torch.where(deleting, 0.0, blurred[i]), picture)

        curves = probabilities(probe, 2 * points * n, inputs).view(2, points, n)
        return rows_with_states({"deletion": curves[0].T, "insertion": curves[1].T}, map_states)

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """`deletion_auc` and `insertion_auc`, in percent."""
        metrics = []
        for name, better in (("deletion", "lower"), ("insertion", "higher")):
            curve = _column(rows, name, 1 if name == "deletion" else 0)
            area = (curve[:, 1:] + curve[:, :-1]).mean(axis=1) / 2
            note = _note(rows, np.stack(rows[name].to_numpy())) if name == "deletion" else ""
            metrics.append(_mean(f"{name}_auc", area, better=better, note=note))
        return metrics

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """The mean probability of the map's class while pixels go, and while they come."""
        at = np.linspace(0, 100, self.steps + 1)
        x = {"deletion": "pixels deleted %", "insertion": "pixels inserted %"}
        means = {name: 100 * _column(rows, name, name == "deletion").mean(axis=0) for name in (x if len(rows) else ())}
        lines = [Curve(name, x[name], "probability %", at, values) for name, values in means.items()]
        return [line for line in lines if not np.isnan(line.ys).any()]

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words = "trapezoids over equal shares, both ends; to the mean colour; from the authors' blur of 11 x 11"
        rule = f"{UNDEFINED}: deletion 100 %, insertion 0"
        return {"evaluator": "insertion_deletion", "steps": self.steps, "curve": words, "undefined": rule}


@dataclass(frozen=True, slots=True)
class Road:
    """Evaluator of ROAD; see the module. `noise`: its standard deviation, in normalised values."""

    noise: float = 0.01

    version = 2
    summary_version = 2
    headline = ("road",)

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """`morf` and `lerf`: (4,) float32 probabilities after the most and the least relevant shares were removed."""
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

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """`road`, half the mean of LeRF - MoRF, and both, in percent."""
        morf, lerf = (_column(rows, name, name == "morf").mean(axis=1) for name in ("morf", "lerf"))
        note = _note(rows, np.stack(rows["morf"].to_numpy()))
        return [
            _mean("road", (lerf - morf) / 2, note=note),
            _mean("road_morf", morf, better="lower"),
            _mean("road_lerf", lerf),
        ]

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """The mean probability of the map's class at each share taken away."""
        at, x = 100 * np.array(ROAD_SHARES), "pixels taken away %"
        names = {"morf": "most relevant first", "lerf": "least relevant first"} if len(rows) else {}
        means = {name: 100 * _column(rows, key, key == "morf").mean(axis=0) for key, name in names.items()}
        lines = [Curve(name, x, "probability %", at, values) for name, values in means.items()]
        return [line for line in lines if not np.isnan(line.ys).any()]

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        rule = f"{UNDEFINED}: LeRF 0, MoRF 100 %"
        return {"evaluator": "road", "noise": self.noise, "shares": list(ROAD_SHARES), "undefined": rule}


@dataclass(frozen=True, slots=True)
class Adcc:
    """Evaluator of coherency, complexity and ADCC; see the module. The map weights the normalised picture."""

    version = 2
    summary_version = 2
    headline = ("adcc", "coherency", "complexity", "average_drop")

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """`coherency`, `complexity`, `drop`; 0..1, the drop NaN where it is not defined."""
        import torch

        m, map_states = scaled(maps, probe)
        weighted = (probe.images * m[:, None]).to(probe.images.dtype)
        again = unit(probe.explain(weighted).float(), probe)
        a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (m, again))
        norms = a.norm(dim=1) * b.norm(dim=1)
        r = torch.where(norms > 0, (a * b).sum(1) / norms.clamp(min=torch.finfo(torch.float32).tiny), -1.0)
        before = probe.logits.softmax(1).gather(1, probe.targets[:, None])[:, 0]
        after = probabilities(probe, len(m), lambda part: weighted[part])
        drop = torch.where(before > 0, (before - after).clamp(min=0) / before, torch.nan)
        return rows_with_states({"coherency": (r + 1) / 2, "complexity": m.mean((1, 2)), "drop": drop}, map_states)

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """`adcc`, the mean over pictures of each picture's, and its three parts, in percent."""
        worst = {"coherency": 0, "complexity": 1, "drop": 1}
        coherency, complexity, drop = (_column(rows, name, value) for name, value in worst.items())
        parts = np.stack([coherency, 1 - complexity, 1 - drop])
        inverse = np.divide(1, parts, out=np.full_like(parts, np.inf), where=parts > 0)
        adcc = np.where(np.isnan(parts).any(axis=0), np.nan, 3 / inverse.sum(axis=0))
        return [
            _mean("adcc", adcc, note=_note(rows, rows["drop"].to_numpy(np.float64))),
            _mean("coherency", coherency),
            _mean("complexity", complexity, better="lower"),
            _mean("average_drop", drop, better="lower"),
        ]

    def protocol(self) -> Mapping[str, object]:
        """The rule in words."""
        words = "map times the normalised picture; coherency of a constant map is 0; a part that is 0 makes ADCC 0"
        rule = f"{UNDEFINED}: coherency 0, complexity 100 %, drop 100 %; probability 0 to begin with: drop 100 %"
        return {"evaluator": "adcc", "rule": words, "undefined": rule}


def _drawn(*shape: int) -> Tensor:
    """Normal noise, the same for all images."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def drop_and_increase(rows: pd.DataFrame, kept: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) in 0..1 each: by how much of itself the probability drops, and whether (1) it increases or not (0).

    Args:
        rows: of `AverageDrop`.
        kept: the column of the probability after.
    """
    before, after = (rows[name].to_numpy(np.float64) for name in ("confidence", kept))
    drop = np.divide(np.maximum(before - after, 0), before, out=np.full_like(before, np.nan), where=before > 0)
    increase = np.where(np.isnan(before) | np.isnan(after), np.nan, after > before)
    return _at_worst(rows, drop, 1), _at_worst(rows, increase, 0)


def _column(rows: pd.DataFrame, name: str, worst: float) -> NDArray[np.float64]:
    """(N,), or (N, P) of a column of lists, with the worst value where an image has none."""
    return _at_worst(rows, np.stack(rows[name].to_numpy()).astype(np.float64), worst)


def _at_worst(rows: pd.DataFrame, values: NDArray[np.float64], worst: float) -> NDArray[np.float64]:
    """Values (N,) or (N, P), the worst in place of an image's that are not defined; NaN if no image has an answer."""
    missing = _unanswered(rows, values)
    if missing.all():
        return np.full_like(values, np.nan)
    bad = missing | states.no_map(rows, meant=False)
    return np.where(bad.reshape(-1, *[1] * (values.ndim - 1)), worst, values)


def _unanswered(rows: pd.DataFrame, values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(N,): the images for which the network, asked for the image or for a changed one, has no answer."""
    return states.no_answer(rows) | np.isnan(values).reshape(len(rows), -1).any(axis=1)


def _note(rows: pd.DataFrame, values: NDArray[np.floating]) -> str:
    """The footnote: maps and answers without a value, and further images at the worst; of average drop also 0/0."""
    known = states.no_answer(rows) | states.no_map(rows, meant=False)
    changed = [name for name in rows if str(name).startswith("kept_")]
    values = np.concatenate([values.reshape(len(rows), -1), rows[changed].to_numpy(np.float64)], axis=1)
    parts = [states.note(rows)]
    if count := int((_unanswered(rows, values) & ~known).sum()):
        parts.append(f"{count} images more without a value, at the worst")
    if changed and (count := int((values[:, 0] == 0).sum())):
        parts.append(f"{count} images of probability 0 to begin with")
    return "; ".join(part for part in parts if part)


def _mean(
    name: str, values: NDArray[np.float64], *, note: str = "", threshold: str = "", better: str = "higher"
) -> Metric:
    if np.isnan(values).all():
        why = "; ".join(part for part in (states.UNANSWERED, note) if part)
        return statistics.undefined(name, 0, why, threshold=threshold, better=better)
    return statistics.mean(name, values, note=note, threshold=threshold, better=better)


def _rate(name: str, values: NDArray[np.float64], *, threshold: str) -> Metric:
    if np.isnan(values).all():
        return statistics.undefined(name, 0, states.UNANSWERED, threshold=threshold)
    return statistics.rate(name, values == 1, threshold=threshold)


def _name(what: str, share: float) -> str:
    return f"{what}_{100 * share:g}"
