"""Numbers derived from finished results without a network: metrics split by prediction, and shares of images won.

Both take the long frame of `eigencam.evaluation.tables.collect`, read the rows behind it, and return a long frame.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import SAID, Metric
from eigencam.reporting.collect import alone
from eigencam.store.reader import Stored, read_all
from eigencam.store.trust import PACKAGED, Trust

PARTS = ("right", "wrong")
_METRIC = ("metric", "value", "low", "high", "n", "unit", "threshold", "better", "note", *SAID)


def by_prediction(root: Path, long: pd.DataFrame, trust: Trust = PACKAGED) -> pd.DataFrame:
    """Return every metric twice: over the images whose top-1 class is their label (`NAME_right`), and over the others.

    The evaluator summarises either part of the rows as it does all rows, so any evaluator's metrics can be split. With
    `target=each`, a row is right if the network's top-1 class is the class of the row.

    Args:
        root: folder of results.
        long: from `collect`.
        trust: what may be built; a result whose evaluator is not trusted is left out, with a line on stderr.

    Raises:
        ValueError: no result has rows with the network's predictions.
    """
    lines: list[dict[str, Any]] = []
    stored = by_folder(root, long)
    for folder, of in long.groupby("folder", sort=False):
        shared = of.iloc[0].drop(list(_METRIC), errors="ignore").to_dict()  # there are fewer columns without metrics
        if shared["unsupported"]:
            lines.append({str(key): value for key, value in of.iloc[0].items()})
            continue
        with alone(str(folder)):
            rows = stored[str(folder)].rows()
            right = _right(rows)
            if right is None:
                continue
            evaluator = stored[str(folder)].evaluator(trust)
            shared["headline"] = [
                "|".join(f"{name}_{part}" for name in names.split("|"))
                for names in shared["headline"] or of["metric"]
                for part in PARTS
            ]
            made: list[dict[str, Any]] = []
            for part, chosen in zip(PARTS, (right, ~right), strict=True):
                own = rows[chosen].reset_index(drop=True)
                metrics = statistics.by_image(evaluator.summary(own), own) if len(own) else _none(of)
                made += [{**shared, **_line(metric), "metric": f"{metric.name}_{part}"} for metric in metrics]
            lines += made
    if not any(line["metric"] for line in lines):
        raise ValueError(
            f"{root}: no rows say whether the prediction is right; the network's classes must be the dataset's, and "
            "the images labelled"
        )
    return pd.DataFrame(lines, columns=list(long.columns))


def with_wins(root: Path, long: pd.DataFrame, methods: Collection[str] = ()) -> pd.DataFrame:
    """Return `long` and, for metrics that declare a `win` (average drops), the share of images with the smallest drop.

    The methods in `long` are compared per network and dataset, over the images for which all have rows. Choose two of
    them for the pairwise share of Chattopadhay et al., "Grad-CAM++", WACV 2018. A tie counts for each of the tied
    methods, since the shares in that paper add up to more than 100 %. An undefined drop, without a map or valid
    logits, wins nothing; see `evaluation/faithfulness.py`.

    Args:
        root: folder of results.
        long: from `collect`.
        methods: compare only these, by their plain names, if a network has each of them in one variant.
    """
    drops = long[long["win"].fillna("") != ""]
    if methods:
        drops = drops[drops["method_name"].isin(methods)]
    added = []
    stored = by_folder(root, drops)
    for _, of in drops.groupby(["dataset", "group", "network", "evaluator"], sort=False):
        variants = of.drop_duplicates("folder")
        if len(variants) < 2 or (methods and sorted(variants["method_name"]) != sorted(methods)):
            continue
        by_row = _drops(stored, of)
        for metric, everything in of.groupby("metric", sort=False):
            lines = everything[[(folder, metric) in by_row for folder in everything["folder"]]]
            if len(lines) < 2:
                continue
            name = str(lines["win"].iloc[0])
            frame = pd.concat([by_row[folder, str(metric)] for folder in lines["folder"]], axis=1, join="inner")
            drop, images = frame.to_numpy(), frame.index.to_frame()
            defined = ~np.isnan(drop)
            smallest = defined & (drop <= np.fmin.reduce(drop, axis=1, keepdims=True))
            note = f"smallest drop among {len(lines)} methods, a tie counts for each"
            for (_, line), won in zip(lines.iterrows(), smallest.T, strict=True):
                win = statistics.rate(name, won, threshold=line["threshold"], note=note)
                if not defined.any():
                    win = statistics.undefined(name, 0, states.UNANSWERED, threshold=line["threshold"])
                added += [{**line.to_dict(), **_line(metric)} for metric in statistics.by_image([win], images)]
    wins = pd.DataFrame(added, columns=list(long.columns))
    if wins.empty:
        return long
    widened = dict(_widened(long, wins))
    headline = [widened.get(folder, names) for folder, names in zip(long["folder"], long["headline"], strict=True)]
    wins["headline"] = [widened[folder] for folder in wins["folder"]]
    return pd.concat([long.assign(headline=pd.Series(headline, long.index, object)), wins], ignore_index=True)


def by_folder(root: Path, long: pd.DataFrame) -> dict[str, Stored]:
    """Return the results behind the lines of a frame, by folder name."""
    return {stored.folder.name: stored for stored in read_all(root, set(long["folder"]))}


def _drops(stored: Mapping[str, Stored], lines: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """The drop of each row, by folder and metric; a result whose rows lack it is reported and left out."""
    found: dict[tuple[str, str], pd.Series] = {}
    for folder, of in lines.groupby("folder"):
        with alone(str(folder), "no wins of"):
            rows = stored[str(folder)].rows()
            for metric, kept in zip(of["metric"], of["kept"], strict=True):
                found[str(folder), str(metric)] = _drop(rows, str(kept))
    return found


def _widened(long: pd.DataFrame, wins: pd.DataFrame) -> Iterable[tuple[str, list[str]]]:
    """The headline of each folder, with each `win_P` after its `drop_P`."""
    for folder, of in wins.groupby("folder"):
        own = long[long["folder"] == folder]
        names, win = list(own["headline"].iloc[0]), dict(zip(own["metric"], own["win"], strict=True))
        there = set(of["metric"])
        pairs = ([name, win.get(name) or name] for name in names)
        yield str(folder), [n for pair in pairs for n in dict.fromkeys(pair) if n in names or n in there]


def _right(rows: pd.DataFrame) -> NDArray[np.bool_] | None:
    """(n,) bool: whether the top-1 class is the label (False without logits); None if a row does not say."""
    if not len(rows) or "top5" not in rows:
        return None
    answered = ~states.no_answer(rows)
    first = np.array([int(top[0]) if len(top) else -1 for top in rows["top5"]])
    label = rows["label"].to_numpy(np.int64)
    if not answered.any() or first[answered].min() < 0 or label.min() < 0:
        return None
    return answered & (first == label)


def _drop(rows: pd.DataFrame, kept: str) -> pd.Series:
    """Each row's drop, by image and requested class; NaN if it is not defined."""
    before, after = (rows[name].to_numpy(np.float64) for name in ("confidence", kept))
    undefined = states.no_answer(rows) | states.no_map(rows, meant=False) | ~(before > 0)
    drop = np.where(undefined, np.nan, np.maximum(before - after, 0))
    return pd.Series(drop, index=pd.MultiIndex.from_frame(rows[["image", "label"]]))


def _none(of: pd.DataFrame) -> list[Metric]:
    """The metrics of a part without images."""
    return [
        statistics.undefined(line["metric"], 0, "not defined: no such image", better=line["better"])
        for _, line in of.iterrows()
    ]


def _line(metric: Metric) -> dict[str, Any]:
    values = asdict(metric)
    return {"metric": values.pop("name"), **values}
