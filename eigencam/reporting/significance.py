"""Marks of significance: which methods of a table differ from one of them in a paired test."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from eigencam.evaluation.paired import holm
from eigencam.reporting.collect import alone, by_folder
from eigencam.reporting.comparison import Compared, pair_of
from eigencam.store.trust import PACKAGED, Trust

LEVEL = 0.05
MARK = "*"


def marks(
    root: Path, long: pd.DataFrame, against: str, metrics: Sequence[str] = (), trust: Trust = PACKAGED
) -> dict[tuple[str, str], str]:
    """Return a mark by (folder, metric) for each number that differs significantly from the reference's.

    Results of the same network, dataset, class and evaluator are compared over their common images; p-values are
    corrected by Holm over all comparisons for one dataset and evaluator.

    Args:
        root: folder of results.
        long: the frame that the tables are made from.
        against: the reference, a method's name.
        metrics: names; empty: the evaluators' headlines.
        trust: what may be built from stored results.

    Raises:
        ValueError: there is no result of the reference.
    """
    of_reference = (long["method"] == against) | (long["method_name"] == against)
    if not of_reference.any():
        raise ValueError(f"--against {against}: no such method; there are: {', '.join(sorted(set(long['method'])))}")
    stored = by_folder(root, long)
    found: dict[tuple[str, str], str] = {}
    for _, part in long[long["unsupported"] == ""].groupby(["dataset", "group", "evaluator"], sort=False):
        lines: list[tuple[str, Compared]] = []
        references = {f: m for f, m in zip(part["folder"], of_reference[part.index], strict=True) if m}
        for folder in part["folder"].unique():
            first = [
                name
                for name in references
                if name != folder and _comparable(stored[name].identity, stored[folder].identity)
            ]
            for reference in first[:1]:
                with alone(str(folder), "not compared"):
                    lines += [
                        (str(folder), line) for line in pair_of(stored[reference], stored[folder], metrics, trust)
                    ]
        corrected = holm([line.difference.p for _, line in lines])
        found |= {(f, line.metric): MARK for (f, line), p in zip(lines, corrected, strict=True) if p < LEVEL}
    return found


def _comparable(one: object, other: object) -> bool:
    """Whether two identities differ only in their methods."""
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    return {**one, "method": None} == {**other, "method": None}
