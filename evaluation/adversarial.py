"""Do maps survive adversarial noise? The claim of Eigen-CAM for images changed by DeepFool.

M. B. Muhammad, M. Yeasin ("Eigen-CAM: Visual Explanations for Deep Convolutional Neural Networks", SN Computer Science
2021) argue that a class-agnostic map withstands noise that changes the predicted class. Each image is
attacked once, for all methods (see `evaluation/attacks.py`); the same method then explains the attacked image:

    box_error_before, box_error_after    localization of both maps, over the same images
    box_error_change                     their difference, paired
    ..._fooled                           the same over the images whose prediction has changed
    rank_correlation, cosine             of the two raw maps (see `evaluation/similarity.py`)
    fooling_rate                         share of the images whose prediction has changed

The attack is on the predicted class, right or wrong. After the attack, the requested class follows the run's `target`:
the true class remains the true class; with `predicted` it is the new prediction.

Before and after the attack, an image whose map is constant or not finite counts as a miss, and its change as one from
hit to miss. If the network's logits for the image are constant or not finite, there is no prediction to attack, and the
change and the box afterwards count in the same way. Such images have no similarity and no norm of the noise, and are
left out there. If the logits for the image or the attacked image are not finite, the prediction is -1, and the image is
left out of the fooling rate. Notes and n say how many there are.

Noise is measured on the image before normalisation, where black is 0 and white is 1. `l2` is its norm, `linf` its
largest change in units of 1/255, and `relative_l2` its norm divided by that of the image, in percent; DeepFool's paper
averages the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from eigencam.evaluation import similarity, states, statistics
from eigencam.evaluation.attacks import Attack, Attacked
from eigencam.evaluation.base import Metric, Probe, Row
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.maps import ComponentRule, Rule, ScoreMap
from eigencam.evaluation.sums import Part, Sums, summed

if TYPE_CHECKING:
    from torch import Tensor

_STATES = ("map_state", "answer_state", "map_state_after")


@dataclass(frozen=True, slots=True)
class Adversarial:
    """Evaluator of maps under an attack; see the module.

    Attributes:
        attack: changes the images.
        rule: thresholding rule of a map, see `evaluation/maps.py`.
        threshold: the rule's parameter.
        component: `largest` connected component of the foreground, or `all` of it.
        iou: smallest overlap at which a box is right, in (0, 1].
    """

    attack: Attack
    rule: Rule = "max"
    threshold: float = 0.15
    component: ComponentRule = "largest"
    iou: float = 0.5

    version = 2
    summary_version = 2
    headline = (
        *("box_error_before", "box_error_after", "box_error_change", "box_error_change_fooled"),
        *("rank_correlation", "cosine", "fooling_rate", "relative_l2", "linf"),
    )

    def __post_init__(self) -> None:
        self._boxes()

    def _boxes(self) -> Localization:
        return Localization(self.rule, self.threshold, self.component, self.iou)

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """Return one row per image, with its values before and after the attack.

        Returns:
            `iou_before`, `iou_after`, NaN without a box to find; `fooled`, `prediction`, `prediction_after`;
            `iterations`, `l2`, `linf`, `relative_l2` (0..1 units); `rank_correlation`, `cosine`, NaN if a map is
            constant; `map_state`, `map_state_after`.
        """
        from eigencam.transfer import to_host

        attacked = probe.shared((self.attack, "attacked"), lambda: self._attacked(probe))
        scale = probe.white.float() - probe.black.float()
        again = probe.again((self.attack, "pass"), attacked.images * scale + probe.black)
        plain = (probe.images.float() - probe.black) / scale
        asked = _lengths(plain, attacked.images) | {
            "iterations": attacked.iterations,
            "prediction": _first(probe.logits),
            "prediction_after": _first(again.logits),
        }
        arrived = to_host(*asked.values())()
        columns = {name: values.numpy() for name, values in zip(asked, arrived, strict=True)} | {
            "rank_correlation": similarity.rank_correlation(maps, again.maps),
            "cosine": similarity.cosine(maps, again.maps),
        }
        rows: list[Row] = []
        for n, (before, truth) in enumerate(zip(probe.score_maps, probe.truths, strict=True)):
            after = ScoreMap(again.maps[n], before.size, before.region)
            own = {name: column[n].item() for name, column in columns.items()}
            predicted = own["prediction"], own["prediction_after"]
            rows.append(
                {
                    "iou_before": self._boxes().row(before, truth)["iou"],
                    "iou_after": self._boxes().row(after, truth)["iou"],
                    "fooled": min(predicted) >= 0 and predicted[0] != predicted[1],
                    **own,
                    "map_state": before.state,
                    "map_state_after": after.state,
                }
            )
        return rows

    def _attacked(self, probe: Probe) -> Attacked:
        black = probe.black.float()
        scale = probe.white.float() - black
        names = [truth.image_id for truth in probe.truths]
        images = (probe.images.float() - black) / scale
        return self.attack(lambda x: probe.differentiable(x * scale + black), images, scale, names)

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return each row's contribution: its box before and after if it has one to find, its similarity, its noise."""
        attacked = ~states.no_answer(rows) & _predicted(rows, "prediction")
        predicted = _predicted(rows, "prediction") & _predicted(rows, "prediction_after")
        lost = states.no_map(rows) | states.no_map(rows, "map_state_after") | ~attacked
        unlike = ~attacked | states.no_map(rows, meant=False) | states.no_map(rows, "map_state_after", meant=False)
        rows = states.at_worst(states.at_worst(rows, iou_before=0.0), "map_state_after", iou_after=0.0)
        before, after = (rows[f"iou_{when}"].to_numpy(np.float64) < self.iou for when in ("before", "after"))
        fooled, boxed = rows["fooled"].to_numpy(bool), rows["iou_before"].notna().to_numpy()
        parts: dict[str, Part] = {name: states.flags(rows, name) for name in _STATES}
        parts |= {"unpredicted": ~_predicted(rows, "prediction_after"), "fooling_rate": _among(fooled, predicted)}
        for suffix, chosen in (("", boxed), ("_fooled", boxed & fooled)):
            parts |= {
                f"attacked{suffix}": attacked & chosen,
                f"box_error_before{suffix}": _among(before, chosen),
                f"box_error_after{suffix}": _among(after | ~attacked, chosen),
                f"box_error_change{suffix}": _among(np.where(lost, 1.0, after * 1.0 - before), chosen),
            }
        parts |= {name: _among(rows[name], ~unlike) for name in ("rank_correlation", "cosine")}
        scales = {"relative_l2": 1, "linf": 255, "l2": 1, "iterations": 1}
        parts |= {name: _among(scale * rows[name], attacked) for name, scale in scales.items()}
        return parts

    def metrics(self, sums: Sums) -> list[Metric]:
        """The metrics of the module's docstring, `l2` and `iterations`."""
        metrics = [*self._errors(sums, "", _note(sums)), *self._errors(sums, "_fooled", "")]
        metrics += [sums.mean(name, name, scale=1) for name in ("rank_correlation", "cosine")]
        metrics.append(sums.among("fooling_rate", sums.rate("fooling_rate", "fooling_rate", better="")))
        metrics.append(sums.mean("relative_l2", "relative_l2", better=""))
        noise = [sums.mean(name, name, better="", scale=1) for name in ("linf", "l2", "iterations")]
        return [*metrics, replace(noise[0], unit="/255"), *noise[1:]]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def _errors(self, sums: Sums, suffix: str, note: str) -> list[Metric]:
        """The box errors of rows that have a box to find, or of those whose prediction has changed."""
        at = f"{self.threshold:g} {self.rule}"
        before, after, change = (f"box_error_{what}{suffix}" for what in ("before", "after", "change"))
        first = sums.rate(before, before, threshold=at, better="lower", note=note)
        if sums.count(before) and not sums.total(f"attacked{suffix}")[0]:
            why = states.UNANSWERED
            others = [statistics.undefined(n, 0, why, threshold=at, better="lower") for n in (after, change)]
        else:
            second = sums.rate(after, after, threshold=at, better="lower")
            others = [second, sums.mean(change, change, threshold=at, better="lower", change=True)]
        return [sums.among(before, metric) for metric in (first, *others)]

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        attack = {"name": type(self.attack).__name__, **asdict(self.attack)}  # type: ignore[call-overload]
        asked = "on the predicted class; after it the true class remains, `target=predicted` asks for the new one"
        rule = "map constant or not finite, or no usable answer to attack: a miss, from a hit to a miss, no similarity"
        return {
            **self._boxes().protocol(),
            "evaluator": "adversarial",
            "attack": attack,
            "class": asked,
            "undefined": rule,
        }


def _first(logits: Tensor) -> Tensor:
    """(N,) int64: the top-1 class of each prediction (N, K); -1 if it is not finite."""
    import torch

    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


def _predicted(rows: pd.DataFrame, column: str) -> NDArray[np.bool_]:
    """(N,): whether the network predicts a class."""
    return np.asarray(rows.get(column, np.zeros(len(rows))), np.int64) >= 0


def _among(values: ArrayLike, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N,): the values of the chosen rows, NaN for all others."""
    return np.where(chosen, np.asarray(values, np.float64), np.nan)


def _note(sums: Sums) -> str:
    """The note on undefined maps and predictions, before and after the attack."""
    attacked = [states.counted(sums.total("map_state_after"), sums.rows, "maps")]
    if lost := int(sums.total("unpredicted")[0]):
        attacked.append(f"{lost} nonfinite of {sums.rows} answers")
    return "; ".join(part for part in (states.noted(sums), *(f"attacked: {p}" for p in attacked if p)) if part)


def _lengths(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    noise = (after - before).flatten(1)
    length = noise.norm(dim=1)
    whole = before.flatten(1).norm(dim=1)
    relative = length / whole.clamp(min=1e-12)
    return {"l2": length, "linf": noise.abs().amax(1), "relative_l2": relative}
