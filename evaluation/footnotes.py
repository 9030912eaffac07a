"""The footnotes of a table: n, thresholds, what was left out, and where results come from different code."""

from collections.abc import Mapping, Sequence

import pandas as pd

from eigencam.evaluation import states
from eigencam.evaluation.table_cells import Style

PLAIN = Style()

MOST = 4
"""Maximum number of results, and packages, named in a footnote on their origin."""


def placing_notes(style: Style, shown: bool) -> list[str]:
    """Return how the cells are to be read: intervals and marks."""
    notes = []
    if shown and style.intervals != "none":
        where = {"brackets": "in brackets", "pm": "behind ±, the longer half"}[style.intervals]
        notes.append(f"{where}: 95 % intervals over images")
    if shown and style.second:
        notes.append("bold: best; underlined: second best")
    if style.reference:
        reference = style.names("method", style.reference)
        tests = "McNemar's exact test for hit or miss, sign flips for all other metrics"
        notes.append(f"* differs from {reference}, p < 0.05 after Holm's correction over the table ({tests})")
    return notes


def footnotes(part: pd.DataFrame, shown: list[str], chosen: list[str], style: Style) -> list[str]:
    """Return what is needed to read the metrics of a table, and what was left out.

    Args:
        part: the lines of the table.
        shown: metrics that are defined in it.
        chosen: metrics that were requested.
        style: how names are printed.
    """
    lines = part[part["metric"].isin(shown)]
    return [
        *_senses(lines, shown, style),
        *_counts(lines, shown, style),
        *_fewer(lines, shown, style),
        *_sayings(part, chosen, style),
        *_left_out(part, style),
    ]


def _senses(lines: pd.DataFrame, shown: list[str], style: Style) -> list[str]:
    """Which direction is better."""
    senses = lines.groupby("better")["metric"].unique()
    return [
        f"{sense} is better: {', '.join(style.names('metric', m) for m in shown if m in set(ms))}"
        for sense, ms in senses.items()
        if sense
    ]


def _counts(lines: pd.DataFrame, shown: list[str], style: Style) -> list[str]:
    """How many images, and at which threshold."""
    said: dict[str, list[str]] = {}
    for metric in shown:
        defined = lines[(lines["metric"] == metric) & lines["value"].notna()]
        ns, at = sorted(set(defined["n"])), sorted(set(defined["threshold"]) - {""})
        over = f"n = {ns[0]}" if len(ns) == 1 else f"n = {ns[0]} to {ns[-1]}"
        where = ", threshold ".join([over, " / ".join(at)] if at else [over])
        said.setdefault(where, []).append(style.names("metric", metric))
    return [f"{what}: {', '.join(metrics)}" for what, metrics in said.items()]


def _fewer(lines: pd.DataFrame, shown: Sequence[str], style: Style) -> list[str]:
    """Methods that have a metric over fewer images than others of their network."""
    said: dict[str, list[str]] = {}
    for metric in shown:
        defined = lines[(lines["metric"] == metric) & lines["value"].notna()]
        most = defined.groupby("network")["n"].transform("max")
        counts = zip(_results(defined, style), defined["n"], most, strict=True)
        if fewer := [f"{name} {n} of {whole}" for name, n, whole in counts if n < whole]:
            said.setdefault(", ".join(fewer), []).append(style.names("metric", metric))
    return [f"over fewer images, not marked as best: {', '.join(ms)}: {which}" for which, ms in said.items()]


def _sayings(part: pd.DataFrame, chosen: list[str], style: Style) -> list[str]:
    """The notes of metrics, each once for all results that have it."""
    notes_of = part["note"].fillna("") + "; " + part["caution"].fillna("")
    each = part.assign(note=notes_of.str.split("; ")).explode("note", ignore_index=True)
    general = each["note"].str.endswith(states.SHARED)  # stored with one metric, concerns all
    lines = each[each["metric"].isin(chosen) | general]
    everyone = len(lines[["network", "method"]].drop_duplicates())
    notes = []
    for note, noted in lines[lines["note"] != ""].groupby("note", sort=False):
        names = sorted(set(_results(noted, style)))
        own = [style.names("metric", m) for m in chosen if m in set(noted["metric"])]
        metrics = "" if general[noted.index].any() else f"{', '.join(own)}: "
        notes.append(f"{metrics}{note}" if len(names) == everyone else f"{metrics}{note}: {', '.join(names)}")
    return notes


def _left_out(part: pd.DataFrame, style: Style) -> list[str]:
    """Images and results that are left out, methods that need a remark, and images that a classifier was fitted on."""
    notes = []
    if left_out := int(part["left_out"].max()):
        notes.append(f"{left_out} images could not be decoded and are left out (named in metrics.json)")
    if wrong := int(part["bad_truths"].max()):
        notes.append(f"{wrong} images whose boxes, labels or mask cannot be right are left out (named in metrics.json)")
    for seen, lines in part[part["fitted_on"] > 0].groupby("fitted_on"):
        names = ", ".join(sorted({style.names("network", name) for name in lines["network"]}))
        notes.append(f"the classifier was fitted on {seen} of these images, whose classes it has seen: {names}")
    for why, lines in part[part["unsupported"] != ""].groupby("unsupported", sort=False):
        notes.append(f"not run, {why}: {', '.join(sorted(set(_results(lines, style))))}")
    return notes + caveats(part, style)


def origin_notes(part: pd.DataFrame, style: Style = PLAIN) -> list[str]:
    """Return where results come from: another version of our code, or different code."""
    return [*outdated_notes(part, style), *_origins(part, style)]


def claim_notes(part: pd.DataFrame, style: Style = PLAIN) -> list[str]:
    """Return which results came from others, and which of them were reproduced here."""
    if "claim" not in part:
        return []
    names = pd.Series(_results(part, style), part.index, object)
    said = names.groupby(part["claim"]).unique()
    return [f"{claim}: {', '.join(sorted(methods))}" for claim, methods in said.items() if claim]


def _results(lines: pd.DataFrame, style: Style) -> list[str]:
    """`network/method` of each line."""
    pairs = zip(lines["network"], lines["method"], strict=True)
    return [f"{style.names('network', network)}/{style.names('method', method)}" for network, method in pairs]


def caveats(long: pd.DataFrame, style: Style = PLAIN) -> list[str]:
    """Return the caveats of the methods in a frame, which every table must show, with the methods' names."""
    if "caveat" not in long:
        return []
    stated = long[long["caveat"].fillna("") != ""].groupby("caveat", sort=False)["method"]
    return [f"{', '.join(sorted({style.names('method', m) for m in methods}))}: {caveat}" for caveat, methods in stated]


def outdated_notes(part: pd.DataFrame, style: Style = PLAIN) -> list[str]:
    """Return the results made by another version of our code, which a run computes again."""
    if "outdated" not in part:
        return []
    names = pd.Series(_results(part, style), part.index, object)
    said = names.groupby(part["outdated"]).unique()
    return [f"made by another version ({what}): {_shortened(list(members))}" for what, members in said.items() if what]


def _origins(part: pd.DataFrame, style: Style = PLAIN) -> list[str]:
    """Notes if the results of one table come from different code: commits, or versions of a package."""
    if "commits" not in part:
        return []
    results = part.drop_duplicates("folder")
    names = _results(results, style)
    commits = dict(zip(names, results["commits"], strict=True))
    notes = []
    if len({commit for found in commits.values() for commit in found}) > 1:
        notes.append(f"made by different commits: {_by_origin(commits)}")
    packages: dict[str, dict[str, list[str]]] = {}
    for name, pairs in zip(names, results["packages"], strict=True):
        for package, version in pairs:
            packages.setdefault(package, {}).setdefault(name, []).append(version)
    splits: dict[tuple[tuple[str, ...], ...], list[tuple[str, list[str]]]] = {}  # packages that split results alike
    for package, found in sorted(packages.items()):
        groups = _grouped(found)
        if len(groups) > 1:
            splits.setdefault(tuple(map(tuple, groups.values())), []).append((package, list(groups)))
    for groups, split in splits.items():
        sides = [
            ", ".join(f"{package} {versions[k]}" for package, versions in split[:MOST]) for k in range(len(groups))
        ]
        more = f", and {len(split) - MOST} more packages" if len(split) > MOST else ""
        said = "; ".join(f"{side} ({_shortened(results)})" for side, results in zip(sides, groups, strict=True))
        notes.append(f"made with different versions{more}: {said}")
    return notes


def _by_origin(origins: Mapping[str, Sequence[str]]) -> str:
    """`3f2a81c (resnet50/cam, resnet50/gradcam), 81bc02e (resnet50/eigencam)`."""
    groups = _grouped(origins)
    return ", ".join(f"{_commit(origin)} ({_shortened(names)})" for origin, names in groups.items())


def _grouped(origins_by_name: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The names of the results by origin, in the order of `origins_by_name`."""
    groups: dict[str, list[str]] = {}
    for name, origins in origins_by_name.items():
        for origin in dict.fromkeys(origins):
            groups.setdefault(origin or "no clone", []).append(name)
    return groups


def _shortened(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - MOST
    return ", ".join(names[:MOST]) + (f", and {more} more" if more > 0 else "")


def _commit(origin: str) -> str:
    """A commit by its first digits; a version unchanged."""
    digits, space, rest = origin.partition(" ")
    return f"{digits[:10]}{space}{rest}" if len(digits) == 40 else origin
