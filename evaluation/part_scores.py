r"""Are the parts that a map shows the ones that the network uses? The part scores of FunnyBirds.

R. Hesse, S. Schaub-Meyer and S. Roth, "FunnyBirds: A Synthetic Vision Dataset for a Part-Based Analysis of Explainable
AI Methods" (ICCV 2023), with the rules of the authors' code (visinf/funnybirds-framework). Each class of an image is
one part: its pixels, from the mask or, without a mask, from the boxes. With $s_p$ the sum of the map over part p
widened by 2 pixels, and $d_p = f(x) - f(x_{-p})$ the drop of the class's logit without it:

* `single_deletion`: $(1 + \rho) / 2$, with Spearman's correlation of s and d over the parts. Values that differ by no
  more than rounding have the same rank.
* A part is *important* if $s_p > t \sum m$, for 80 thresholds t from 0.01 to 0.5. `csdc` (controlled synthetic data
  check): whether the class's own part is important. `preservation`: whether the prediction is the same with the
  important parts alone. `deletion_check`: whether it changes without them. `completeness` is the mean of the three,
  over the images whose class is predicted.
* `distractibility`: the share of irrelevant parts that are not important. A part is irrelevant if the logit rises
  without it, or falls by less than 5 %.
* `target_sensitivity`: of the class's part and the largest other part, the share that counts more in the map of its
  own class than in that of the other; only over images whose logits agree.

Completeness and distractibility are at the threshold with the largest sum of both, chosen on the images evaluated.

FunnyBirds' parts are removed by rendering the image without them; here they are filled (`fill`). That is exact where
what is filled in is evidence for no class: `model=planted dataset=planted`, and the cells of a mosaic for a network
wired to them, whose own parts are all that a class can depend on. Elsewhere the drops include the shape of the filling.

Images with fewer than two parts, or none of the map's class, are left out. An image whose logits do not define a score
is left out of that score. Otherwise a map that is constant or not finite has a score of 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import Truth
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Metric, Probe, Row
from eigencam.evaluation.changed_images import Fill, filling, rows_with_states, variant_and_image
from eigencam.evaluation.pointing import fill
from eigencam.evaluation.sums import Part, Sums, Totals, summed

if TYPE_CHECKING:
    from torch import Tensor

    from eigencam.evaluation.maps import ScoreMap

THRESHOLDS = np.linspace(0.01, 0.5, 80)
ROUNDING = 1e-5
"""Numbers that differ by at most this fraction of their size are equal: batches of another size round differently."""
IRRELEVANT = 0.05
"""Fraction of the logit: a part is irrelevant if the logit drops by less without it."""
CHECKS = ("csdc", "preservation", "deletion_check")


@dataclass(frozen=True, slots=True)
class PartScores:
    """Evaluator of FunnyBirds' part scores; see the module.

    Attributes:
        fill: what a removed part becomes: `black`, `mean` or `blur`.
    """

    fill: Fill = "mean"

    version = 2
    summary_version = 1
    headline = ("single_deletion", "completeness", "distractibility", "target_sensitivity")

    def __post_init__(self) -> None:
        if self.fill not in get_args(Fill):
            raise ValueError(f"fill={self.fill!r}; allowed: {', '.join(get_args(Fill))}")

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """Return the number of `parts`, and scores of 0..1, NaN where not defined; those with a threshold are (80,)."""
        import torch

        parts = _Parts.of(probe)
        importance, total = parts.importance(maps)
        important = parts.important(importance, total)
        without = probe.shared(("without a part", self.fill), lambda: self._without(parts, probe))
        drops = _of_class(probe.logits[None], probe.targets) - _of_class(without, probe.targets)
        kept, lost = self._checks(importance.masked_fill(~parts.present, -torch.inf), parts, probe)
        counts = important.sum(1)
        logit = _of_class(probe.logits[None], probe.targets)
        irrelevant = parts.present & ((drops.abs() < IRRELEVANT * logit.abs()) | (drops < 0))
        shown = (important & irrelevant[:, :, None]).sum(1) / irrelevant.sum(1, keepdim=True)
        own = parts.of_class.clamp(min=0)[:, None, None].expand(-1, 1, len(THRESHOLDS))
        columns = {
            "parts": torch.where(parts.of_class < 0, 0, parts.present.sum(1)),
            "predicted": probe.logits.argmax(1) == probe.targets,
            "deletion": (1 + _spearman(importance, drops, parts.present, logit.abs())) / 2,
            "sensitive": self._sensitive(importance, drops, without, parts, probe),
            "csdc": important.gather(1, own)[:, 0],
            "preserved": kept.gather(1, counts),
            "deleted": lost.gather(1, counts),
            "undistracted": 1 - shown,
        }
        return rows_with_states(columns, [score_map.state for score_map in probe.score_maps])

    def _without(self, parts: _Parts, probe: Probe) -> Tensor:
        """(P, N, K): the logits without each part."""
        n, base = len(probe.images), filling(probe, self.fill)

        def inputs(part: slice) -> Tensor:
            which, i = variant_and_image(part, n, base.device)
            return parts.removed(parts.pixels[i, which], i, base, probe)

        return probe.predict(parts.count * n, inputs).view(parts.count, n, -1)

    def _checks(self, importance: Tensor, parts: _Parts, probe: Probe) -> tuple[Tensor, Tensor]:
        """Whether the k most important parts alone keep the prediction, and whether it changes without them.

        Returns:
            (N, P + 1) float32 each, 0 or 1.
        """
        import torch

        n, base, count = len(importance), filling(probe, self.fill), parts.count
        places = importance.argsort(dim=1, descending=True, stable=True).argsort(
            dim=1
        )  # (N, P): 0 for the most important

        def inputs(part: slice) -> Tensor:
            which, i = variant_and_image(part, n, base.device)
            first = places[i] < (which % (count + 1))[:, None]
            gone = torch.where((which > count)[:, None], first, ~first)
            return parts.removed((parts.pixels[i] & gone[:, :, None, None]).any(1), i, base, probe)

        predicted = probe.predict(2 * (count + 1) * n, inputs).argmax(1).view(2, count + 1, n)
        same = (predicted == probe.logits.argmax(1)).float().movedim(2, 0)
        return same[:, 0], 1 - same[:, 1]

    def _sensitive(self, importance: Tensor, drops: Tensor, without: Tensor, parts: _Parts, probe: Probe) -> Tensor:
        """(N,): 0, 1/2 or 1; NaN unless each of the two classes' logits depends more on its own part."""
        import torch

        classes = parts.other_class(probe)
        others, _ = parts.importance(probe.explain_classes(classes))
        logit, other_logit = (_of_class(probe.logits[None], k) for k in (probe.targets, classes))
        other_drops = other_logit - _of_class(without, classes)
        own, other = parts.of_class.clamp(min=0)[:, None], parts.other.clamp(min=0)[:, None]

        def higher(a: Tensor, at: Tensor, b: Tensor, place: Tensor, size: Tensor | None = None) -> Tensor:
            a, b = a.gather(1, at), b.gather(1, place)
            largest = torch.maximum(a.abs(), b.abs()) if size is None else size.abs()
            return (a - b > ROUNDING * largest)[:, 0]

        holds = higher(drops, own, drops, other, logit) & higher(other_drops, other, other_drops, own, other_logit)
        right = higher(importance, own, others, own).float() + higher(others, other, importance, other)
        return torch.where(holds & (parts.of_class >= 0) & (parts.other >= 0), right / 2, torch.nan)

    def totals(self, rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
        """Return the sums over images (80,), and the numbers of images, of completeness and distractibility."""
        found = _at_thresholds(rows)
        checks = np.stack([found[name] for name in CHECKS]).mean(axis=0)
        made: dict[str, NDArray[Any]] = {}
        for name, values in (("completeness", checks), ("distractibility", found["distractibility"])):
            counted = ~np.isnan(values).any(axis=1)
            made |= {name: values[counted].sum(axis=0), f"{name} n": np.array([counted.sum()])}
        return made

    def choose(self, totals: Totals) -> _AtThreshold:
        """Return the evaluator at the threshold with the largest sum of completeness and distractibility."""
        both = sum(totals[name] / max(int(totals[f"{name} n"][0]), 1) for name in ("completeness", "distractibility"))
        return _AtThreshold(self, int(np.argmax(both)))

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words = "the pixels of each class of the image, widened by 2 for the sums; images of fewer than 2 left out"
        rule = "map constant or not finite: 0; not defined by the logits: left out"
        at = "0.01 to 0.5 of the map's sum, the best of 80 on these images"
        return {"evaluator": "part_scores", **asdict(self), "parts": words, "threshold": at, "undefined": rule}


@dataclass(frozen=True, slots=True)
class _AtThreshold:
    """The evaluator at one of the thresholds."""

    evaluator: PartScores
    at: int

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row; NaN where it is left out."""
        found = {name: values[:, self.at] for name, values in _at_thresholds(rows).items()}
        mean = np.mean([found[name] for name in CHECKS], axis=0)
        plain = {name: _scores(rows, column) for name, column in _PLAIN.items()}
        return {**plain, **found, "completeness": mean, "map_state": states.flags(rows), **_answers(rows)}

    def metrics(self, sums: Sums) -> list[Metric]:
        """The four scores and the three checks of completeness, in percent."""
        at, said = f"{THRESHOLDS[self.at]:.3f} of the sum", states.noted(sums)
        made = [_mean(sums, name, "") for name in _PLAIN]
        made += [_mean(sums, name, at) for name in ("completeness", "distractibility", *CHECKS)]
        return [replace(made[0], note="; ".join(filter(None, (made[0].note, said)))), *made[1:]]


_PLAIN = {"single_deletion": "deletion", "target_sensitivity": "sensitive"}
_THRESHOLDED = {
    "csdc": "csdc",
    "preservation": "preserved",
    "deletion_check": "deleted",
    "distractibility": "undistracted",
}
"""The columns of rows, by metric."""


def _mean(sums: Sums, name: str, threshold: str) -> Metric:
    """The metric; not defined without an image that has it."""
    if not sums.count(name):
        why = "not defined: no image with two parts, one of the map's class, for which the network has an answer"
        return statistics.undefined(name, 0, why, threshold=threshold)
    return sums.mean(name, name, threshold=threshold)


def _answers(rows: pd.DataFrame) -> dict[str, Part]:
    return {"answer_state": states.flags(rows, "answer_state")}


def _scores(rows: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """(N,) or (N, 80): a score, 0 for an undefined map or answer, NaN for an image that is left out."""
    values = np.stack(rows[column].to_numpy()).astype(np.float64) if len(rows) else np.zeros((0, len(THRESHOLDS)))
    worst, out = states.no_map(rows, meant=False) | states.no_answer(rows), rows["parts"].to_numpy() < 2
    shape = (-1, *[1] * (values.ndim - 1))
    return np.where(out.reshape(shape), np.nan, np.where(worst.reshape(shape) & ~np.isnan(values), 0.0, values))


def _at_thresholds(rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """(N, 80) of each; the three checks only of images whose class is predicted."""
    found = {name: _scores(rows, column) for name, column in _THRESHOLDED.items()}
    predicted = rows["predicted"].to_numpy(bool)[:, None]
    return found | {name: np.where(predicted, found[name], np.nan) for name in CHECKS}


# ---------------------------------------------------------------------------------------------------- parts of a batch


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of N images, P at most, at the size of the network's input.

    Attributes:
        pixels: (N, P, H, W) bool.
        present: (N, P) bool: whether the image has that part.
        classes: (N, P) int64, the parts' classes.
        of_class: (N,) int64: which part is of the map's class; -1 if none is.
        other: (N,) int64: the largest other part; -1 if there is none.
    """

    pixels: Tensor
    present: Tensor
    classes: Tensor
    of_class: Tensor
    other: Tensor

    @classmethod
    def of(cls, probe: Probe) -> _Parts:
        """Return the parts of a batch."""
        import torch

        from eigencam.transfer import to_device

        size = int(probe.images.shape[2]), int(probe.images.shape[3])
        found = [
            score_map.of_image(("parts", size), lambda m=score_map, t=truth: _pixels_of(m, t, size))
            for score_map, truth in zip(probe.score_maps, probe.truths, strict=True)
        ]
        count = max(1, *(len(labels) for labels, _ in found))
        pixels, classes = np.zeros((len(found), count, *size), bool), np.full((len(found), count), -1)
        for n, (labels, masks) in enumerate(found):
            classes[n, : len(labels)], pixels[n, : len(labels)] = labels, masks
        there, labels = to_device(probe.images.device, torch.from_numpy(pixels), torch.from_numpy(classes))
        mine = labels == probe.targets[:, None]
        areas = there.sum((2, 3)).masked_fill(mine, 0)
        own, other = (torch.where(of.amax(1) > 0, of.argmax(1), -1) for of in (mine.int(), areas))
        return cls(there, labels >= 0, labels, own, other)

    @property
    def count(self) -> int:
        """P."""
        return self.pixels.shape[1]

    def importance(self, maps: Tensor | NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """(N, P) the sum of each map (N, h, w) over each part, widened by 2 pixels; and (N,) the sum of each map."""
        import torch
        import torch.nn.functional as F

        m = torch.as_tensor(np.ascontiguousarray(maps, np.float32) if isinstance(maps, np.ndarray) else maps)
        m = m.to(self.pixels.device, torch.float32)
        m = F.interpolate(m[:, None], self.pixels.shape[2:], mode="bilinear", align_corners=False)
        widened = F.max_pool2d(self.pixels.float(), 5, stride=1, padding=2)
        return (widened * m).sum((2, 3)), m.sum((1, 2, 3))

    def important(self, importance: Tensor, total: Tensor) -> Tensor:
        """(N, P, 80) bool: the parts above each threshold; none for a map whose sum is not positive."""
        import torch

        from eigencam.transfer import constant

        least = constant(tuple(THRESHOLDS.tolist()), importance.device) * total[:, None]
        above = importance[:, :, None] > least[:, None]
        return above & self.present[:, :, None] & torch.gt(total, 0)[:, None, None]

    def other_class(self, probe: Probe) -> Tensor:
        """(N,) int64: the class of the largest other part; the map's class if there is none."""
        classes = self.classes.gather(1, self.other.clamp(min=0)[:, None])[:, 0]
        return classes.where((self.other >= 0) & (classes < probe.logits.shape[1]), probe.targets)

    def removed(self, gone: Tensor, i: Tensor, base: Tensor, probe: Probe) -> Tensor:
        """(M, 3, H, W): the images i (M,), with pixels (M, H, W) filled from `base`."""
        return base[i].where(gone[:, None], probe.images[i])


def _pixels_of(score_map: ScoreMap, truth: Truth, size: tuple[int, int]) -> tuple[list[int], NDArray[np.bool_]]:
    """The image's classes, and (P, H, W) bool: their pixels in the network's input, which shows the map's region."""
    whole = truth.size if truth.mask is None else truth.mask.shape
    x0, y0, x1, y1 = score_map.region or (0.0, 0.0, float(truth.size[1]), float(truth.size[0]))
    places = []
    for start, stop, side, inside, of in zip((y0, x0), (y1, x1), size, whole, truth.size, strict=True):
        place = np.floor((start + (np.arange(side) + 0.5) * (stop - start) / side) * inside / of).astype(np.int64)
        places.append((place.clip(0, inside - 1), (place >= 0) & (place < inside)))
    (y, rows), (x, columns) = places
    labels, masks = list[int](), list[NDArray[np.bool_]]()
    for label in truth.objects():
        if truth.mask is None:
            shown = fill(truth.boxes[truth.box_labels == label], truth.size)
        else:
            shown = truth.mask == label + 1
        seen = shown[y[:, None], x] & rows[:, None] & columns
        if seen.any():
            labels.append(label)
            masks.append(seen)
    return labels, np.array(masks, bool).reshape(len(masks), *size)


def _of_class(logits: Tensor, classes: Tensor) -> Tensor:
    """(N, P): the logits (P, N, K) of the classes (N,)."""
    return logits.gather(2, classes[None, :, None].expand(len(logits), -1, 1))[:, :, 0].T


def _spearman(a: Tensor, b: Tensor, present: Tensor, size: Tensor) -> Tensor:
    """(N,): Spearman's correlation of a (N, P) and b (N, P) over the parts that are there; ties have their mean rank.

    NaN if all of b are equal, -1 if only all of a are. b are differences of numbers as large as `size` (N, 1). Values
    that differ by rounding alone are ties.
    """
    import torch

    pairs = present[:, :, None] & present[:, None]

    def ranks(values: Tensor, size: Tensor) -> Tensor:
        differences = (values[:, :, None] - values[:, None]).where(pairs, 0)
        steps = torch.sign(differences) * (differences.abs() > ROUNDING * size[:, :, None])
        return steps.sum(2).double()  # twice the rank minus its mean

    largest = [values.abs().where(present, 0).amax(1, keepdim=True) for values in (a, b)]
    x, y = ranks(a, largest[0]), ranks(b, torch.maximum(largest[1], size))
    below = ((x**2).sum(1) * (y**2).sum(1)).sqrt()
    rho = (x * y).sum(1) / below
    return torch.where((y == 0).all(1), torch.nan, torch.where(below > 0, rho, -1.0))
