"""Images without a valid prediction, in evaluators that run the network on changed images; see `states`."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Metric
from eigencam.evaluation.sums import Part, Sums


def worst_or_undefined(rows: pd.DataFrame, values: NDArray[np.float64], worst: float) -> NDArray[np.float64]:
    """(N,) or (N, P): `at_worst`, or NaN for all images if none has a valid prediction."""
    missing = no_prediction(rows, values).all()
    return np.full_like(values, np.nan) if missing else at_worst(rows, values, worst)


def at_worst(rows: pd.DataFrame, values: NDArray[np.float64], worst: float) -> NDArray[np.float64]:
    """(N,) or (N, P): the values, with `worst` for images whose map or prediction is not defined, or with a NaN."""
    bad = no_prediction(rows, values) | states.no_map(rows, meant=False)
    return np.where(bad.reshape(-1, *[1] * (values.ndim - 1)), worst, values)


def no_prediction(rows: pd.DataFrame, values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(N,): whether the network has no valid prediction for an image, or for a changed form of it."""
    return states.no_answer(rows) | np.isnan(values).reshape(len(rows), -1).any(axis=1)


def value_parts(rows: pd.DataFrame, name: str, values: NDArray[np.float64], worst: float) -> dict[str, Part]:
    """The parts of a metric: `name`, the result of `at_worst`; `name missing`, that of `no_prediction`."""
    return {name: at_worst(rows, values, worst), f"{name} missing": no_prediction(rows, values)}


def all_missing(sums: Sums, name: str) -> bool:
    """Whether no image has a valid prediction."""
    return sums.total(f"{name} missing")[0] == sums.rows


def footnote_parts(rows: pd.DataFrame, values: NDArray[np.floating]) -> dict[str, Part]:
    """For the footnote: undefined maps and predictions, other images without a value, images of probability 0."""
    known = states.no_answer(rows) | states.no_map(rows, meant=False)
    changed = [name for name in rows if str(name).startswith("kept_")]
    values = np.concatenate([values.reshape(len(rows), -1), rows[changed].to_numpy(np.float64)], axis=1)
    return {
        "map_state": states.flags(rows),
        "answer_state": states.flags(rows, "answer_state"),
        "more": no_prediction(rows, values) & ~known,
        "zero": (values[:, 0] == 0) & bool(changed),
    }


def note(sums: Sums) -> str:
    """The footnote with the numbers of `footnote_parts`."""
    parts = [states.noted(sums)]
    if count := sums.total("more")[0]:
        parts.append(f"{count} further images without a value, at the worst")
    if count := sums.total("zero")[0]:
        parts.append(f"{count} images of probability 0 to begin with")
    return "; ".join(part for part in parts if part)


def mean(sums: Sums, name: str, *, note: str = "", threshold: str = "", better: str = "higher") -> Metric:
    """The metric `name`: the mean of the part `name`; not defined if no image has a valid prediction."""
    if all_missing(sums, name):
        why = "; ".join(part for part in (states.UNANSWERED, note) if part)
        return statistics.undefined(name, 0, why, threshold=threshold, better=better)
    return sums.mean(name, name, note=note, threshold=threshold, better=better)
