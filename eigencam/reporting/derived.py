"""Numbers derived from finished results without a network: metrics split by prediction, and shares of images won.

Both take the long frame of `eigencam.reporting.collect.collect`, read the rows behind it, and return a long frame.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import SAID, Metric
from eigencam.evaluation.contributions import Part
from eigencam.evaluation.sums import BLOCK, Sums, of_size, reduced, summarised
from eigencam.reporting.collect import alone, by_folder
from eigencam.store.finish import KEY
from eigencam.store.reader import Stored
from eigencam.store.row_file import RowFile
from eigencam.store.trust import PACKAGED, Trust

PARTS = ("right", "wrong")
_ASKED = ("confidence", "answer_state", "map_state", "constant_by_design")
"""Columns that say whether a drop is defined."""

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
    for folder, result in long.groupby("folder", sort=False):
        shared = (
            result.iloc[0].drop(list(_METRIC), errors="ignore").to_dict()
        )  # there are fewer columns without metrics
        if shared["unsupported"]:
            lines.append({str(key): value for key, value in result.iloc[0].items()})
            continue
        with alone(str(folder)):
            file = stored[str(folder)].row_file()
            images = _images_of_parts(file)
            if images is None:
                continue
            evaluator = stored[str(folder)].evaluator(trust)
            shared["headline"] = [
                "|".join(f"{name}_{part}" for name in names.split("|"))
                for names in shared["headline"] or result["metric"]
                for part in PARTS
            ]
            made: list[dict[str, Any]] = []
            for part, n in images.items():
                metrics = summarised(evaluator, _Predicted(file, part, n)) if n else _none(result)
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
        methods: plain names; compare only these, for networks with exactly one variant of each.
    """
    drops = long[long["win"].fillna("") != ""]
    if methods:
        drops = drops[drops["method_name"].isin(methods)]
    added = []
    stored = by_folder(root, drops)
    for _, part in drops.groupby(["dataset", "group", "network", "evaluator"], sort=False):
        variants = part.drop_duplicates("folder")
        if len(variants) < 2 or (methods and sorted(variants["method_name"]) != sorted(methods)):
            continue
        readable = _readable(stored, part)
        for _, everything in part.groupby("metric", sort=False):
            lines = everything[[folder in readable for folder in everything["folder"]]]
            if len(lines) < 2:
                continue
            winning = _Winning(str(lines["win"].iloc[0]), tuple(map(str, lines["threshold"])))
            rows = _drops([readable[folder] for folder in lines["folder"]], list(map(str, lines["kept"])))
            won = reduced(winning, *rows) or winning.undefined()
            added += [
                {**line.to_dict(), **_line(metric)} for (_, line), metric in zip(lines.iterrows(), won, strict=True)
            ]
    wins = pd.DataFrame(added, columns=list(long.columns))
    if wins.empty:
        return long
    widened = dict(_widened(long, wins))
    headline = [widened.get(folder, names) for folder, names in zip(long["folder"], long["headline"], strict=True)]
    wins["headline"] = [widened[folder] for folder in wins["folder"]]
    return pd.concat([long.assign(headline=pd.Series(headline, long.index, object)), wins], ignore_index=True)


@dataclass(frozen=True, slots=True)
class _Winning:
    """Sums up rows of drops, `drop0`, `drop1`, ..., one per method.

    Attributes:
        name: of the metric.
        thresholds: each method's threshold.
    """

    name: str
    thresholds: tuple[str, ...]

    def parts(self, rows: pd.DataFrame) -> Mapping[str, Part]:
        """Which methods have the smallest drop of a row, and whether any has one."""
        drop = rows[[f"drop{k}" for k in range(len(self.thresholds))]].to_numpy(np.float64)
        defined = ~np.isnan(drop)
        smallest = defined & (drop <= np.fmin.reduce(drop, axis=1, keepdims=True))
        some = np.logical_or.reduce(defined, axis=1)
        return {"defined": some} | {f"won{k}": smallest[:, k] for k in range(len(self.thresholds))}

    def metrics(self, sums: Sums) -> list[Metric]:
        """The share of each method."""
        if not sums.total("defined").any():
            return self.undefined()
        note = f"smallest drop among {len(self.thresholds)} methods, a tie counts for each"
        levels = enumerate(self.thresholds)
        return [sums.rate(self.name, f"won{k}", threshold=threshold, note=note) for k, threshold in levels]

    def undefined(self) -> list[Metric]:
        """The metrics when there is no row, or no drop is defined."""
        return [statistics.undefined(self.name, 0, states.UNANSWERED, threshold=at) for at in self.thresholds]


def _together(files: Sequence[RowFile], kept: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Blocks of the drops of files whose rows are of the same images and classes, in the same order."""
    each = [of_size(file.blocks([*_ASKED, name]), BLOCK) for file, name in zip(files, kept, strict=True)]
    for blocks in zip(*each, strict=True):
        drops = [_drop(rows, name) for rows, name in zip(blocks, kept, strict=True)]
        yield blocks[0][KEY].assign(**{f"drop{k}": drop for k, drop in enumerate(drops)})


def _readable(stored: Mapping[str, Stored], lines: pd.DataFrame) -> dict[str, tuple[RowFile, bytes]]:
    """The rows by folder, and a checksum of their images and classes; a result without drops is named and left out."""
    found: dict[str, tuple[RowFile, bytes]] = {}
    for folder, part in lines.groupby("folder"):
        with alone(str(folder), "no wins of"):
            file, digest = stored[str(folder)].row_file(), hashlib.blake2b()
            names = list(map(str, part["kept"]))
            for rows in file.blocks([*_ASKED, *names]):
                digest.update(pd.util.hash_pandas_object(rows[KEY], index=False).to_numpy().tobytes())
                for name in names:
                    _drop(rows, name)
            found[str(folder)] = file, digest.digest()
    return found


def _drops(results: Sequence[tuple[RowFile, bytes]], kept: Sequence[str]) -> tuple[Iterable[pd.DataFrame], int]:
    """Blocks of rows with the drops `drop0`, ... of all methods, and the number of images.

    If all files have the same rows, they are read side by side; otherwise they are held in memory, and only rows that
    all files have are counted.
    """
    files = [file for file, _ in results]
    if len({digest for _, digest in results}) == 1:
        return _together(files, kept), files[0].images
    each = []
    for file, name in zip(files, kept, strict=True):
        rows = pd.concat(file.blocks([*_ASKED, name]), ignore_index=True)
        each.append(pd.Series(_drop(rows, name), pd.MultiIndex.from_frame(rows[KEY]), name=f"drop{len(each)}"))
    frame = pd.concat(each, axis=1, join="inner").reset_index()
    return [frame], frame["image"].nunique()


def _widened(long: pd.DataFrame, wins: pd.DataFrame) -> Iterable[tuple[str, list[str]]]:
    """The headline of each folder, with each `win_P` after its `drop_P`."""
    for folder, part in wins.groupby("folder"):
        own = long[long["folder"] == folder]
        names, win = list(own["headline"].iloc[0]), dict(zip(own["metric"], own["win"], strict=True))
        metrics = set(part["metric"])
        pairs = ([name, win.get(name) or name] for name in names)
        yield str(folder), [n for pair in pairs for n in dict.fromkeys(pair) if n in names or n in metrics]


@dataclass(frozen=True, slots=True)
class _Predicted:
    """The rows of a file whose prediction is right, or those whose prediction is wrong; implements `Blocks`."""

    file: RowFile
    part: str
    images: int

    def blocks(self) -> Iterator[pd.DataFrame]:
        for rows in self.file.blocks():
            yield rows[_right(rows) == (self.part == "right")]

    def frame(self) -> pd.DataFrame:
        return pd.concat(self.blocks(), ignore_index=True)


def _images_of_parts(file: RowFile) -> dict[str, int] | None:
    """The number of images of either part; None where rows do not say what was predicted."""
    images: dict[str, int] = dict.fromkeys(PARTS, 0)
    last, answered = dict[str, object](), False
    for rows in file.blocks(["top5", "answer_state"]):
        if "top5" not in rows or (rows["label"].to_numpy(np.int64) < 0).any():
            return None
        has = ~states.no_answer(rows)
        if (_first(rows)[has] < 0).any():
            return None
        answered |= bool(has.any())
        for part, chosen in zip(PARTS, (right := _right(rows), ~right), strict=True):
            ids = rows["image"].to_numpy()[chosen]
            if len(ids):
                images[part] += 1 + int((ids[1:] != ids[:-1]).sum()) - (ids[0] == last.get(part))
                last[part] = ids[-1]
    return images if answered else None


def _right(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """(n,) bool: whether the first class is the label; False without a prediction."""
    return ~states.no_answer(rows) & (_first(rows) == rows["label"].to_numpy(np.int64))


def _first(rows: pd.DataFrame) -> NDArray[np.int64]:
    """(n,): the first class; -1 for none."""
    return np.array([int(top[0]) if len(top) else -1 for top in rows["top5"]], np.int64)


def _drop(rows: pd.DataFrame, kept: str) -> NDArray[np.float64]:
    """(n,): each row's drop; NaN where it is not defined."""
    before, after = (rows[name].to_numpy(np.float64) for name in ("confidence", kept))
    undefined = states.no_answer(rows) | states.no_map(rows, meant=False) | ~(before > 0)
    return np.where(undefined, np.nan, np.maximum(before - after, 0))


def _none(lines: pd.DataFrame) -> list[Metric]:
    """The metrics of a part without images."""
    return [
        statistics.undefined(line["metric"], 0, "not defined: no such image", better=line["better"])
        for _, line in lines.iterrows()
    ]


def _line(metric: Metric) -> dict[str, Any]:
    values = asdict(metric)
    return {"metric": values.pop("name"), **values}
