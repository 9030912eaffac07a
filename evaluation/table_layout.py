"""Arrange the long frame as tables: keys of lines and columns, the best cells, and the footnotes.

The frame has one line per metric and result, with everything that a number needs to be read: n, the
threshold, the 95 % interval, the protocol, what was left out, and whether results come from different code.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from eigencam.evaluation.footnotes import claim_notes, footnotes, origin_notes, placing_notes
from eigencam.evaluation.table_cells import PARAMETER, Style, Table, cell, decimals, stored_name

PLAIN = Style()


def tables(long: pd.DataFrame, metrics: Sequence[str] = (), style: Style = PLAIN) -> list[Table]:
    """Return one table per (dataset, evaluator) and per value of all keys that are not in its lines and columns.

    Args:
        long: the frame of `eigencam.reporting.collect.collect`.
        metrics: chooses the columns, by default the evaluator's headline.
        style: arrangement and form.
    """
    if unknown := sorted(set(metrics) - set(long["metric"])):
        names = ", ".join(sorted(set(long["metric"]) - {""}))
        raise ValueError(f"no result has the metrics {', '.join(unknown)}; there are: {names or 'none'}")
    others = [key for key in ("network", "method") if key not in style.keys]
    made: list[Table] = []
    for names, part in long.groupby(["dataset", "group", "evaluator", *others], sort=True):
        titles = [name for name in part["metric"].unique() if name]
        defined = set(part.loc[part["value"].notna(), "metric"])
        headline = next((names for names in part["headline"] if names), titles)
        firsts = [next((n for n in name.split("|") if n in defined), name) for name in metrics or headline]
        chosen = [name for name in firsts if name in titles]
        if chosen or not metrics:
            about = dict(zip(others, map(str, names[3:]), strict=True))
            each = [chosen] if "metric" in style.keys else [[name] for name in chosen]
            made += [_both(part, str(names[2]), shown, about, style) for shown in each]
    return made


def _both(part: pd.DataFrame, evaluator: str, chosen: list[str], about: dict[str, str], style: Style) -> Table:
    """A table; if its names are printed, with its stored-name version attached."""
    made = _table(part, evaluator, chosen, about, style)
    if style.names is stored_name:
        return made
    return replace(made, stored=_table(part, evaluator, chosen, about, replace(style, names=stored_name, paper=False)))


def _table(part: pd.DataFrame, evaluator: str, chosen: list[str], about: dict[str, str], style: Style) -> Table:
    """A table of the defined metrics; one that is the same for all methods of every network becomes a note."""
    rows, columns = list(style.rows), list(style.columns)
    lines = part[part["metric"].isin(chosen)]
    lines = lines[lines.groupby("metric")["value"].transform("count") > 0]
    lines, notes = _hoisted(_with_text(lines, style), chosen, style)
    shown = [name for name in chosen if name in set(lines["metric"])]
    style = replace(style, orders={**style.orders, "metric": chosen})
    keys = (lines if "metric" in rows else part)[[*rows, "baseline"]].drop_duplicates(rows)
    keys = _ordered(keys, rows, style).reset_index(drop=True)
    alone = shown[0] if len(shown) == 1 and "metric" not in rows and columns != ["metric"] else ""
    if alone:  # it is in the title, not in every column
        columns = [key for key in columns if key != "metric"]
    placed = _placed(lines, style)
    places = _ordered(lines[[*columns, "baseline"]].drop_duplicates(columns), columns, style)[columns]
    frame = pd.DataFrame({style.key(key): [style.names(key, value) for value in keys[key]] for key in rows})
    best, second = (pd.DataFrame(index=keys.index) for _ in range(2))
    index = pd.MultiIndex.from_frame(keys[rows])
    heads: list[tuple[str, ...]] = [(style.key(key),) for key in rows]
    for place in places.itertuples(index=False):
        here = (placed[columns] == pd.Series(place, index=columns)).all(axis=1) if columns else slice(None)
        cells = placed[here].set_index(rows)
        _check_alone(cells, place, style)
        cells = cells.reindex(index)
        head = tuple(_heading(key, value, lines, style) for key, value in zip(columns, place, strict=True))
        name = ", ".join(head)
        if name in frame:
            raise ValueError(f"two columns are called {name}; --rename gives one of them another name")
        frame[name] = cells["text"].fillna("-").to_numpy()
        best[name], second[name] = (cells["place"].eq(k).to_numpy() for k in (1, 2))
        heads.append(head)
    claims, provenance = claim_notes(part, style), origin_notes(part, style)
    notes += [*placing_notes(style, bool(shown)), *footnotes(part, shown, chosen, style), *claims, *provenance]
    if style.keys == PLAIN.keys and shown and (costs := _costs(part, keys)):
        frame[style.key("cost")] = costs
        heads.append((style.key("cost"),))
        notes.append("cost: time of the method alone, as a multiple of a bare forward pass (median of three batches)")
    title = _title(part, evaluator, {**about, **({"metric": _with_unit(alone, lines, style)} if alone else {})}, style)
    span = style.key("network") if rows[0] == "network" and len(rows) > 1 else ""
    return Table(title, frame, best, notes, second if style.second else None, heads, span, tuple(provenance))


def _with_text(lines: pd.DataFrame, style: Style) -> pd.DataFrame:
    """The lines with the `text` of their cells."""
    digits = {metric: decimals(values, style.decimals) for metric, values in lines.groupby("metric")}
    texts = [
        cell(value, low, high, digits[metric], style.intervals, style.marks.get((folder, metric), ""))
        for metric, value, low, high, folder in zip(
            *(lines[name] for name in ("metric", "value", "low", "high", "folder")), strict=True
        )
    ]
    return lines.assign(text=pd.Series(texts, lines.index, object))


def _hoisted(lines: pd.DataFrame, chosen: Sequence[str], style: Style) -> tuple[pd.DataFrame, list[str]]:
    """The lines without the metrics that are the same for all methods of every network, and these metrics as notes."""
    if style.columns != ("metric",) or "method" not in style.rows:
        return lines, []
    groups = [key for key in style.rows if key != "method"]
    notes, same = [], []
    for metric in chosen:
        defined = lines[(lines["metric"] == metric) & lines["value"].notna()]
        texts = defined.groupby(groups, sort=True)["text"] if groups else defined.groupby("metric")["text"]
        pairs = lines.loc[lines["metric"] == metric, style.rows].drop_duplicates()  # type: ignore[call-overload]
        alone = len(pairs) <= (pairs[groups].drop_duplicates().shape[0] if groups else 1)
        if defined.empty or alone or len(defined) == 1 or texts.nunique().max() > 1:
            continue
        same.append(metric)
        said = [
            f"{' '.join(style.names(key, str(name)) for key, name in zip(groups, _tuple(names), strict=False))} {text}"
            for names, text in texts.first().items()
        ]
        notes.append(f"{_with_unit(metric, lines, style)}: {'; '.join(text.strip() for text in said)}")
    return lines[~lines["metric"].isin(same)], notes


def _placed(lines: pd.DataFrame, style: Style) -> pd.DataFrame:
    """The lines with their `place` among the methods: 1 for the best, 2 for the second best, else 0.

    A method with fewer images than another has no place.
    """
    groups = [key for key in dict.fromkeys((*style.keys, "metric")) if key != "method"]
    if "method" not in style.keys:
        groups = list(dict.fromkeys((*style.columns, "metric")))
    sense = lines["value"] * lines["better"].map({"lower": -1.0, "higher": 1.0}).astype(float)
    sense = sense.where(lines["n"] == lines.groupby(groups)["n"].transform("max"))
    rank = sense.groupby([lines[key] for key in groups]).rank(ascending=False, method="dense")
    return lines.assign(place=rank.fillna(0))


def _check_alone(cells: pd.DataFrame, place: Iterable[str], style: Style) -> None:
    """Raise ValueError if several results would fall into one cell."""
    if (twice := cells.index[cells.index.duplicated()]).empty:
        return
    where = ", ".join(map(str, (*_tuple(twice[0]), *place)))
    folders = ", ".join(sorted(set(cells.loc[[twice[0]], "folder"]))[:4])
    lines, columns = (",".join(key.removeprefix(PARAMETER) for key in keys) for keys in (style.rows, style.columns))
    raise ValueError(
        f"--rows {lines} --columns {columns}: several results in one cell ({where}): "
        f"{folders}; add the parameter in which they differ to --rows, --columns or --pivot, or choose with --only"
    )


def _ordered(frame: pd.DataFrame, keys: Sequence[str], style: Style) -> pd.DataFrame:
    """The lines of a frame sorted by keys: in the given order, baselines last, numbers in texts by value."""
    ranks = pd.DataFrame(index=frame.index)
    for key in keys:
        if key == "method" and "baseline" in frame:
            ranks["baseline"] = frame["baseline"]
        given = {value: k for k, value in enumerate(style.orders.get(key, ()))}
        values = sorted(frame[key].unique(), key=lambda value: (given.get(value, len(given)), natural(str(value))))
        ranks[key] = frame[key].map({value: k for k, value in enumerate(values)})
    return frame.loc[ranks.sort_values([*map(str, ranks)], kind="stable").index]


def natural(text: str) -> list[tuple[int, float, str]]:
    """Return a sort key that orders numbers in texts by value: `features.5` before `features.12`, 0.15 before 0.2.

    >>> sorted(["features.12", "features.5", "0.2", "0.15"], key=natural)
    ['0.15', '0.2', 'features.5', 'features.12']
    """
    if re.fullmatch(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text):
        return [(0, float(text), "")]
    pieces = re.split(r"(\d+)", text)
    return [(0, float(piece), "") if k % 2 else (1, 0.0, piece.lower()) for k, piece in enumerate(pieces)]


def _heading(key: str, value: str, lines: pd.DataFrame, style: Style) -> str:
    return _with_unit(value, lines, style) if key == "metric" else style.heading(key, value)


def _with_unit(metric: str, lines: pd.DataFrame, style: Style) -> str:
    """`mean_iou %`; printed `Mean IoU (%)`."""
    name = style.names("metric", metric)
    unit = next((u for u in lines.loc[lines["metric"] == metric, "unit"] if isinstance(u, str) and u), "")
    return f"{name} {unit}".strip() if not (style.paper and unit) else f"{name} ({unit})"


def _title(part: pd.DataFrame, evaluator: str, cells_of: dict[str, str], style: Style) -> str:
    """Dataset, n, evaluator, the keys common to all cells, requested class."""
    images = part.loc[part["unsupported"] == "", "pictures"]
    n = int(images.max()) if len(images) else 0
    target, data = part["target"].iloc[0], part["part"].iloc[0]
    dtype = "" if part["dtype"].iloc[0] == "float32" else f", {part['dtype'].iloc[0]}"
    more = [style.names(key, value) for key, value in cells_of.items() if value]
    if not style.paper:
        data = f"{part['dataset'].iloc[0]} {data}".strip()
        about = ", ".join([style.names("evaluator", evaluator), *more])
        return f"{data}, {n} images: {about} (maps for the class: {target}{dtype})"
    data = " ".join(filter(None, (style.names("dataset", part["dataset"].iloc[0]), f"({data})" if data else "")))
    classes = style.names("target", target)
    return f"{', '.join([style.names('evaluator', evaluator), *more])} on {data}, n = {n:,}, maps for {classes}{dtype}"


def _costs(part: pd.DataFrame, keys: pd.DataFrame) -> list[str]:
    """The cost of each method; empty if none was measured."""
    known = part.drop_duplicates(["network", "method"]).set_index(["network", "method"])["cost"]
    found = known.reindex(pd.MultiIndex.from_frame(keys[["network", "method"]]))
    return [cell(cost, np.nan, np.nan, 2) for cost in found] if known.notna().any() else []


def _tuple(names: object) -> tuple[object, ...]:
    return names if isinstance(names, tuple) else (names,)
