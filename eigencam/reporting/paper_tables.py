"""The papers' tables: the published number, ours, the difference, n, and marks for what is not comparable.

A layout (`eigencam.reporting.paper_layouts`) says how a published table is printed and what of ours stands beside it;
the numbers are in `published.csv`. A number that is missing there is not in the paper, or could not be read in any
source: unless a person's reading fills its cell, the cell stays empty and a note says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from eigencam.evaluation.footnotes import claim_notes, outdated_notes
from eigencam.evaluation.tables import Table
from eigencam.reporting.collect import long_of
from eigencam.reporting.paper_layouts import ANY, Key, Layout, layouts
from eigencam.reporting.published import PublishedCell, papers
from eigencam.store.identity import describe

EMPTY = ""
"""The cell of a number that is neither published nor measured."""


def paper_table(
    layout: Layout,
    published: pd.DataFrame,
    long: pd.DataFrame,
    anchors: pd.DataFrame | None = None,
    readings: pd.DataFrame | None = None,
) -> Table:
    """Return a published table with our numbers.

    Args:
        layout: of the table.
        published: from `published.numbers`.
        long: from `eigencam.reporting.collect.collect`; may be empty.
        anchors: from `published.anchors`.
        readings: from `published.read_readings`; their cells are marked, and a note names reader and source.

    Returns:
        Columns network (the paper's), method (the paper's), for each metric the published value, ours and the
        difference, then `ours of` (our network and method), `n`, and `differs` (marks that the notes explain). Anchors
        come first; our rows that are not in the paper come last.
    """
    marks, readers = _Marks(), _Marks()
    values = _published(layout, published) | _read(layout, readings, readers)
    mine = _ours(layout, long)
    lines, used = _anchored(layout, anchors, values, marks), set[tuple[str, str]]()
    for model, method in _rows(layout, published):
        about = layout.models.get(model, {"networks": [], "differs": "no network of ours"})
        ours = [key for key, found in mine.items() if layout.stands_beside(model, method, key, found)]
        used |= {key[:2] for key in ours}
        for key in ours or [None]:
            shown = {title: values.get((model, method, column.published)) for title, column in layout.metrics.items()}
            found = mine[key] if key else {}
            texts = _differences(layout, {} if layout.trained(method) else about, found)
            mark = marks.of(texts if found else [*texts, *layout.not_run(model, method)])
            lines.append(_line(layout, (model, method), shown, key, found) | {"differs": mark})
    for key, found in mine.items():
        if key[:2] not in used:
            mark = marks.of(_differences(layout, {}, found))
            lines.append(_line(layout, (EMPTY, EMPTY), {}, key, found) | {"differs": mark})
    frame = pd.DataFrame(lines)
    best = pd.DataFrame(False, index=frame.index, columns=frame.columns[2:])
    notes = [*_notes(layout, frame, marks, readers), *claim_notes(long), *outdated_notes(long)]
    return Table(f"{layout.paper}: {layout.title}", frame, best, notes)


class Theirs(NamedTuple):
    """A published value in the table's unit, with the mark of the person who read it, if any."""

    value: float
    mark: str = ""


Values = dict[tuple[str, str, str], Theirs]
"""Published values by the paper's network, method and metric."""


def cells(layout: Layout, published: pd.DataFrame) -> list[PublishedCell]:
    """The cells of a table: each row of the paper with each metric."""
    return [
        PublishedCell((layout.paper, layout.name, layout.dataset, model, method, column.published), title, layout.title)
        for model, method in _rows(layout, published)
        for title, column in layout.metrics.items()
    ]


def empty_cells(layout: Layout, published: pd.DataFrame) -> list[PublishedCell]:
    """The cells of a table without a number in `published.csv`."""
    known = _published(layout, published)
    return [cell for cell in cells(layout, published) if cell.place[3:] not in known]


def every_cell(published: pd.DataFrame) -> list[PublishedCell]:
    """The cells of all papers' tables."""
    return [cell for paper in papers() for layout in layouts(paper) for cell in cells(layout, published)]


def _of(layout: Layout, frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of a table."""
    here = (frame["paper"] == layout.paper) & (frame["table"] == layout.name) & (frame["dataset"] == layout.dataset)
    return frame[here]


def _rows(layout: Layout, published: pd.DataFrame) -> list[tuple[str, str]]:
    """The paper's (network, method) pairs."""
    lines = _of(layout, published)
    return list(dict.fromkeys([*zip(lines["model"], lines["method"], strict=True), *layout.rows]))


def _published(layout: Layout, published: pd.DataFrame) -> Values:
    lines = _of(layout, published)
    columns = zip(*(lines[c] for c in ("model", "method", "metric", "value", "unit")), strict=True)
    return {
        (m, method, metric): Theirs(v * (100 if unit == "fraction" else 1)) for m, method, metric, v, unit in columns
    }


def _read(layout: Layout, readings: pd.DataFrame | None, readers: "_Marks") -> Values:
    """A person's readings, each with its mark."""
    if readings is None:
        return {}
    lines = _of(layout, readings)
    said = [f"read by {reader} in {source}" for reader, source in zip(lines["reader"], lines["source"], strict=True)]
    values = _published(layout, readings).items()
    return {
        key: Theirs(found.value, f" (r{readers.of([text])})") for (key, found), text in zip(values, said, strict=True)
    }


def _anchored(layout: Layout, anchors: pd.DataFrame | None, values: Values, marks: "_Marks") -> list[dict[str, str]]:
    """The lines of baselines computed from the truth alone, independent of the network."""
    if anchors is None:
        return []
    lines = []
    for (method, rule), anchored in _of(layout, anchors).groupby(["method", "rule"], sort=False):
        line = _line(layout, (ANY, str(method)), {}, None, {})
        for title, column in layout.metrics.items():
            theirs = {found.value for key, found in values.items() if key[1:] == (method, column.published)}
            for ours in anchored.loc[anchored["metric"] == column.published, "value"]:
                line[f"{title} ours"] = f"{ours:.2f}"
                if len(theirs) == 1:
                    [value] = theirs
                    line |= {f"{title} published": f"{value:.2f}", f"{title} diff.": f"{ours - value:+.2f}"}
        line["n"] = "/".join(dict.fromkeys(f"{n:,}" for n in anchored["n"]))
        mark = marks.of([f"ours: {rule}; from the truth alone, without image or network: python scripts/anchors.py"])
        lines.append(line | {"differs": mark})
    return lines


KEY = ("network", "method", "network_name", "method_name")


def shown_beside(layout: Layout, long: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of `long` that the table shows, with the title of the layout's column as `column`.

    Among several numbers, the one whose evaluator matches the experiment is preferred, then the one over most images.
    The column `parameters` of `long`, if present, says how an evaluator differs from the experiment's.
    """
    if long.empty:
        return long.assign(column=())
    here = (long["dataset_name"] == layout.ours["dataset"]) & (long["target"] == layout.ours["target"])
    if "part" in layout.ours:
        here &= long["part"] == layout.ours["part"]
    titles = {(column.evaluator, column.metric): title for title, column in layout.metrics.items()}
    pairs = zip(long["evaluator_name"], long["metric"], strict=True)
    columns = pd.Series([titles.get(pair) for pair in pairs], long.index, object)
    lines = long.assign(column=columns)[here & long["value"].notna()]
    lines = lines.dropna(subset="column").sort_values("n", ascending=False, kind="stable")
    if "parameters" in lines:
        lines = lines.sort_values("parameters", key=lambda texts: texts != "", kind="stable")
    return lines.drop_duplicates([*KEY, "column"])


def _ours(layout: Layout, long: pd.DataFrame) -> dict[Key, dict[str, Mapping[Any, Any]]]:
    """Our metrics by network, method and their printed names (`KEY`), then by the layout's column."""
    found: dict[Key, dict[str, Mapping[Any, Any]]] = {}
    for line in shown_beside(layout, long).to_dict("records"):
        network, method, network_name, method_name = (line[name] for name in KEY)
        found.setdefault((network, method, network_name, method_name), {})[line["column"]] = line
    return dict(sorted(found.items()))


@dataclass(slots=True)
class _Marks:
    """Gives each sentence a number, in the order of first use."""

    numbers: dict[str, int] = field(default_factory=dict)

    def of(self, texts: Iterable[str]) -> str:
        return ", ".join(str(self.numbers.setdefault(text, len(self.numbers) + 1)) for text in texts)


def _differences(layout: Layout, about: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """How one line differs from the paper: in its network and in the settings of our numbers."""
    texts = []
    if about.get("differs"):
        texts.append(f"network: {about['differs']}")
    if results:
        if layout.images is None:
            texts.append("n: the paper's number of images is not known")
        elif not all(layout.images in (line["n"], line["pictures"]) for line in results.values()):
            texts.append(f"n: the paper has {layout.images:,}")
        texts += dict.fromkeys(f"evaluator: {p}" for line in results.values() if (p := line.get("parameters")))
        texts += dict.fromkeys(f"method: {caveat}" for line in results.values() if (caveat := line.get("caveat")))
    return [*texts, *(layout.differs if results else ())]


def _line(
    layout: Layout,
    names: tuple[str, str],
    shown: Mapping[str, Theirs | None],
    key: Key | None,
    results: Mapping[str, Mapping[Any, Any]],
) -> dict[str, str]:
    """One line of the printed table."""
    line: dict[str, str] = {"network": names[0], "method": names[1]}
    for title in layout.metrics:
        theirs, ours = shown.get(title), results.get(title)
        line[f"{title} published"] = f"{theirs.value:.2f}{theirs.mark}" if theirs else EMPTY
        line[f"{title} ours"] = _measured(ours) if ours else EMPTY
        line[f"{title} diff."] = f"{ours['value'] - theirs.value:+.2f}" if ours and theirs else EMPTY
    line["ours of"] = f"{key[0]}, {key[1]}" if key else EMPTY
    line["n"] = "/".join(sorted({f"{ours['n']:,}" for ours in results.values()}))
    return line


def _measured(ours: Mapping[str, Any]) -> str:
    interval = "" if np.isnan(ours["low"]) else f" [{ours['low']:.1f}, {ours['high']:.1f}]"
    return f"{ours['value']:.2f}{interval}"


def _notes(layout: Layout, frame: pd.DataFrame, marks: _Marks, readers: _Marks) -> list[str]:
    notes = [f"{number}: {text}" for text, number in marks.numbers.items()]
    notes += [f"r{number}: {text}, not by this project" for text, number in readers.numbers.items()]
    theirs = frame.loc[frame["network"] != EMPTY, [f"{title} published" for title in layout.metrics]]
    if (theirs == EMPTY).to_numpy().all():
        notes.append("the published values could not be read in any source: their cells are empty")
    elif (theirs == EMPTY).to_numpy().any():
        notes.append("empty cells under `published`: not in the paper, or not readable in any source")
    notes.append("numbers in percent; in brackets: 95 % intervals over images; diff.: ours less the published")
    return [*notes, f"made by: {layout.command}"]


def beside(root: Path, layout: Layout, results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The lines of the results that a published table shows.

    Names of networks, methods and evaluators are made distinct among the results with the layout's dataset and
    evaluators only.
    """
    wanted = {column.evaluator for column in layout.metrics.values()}
    chosen = [r for r in results if r["dataset"] == layout.ours["dataset"] and r["evaluator"] in wanted]
    if not chosen:
        return pd.DataFrame()
    planned, long = _planned(layout), long_of(chosen)
    for column in layout.metrics.values():
        if column.among:
            from eigencam.reporting.derived import with_wins  # importing SciPy takes time

            long = with_wins(root, long, column.among)
    others = {r["folder"]: _others(r["identity"]["evaluator"], planned.get(r["evaluator"], {})) for r in chosen}
    fitted = {r["folder"]: r["identity"]["network"].get("fitted", "") for r in chosen}
    more = {"parameters": long["folder"].map(others), "fitted": long["folder"].map(fitted)}
    return shown_beside(layout, long.assign(**more))


def _planned(layout: Layout) -> dict[str, Mapping[str, Any]]:
    """The evaluators of a layout's experiment, with all their parameters."""
    from eigencam.configuring.compose import compose

    composed = compose("run", [f"experiment={layout.experiment}"])
    nodes: Any = OmegaConf.to_container(composed.evaluator, resolve=True)
    return {name: describe(node) for name, node in nodes.items()}


def _others(stored: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    """The parameters in which an evaluator differs from the planned one; "" if it does not, or if none is planned."""
    if not planned:
        return ""
    theirs, ours = stored.get("parameters", {}), planned.get("parameters", {})
    if not isinstance(theirs, Mapping):
        return "other parameters"
    differing = [key for key in dict.fromkeys([*theirs, *ours]) if theirs.get(key) != ours.get(key)]
    return ", ".join(f"{key}={theirs.get(key, 'default')}" for key in differing)
