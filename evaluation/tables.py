"""Tables of numbers: arrange a long frame, print it as text, Markdown, LaTeX, CSV or HTML.

The frame has a line for each metric of each result. Whatever a number needs to be read stands with it: n, the
threshold, the 95 % interval, the protocol, what was left out, and whether results come from different code.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from tabulate import tabulate

from eigencam import moved
from eigencam.evaluation import escaping, states

Format = Literal["terminal", "markdown", "latex", "csv", "html"]
FORMATS: tuple[Format, ...] = ("terminal", "markdown", "latex", "csv", "html")
MOST = 4
"""Results, and packages, that a footnote on their origin names."""

COLUMNS = ("dataset", "network", "method", "evaluator")


@dataclass(frozen=True, slots=True)
class Table:
    """One table: the results of one evaluator on one dataset.

    Attributes:
        title: dataset, pictures, evaluator, class asked for.
        frame: a line for each (network, method), a column for each metric, cells of text.
        best: same shape as `frame`'s metric columns: which cells are best of their network.
        notes: footnotes.
    """

    title: str
    frame: pd.DataFrame
    best: pd.DataFrame
    notes: list[str]


def tables(long: pd.DataFrame, metrics: Sequence[str] = ()) -> list[Table]:
    """One table for each (dataset, evaluator); `metrics` chooses the columns, by default the evaluator's headline."""
    if unknown := sorted(set(metrics) - set(long["metric"])):
        names = ", ".join(sorted(set(long["metric"]) - {""}))
        raise ValueError(f"no result has the metrics {', '.join(unknown)}; there are: {names or 'none'}")
    made = []
    for (_, _, evaluator), part in long.groupby(["dataset", "group", "evaluator"], sort=True):
        there = [name for name in part["metric"].unique() if name]
        defined = set(part.loc[part["value"].notna(), "metric"])
        headline = next((names for names in part["headline"] if names), there)
        firsts = [next((n for n in name.split("|") if n in defined), name) for name in metrics or headline]
        chosen = [name for name in firsts if name in there]
        if chosen or not metrics:
            made.append(_table(part, str(evaluator), chosen))
    return made


def render(table: Table, style: Format) -> str:
    """A table as text, footnotes included; names are escaped by the format's rules."""
    return _WRITERS[style](table)


def _terminal(table: Table) -> str:
    shown = table.frame.map(escaping.one_line).rename(columns=escaping.one_line)
    if "network" in shown and shown.columns[0] == "network":
        shown = shown.assign(network=shown["network"].mask(shown["network"].duplicated(), ""))
    text = tabulate(shown.to_dict("list"), headers="keys", tablefmt="simple", disable_numparse=True)
    notes = [f"  {escaping.one_line(note)}" for note in table.notes]
    return "\n".join([escaping.one_line(table.title), "", *([text] if _has_metrics(table) else []), *notes, ""])


def _markdown(table: Table) -> str:
    heads = [escaping.markdown(name) for name in table.frame.columns]
    lines = _lines(table, escaping.markdown, "**{}**")
    sides = ["right" if number else "left" for number in _numeric(table.frame)]
    text = tabulate(lines, headers=heads, tablefmt="pipe", disable_numparse=True, colalign=sides)
    notes = [f"- {escaping.markdown(note, starts_line=True)}" for note in table.notes]
    title = f"### {escaping.markdown(table.title)}"
    return "\n".join([title, "", *([text, ""] if _has_metrics(table) else []), *notes, ""])


def _html(table: Table) -> str:
    heads = "".join(f"<th>{escaping.html(name)}</th>" for name in table.frame.columns)
    lines = ["".join(f"<td>{cell}</td>" for cell in line) for line in _lines(table, escaping.html, "<b>{}</b>")]
    rows = "\n".join(f"<tr>{cells}</tr>" for cells in lines)
    body = f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n"
    notes = "".join(f"<li>{escaping.html(note)}</li>" for note in table.notes)
    return f"<h2>{escaping.html(table.title)}</h2>\n{body if _has_metrics(table) else ''}<ul>{notes}</ul>\n"


def _latex(table: Table) -> str:
    heads = [escaping.latex(name) for name in table.frame.columns]
    lines = [" & ".join(cells) + r" \\" for cells in _lines(table, escaping.latex, r"\textbf{{{}}}")]
    right = [name in table.best or number for name, number in zip(table.frame, _numeric(table.frame), strict=True)]
    text = [
        *[f"% {escaping.one_line(note)}" for note in table.notes],
        r"\begin{table}",
        rf"\caption{{{escaping.latex(table.title)}}}",
        rf"\begin{{tabular}}{{{''.join('r' if side else 'l' for side in right)}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*text, ""])


def _csv(table: Table) -> str:
    return escaping.csv_table([table.frame.columns, *table.frame.itertuples(index=False)])


_WRITERS: Mapping[Format, Callable[[Table], str]] = {
    "terminal": _terminal,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "html": _html,
}


def _lines(table: Table, escape: Callable[[object], str], bold: str) -> list[list[str]]:
    """The cells, escaped, the best in bold."""
    columns = []
    for name in table.frame.columns:
        best = table.best[name] if name in table.best else [False] * len(table.frame)
        cells = map(escape, table.frame[name])
        columns.append([bold.format(cell) if mark else cell for cell, mark in zip(cells, best, strict=True)])
    return [list(line) for line in zip(*columns, strict=True)]


def _numeric(frame: pd.DataFrame) -> list[bool]:
    """Which columns hold numbers, or nothing."""
    filled = [[cell for cell in frame[name].astype(str) if cell] for name in frame.columns]
    return [bool(cells) and all(map(escaping.is_number, cells)) for cells in filled]


def _has_metrics(table: Table) -> bool:
    """Whether any metric is defined."""
    return table.frame.shape[1] > 2


def _table(part: pd.DataFrame, evaluator: str, chosen: list[str]) -> Table:
    """The metrics that are defined anywhere as columns; `a|b` is b where a is not.

    What is the same for all methods of every network (a classification error) becomes a note.
    """
    part = part.sort_values(["network", "baseline", "method"], kind="stable")
    keys = part[["network", "method"]].drop_duplicates().reset_index(drop=True)
    cells = part.set_index(["metric", "network", "method"])
    frame, best = keys.copy(), pd.DataFrame(index=keys.index)
    shown: list[str] = []
    notes: list[str] = []
    for metric in chosen:
        column = cells.loc[metric].reindex(pd.MultiIndex.from_frame(keys))
        value = column["value"].reset_index(drop=True)
        if value.isna().all():
            continue
        unit = next((u for u in column["unit"] if isinstance(u, str) and u), "")
        quads = zip(value, column["low"], column["high"], column["unit"], strict=True)
        text = pd.Series([_cell(*quad) for quad in quads])
        of_network = text[value.notna()].groupby(keys["network"])
        if len(value) > keys["network"].nunique() and of_network.nunique().max() == 1 and value.notna().sum() > 1:
            notes.append(
                f"{metric} {unit}: " + "; ".join(f"{name} {cell}" for name, cell in of_network.first().items())
            )
            continue
        title = f"{metric} {unit}".strip()
        frame[title] = text
        sense = value * {"lower": -1, "higher": 1}.get(column["better"].dropna().iloc[0], np.nan)
        n = column["n"].reset_index(drop=True)
        sense[n < n.groupby(keys["network"]).transform("max")] = np.nan  # over fewer images than another's
        best[title] = (sense == sense.groupby(keys["network"]).transform("max")) & sense.notna()
        shown.append(metric)
    notes += _notes(part, shown, chosen)
    costs = part.drop_duplicates(["network", "method"]).set_index(["network", "method"])["cost"]
    if shown and costs.notna().any():
        frame["cost"] = [_cell(cost, np.nan, np.nan, "") for cost in costs.reindex(pd.MultiIndex.from_frame(keys))]
        notes.append("cost: time of the method alone, as a multiple of a bare forward pass (median of three batches)")
    return Table(_title(part, evaluator), frame, best, notes)


def _cell(value: float, low: float, high: float, unit: str) -> str:
    """`57.5 [50.6, 64.1]`; a dash where there is no number."""
    if np.isnan(value):
        return "-"
    digits = 1 if unit == "%" else 2
    interval = "" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{interval}"


def _title(part: pd.DataFrame, evaluator: str) -> str:
    pictures = part.loc[part["unsupported"] == "", "pictures"]
    n = int(pictures.max()) if len(pictures) else 0
    target = part["target"].iloc[0]
    data = f"{part['dataset'].iloc[0]} {part['part'].iloc[0]}".strip()
    dtype = "" if part["dtype"].iloc[0] == "float32" else f", {part['dtype'].iloc[0]}"
    return f"{data}, {n} pictures: {evaluator} (maps for the class: {target}{dtype})"


def _fewer(lines: pd.DataFrame, shown: Sequence[str]) -> list[str]:
    """Which methods have a metric over fewer images than others of their network."""
    said: dict[str, list[str]] = {}
    for metric in shown:
        of = lines[(lines["metric"] == metric) & lines["value"].notna()]
        most = of.groupby("network")["n"].transform("max")
        counts = zip(of["network"], of["method"], of["n"], most, strict=True)
        if fewer := [f"{network}/{method} {n} of {whole}" for network, method, n, whole in counts if n < whole]:
            said.setdefault(", ".join(fewer), []).append(metric)
    return [f"over fewer images, not marked as best: {', '.join(ms)}: {which}" for which, ms in said.items()]


def _notes(part: pd.DataFrame, shown: list[str], chosen: list[str]) -> list[str]:
    lines = part[part["metric"].isin(shown)]
    notes = ["in brackets: 95 % intervals over images"] if shown else []
    senses = lines.groupby("better")["metric"].unique()
    notes += [
        f"{sense} is better: {', '.join(m for m in shown if m in set(ms))}" for sense, ms in senses.items() if sense
    ]
    said: dict[str, list[str]] = {}
    for metric in shown:
        of = lines[(lines["metric"] == metric) & lines["value"].notna()]
        ns, at = sorted(set(of["n"])), sorted(set(of["threshold"]) - {""})
        over = f"n = {ns[0]}" if len(ns) == 1 else f"n = {ns[0]} to {ns[-1]}"
        said.setdefault(", threshold ".join([over, " / ".join(at)] if at else [over]), []).append(metric)
    notes += [f"{what}: {', '.join(metrics)}" for what, metrics in said.items()]
    notes += _fewer(lines, shown)
    notes_of = part["note"].fillna("") + "; " + part["caution"].fillna("")
    each = part.assign(note=notes_of.str.split("; ")).explode("note", ignore_index=True)
    general = each["note"].str.endswith(states.SHARED)  # stands with one metric, concerns all
    lines = each[each["metric"].isin(chosen) | general]
    for note, of in lines[lines["note"] != ""].groupby("note", sort=False):
        names = sorted({f"{network}/{method}" for network, method in zip(of["network"], of["method"], strict=True)})
        everyone = len(names) == len(lines[["network", "method"]].drop_duplicates())
        metrics = "" if general[of.index].any() else f"{', '.join(m for m in chosen if m in set(of['metric']))}: "
        notes.append(f"{metrics}{note}" if everyone else f"{metrics}{note}: {', '.join(names)}")
    if left_out := int(part["left_out"].max()):
        notes.append(f"{left_out} pictures could not be decoded and are left out (named in metrics.json)")
    if wrong := int(part["bad_truths"].max()):
        notes.append(f"{wrong} images whose boxes, labels or mask cannot be right are left out (named in metrics.json)")
    for seen, of in part[part["fitted_on"] > 0].groupby("fitted_on"):
        names = ", ".join(sorted(set(of["network"])))
        notes.append(f"the classifier was fitted on {seen} of these pictures, whose classes it has seen: {names}")
    notes += [*outdated_notes(part), *_origins(part)]
    for why, of in part[part["unsupported"] != ""].groupby("unsupported", sort=False):
        names = sorted({f"{network}/{method}" for network, method in zip(of["network"], of["method"], strict=True)})
        notes.append(f"not run, {why}: {', '.join(names)}")
    return notes + caveats(part)


def caveats(long: pd.DataFrame) -> list[str]:
    """Return what the methods of a frame say that no table may leave out, with their names."""
    if "caveat" not in long:
        return []
    told = long[long["caveat"].fillna("") != ""].groupby("caveat", sort=False)["method"]
    return [f"{', '.join(sorted(set(methods)))}: {caveat}" for caveat, methods in told]


def outdated_notes(part: pd.DataFrame) -> list[str]:
    """Return which results another version of our code made: a run makes them anew."""
    if "outdated" not in part:
        return []
    names = part["network"] + "/" + part["method"]
    said = names.groupby(part["outdated"]).unique()
    return [f"made by another version ({what}): {_shortened(list(of))}" for what, of in said.items() if what]


def _origins(part: pd.DataFrame) -> list[str]:
    """Where the results of one table come from different code: commits, or versions of a package."""
    if "commits" not in part:
        return []
    of = part.drop_duplicates("folder")
    names = [f"{network}/{method}" for network, method in zip(of["network"], of["method"], strict=True)]
    commits = dict(zip(names, of["commits"], strict=True))
    notes = []
    if len({commit for found in commits.values() for commit in found}) > 1:
        notes.append(f"made by different commits: {_by_origin(commits)}")
    packages: dict[str, dict[str, list[str]]] = {}
    for name, pairs in zip(names, of["packages"], strict=True):
        for package, version in pairs:
            packages.setdefault(package, {}).setdefault(name, []).append(version)
    splits: dict[tuple[tuple[str, ...], ...], list[tuple[str, list[str]]]] = {}  # packages that split them alike
    for package, found in sorted(packages.items()):
        groups = _grouped(found)
        if len(groups) > 1:
            splits.setdefault(tuple(map(tuple, groups.values())), []).append((package, list(groups)))
    for groups, split in splits.items():
        sides = [
            ", ".join(f"{package} {versions[k]}" for package, versions in split[:MOST]) for k in range(len(groups))
        ]
        more = f", and {len(split) - MOST} more packages" if len(split) > MOST else ""
        said = "; ".join(f"{side} ({_shortened(of)})" for side, of in zip(sides, groups, strict=True))
        notes.append(f"made with different versions{more}: {said}")
    return notes


def _by_origin(found: Mapping[str, Sequence[str]]) -> str:
    """`3f2a81c (resnet50/cam, resnet50/gradcam), 81bc02e (resnet50/eigencam)`."""
    groups = _grouped(found)
    return ", ".join(f"{_commit(origin)} ({_shortened(of)})" for origin, of in groups.items())


def _grouped(found: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The results by origin, in their order."""
    groups: dict[str, list[str]] = {}
    for name, origins in found.items():
        for origin in dict.fromkeys(origins):
            groups.setdefault(origin or "no clone", []).append(name)
    return groups


def _shortened(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - MOST
    return ", ".join(names[:MOST]) + (f", and {more} more" if more > 0 else "")


def _commit(origin: str) -> str:
    """A commit by its first digits; a version as it is."""
    digits, space, rest = origin.partition(" ")
    return f"{digits[:10]}{space}{rest}" if len(digits) == 40 else origin


def __getattr__(name: str) -> Any:
    """What stood here once; see `eigencam.moved`."""
    return moved.attribute(__name__, name)
