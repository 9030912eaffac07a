"""Curves of a result's rows, drawn from sums over blocks of rows where the evaluator has such sums.

`sums_of` and `mean_lines` are for evaluators that run the network on changed images: their curves are means.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.evaluation.base import Curve, curves_of
from eigencam.evaluation.contributions import Totals
from eigencam.evaluation.missing_predictions import worst_or_undefined
from eigencam.evaluation.sums import BLOCK, Blocks, added, of_size, stands


def draws_blocks(evaluator: object) -> bool:
    """Whether an evaluator's curves can be drawn from rows in blocks."""
    return stands(evaluator, "drawn", "curves")


def drawn(evaluator: Any, rows: Blocks) -> list[Curve]:
    """The curves of rows; empty if an evaluator draws none."""
    if draws_blocks(evaluator):
        return evaluator.drawn(added(evaluator.totals(block) for block in of_size(rows.blocks(), BLOCK)))
    return curves_of(evaluator, rows.frame())


def sums_of(rows: pd.DataFrame, worst: Mapping[str, float]) -> Totals:
    """Return the number of rows `n` (1,), and for each column of lists (N, P) its sum over the rows (P,), float64.

    Args:
        rows: rows of an evaluator that runs the network on changed images; without rows the result is empty.
        worst: for each column, the value for images whose map or prediction is not defined.
    """
    if rows.empty:
        return {}
    columns = {name: np.stack(rows[name].to_numpy()).astype(np.float64) for name in worst}
    sums = {name: worst_or_undefined(rows, values, worst[name]).sum(axis=0) for name, values in columns.items()}
    return {"n": np.array([len(rows)])} | sums


def mean_lines(totals: Totals, at: NDArray[np.float64], words: Mapping[str, tuple[str, str, str]]) -> list[Curve]:
    """Return the curves of the means in percent, without those that are not defined everywhere.

    Args:
        totals: `n` (1,), and a sum (P,) for each key of `words`; empty: no curves.
        at: (P,) the x of every curve.
        words: for each sum, the curve's name, the meaning of x and that of y.
    """
    means = {key: 100 * (totals[key] / totals["n"][0]) for key in words} if totals else {}
    return [Curve(*words[key], at, values) for key, values in means.items() if not np.isnan(values).any()]
