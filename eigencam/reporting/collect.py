"""Stored results as one long frame, with a line per metric and result; every table and report is a view of it."""

import errno
import hashlib
import inspect
import json
import os
import shlex
import sys
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eigencam.evaluation import escaping
from eigencam.evaluation.table_cells import column_of
from eigencam.files import first_line
from eigencam.store.build import find
from eigencam.store.canonical import canonical
from eigencam.store.outdated import outdated
from eigencam.store.reader import Stored, as_lines, newest, read_all
from eigencam.store.schema import NAMES
from eigencam.store.trust import Trust, packaged_target

LONG = 40
"""Maximum number of characters of a parameter's value in a name. A longer one is cut, or left out if the other
parameters distinguish the results."""


MOST = 8
"""Maximum number of parameters in a name."""


def collect(
    root: Path | str, *, all_versions: bool = False, keys: Sequence[str] = (), **only: Collection[str]
) -> pd.DataFrame:
    """Return all complete results below a folder, one line for each metric.

    Args:
        root: folder of result folders.
        all_versions: whether to include results that a later version of the same code supersedes.
        keys: parameters that become columns instead of parts of names; see `long_of`.
        only: names to keep, by `dataset`, `network`, `method` or `evaluator`; empty: all.

    Returns:
        Columns dataset, network, method, evaluator, metric, value, low, high, n, unit, threshold, better, note, the
        metric's own declarations (`eigencam.evaluation.base.SAID`), target, dtype, pictures (number of images),
        left_out, bad_truths, fitted_on, unsupported, part (of the dataset), baseline, caveat, headline, cost (of the
        method, in bare forward passes), commits, packages, outdated (parts whose version differs from this program's),
        group (the dataset's identity, the target and the dtype), claim and folder; dataset_name, network_name,
        method_name and evaluator_name are the names without what makes them distinct.

    Raises:
        FileNotFoundError: there are no complete results.
        PermissionError: none of the results may be read.
        ValueError: a name in `only` has no results.
    """
    return long_of(selected(root, all_versions=all_versions, **only), keys)


def selected(root: Path | str, *, all_versions: bool = False, **only: Collection[str]) -> list[dict[str, Any]]:
    """Return the complete results that `collect` makes its frame from; damaged ones are reported on stderr."""
    latest, superseded = complete(root)
    results = [_line(stored) for stored in latest]
    if all_versions:
        results += [_line(stored, f" ({stored.updated[:10]})") for stored in superseded]
    if not results:
        raise FileNotFoundError(f"{root}: no complete results there; `eigencam run` makes them")
    for column, names in only.items():
        wanted, available = set(names), sorted({r[f"{column}_name"] for r in results})
        if unknown := sorted(wanted - set(available)):
            raise ValueError(f"{column} {', '.join(unknown)}: no results in {root}; there are: {', '.join(available)}")
        results = [r for r in results if not wanted or r[f"{column}_name"] in wanted]
    return results


def complete(root: Path | str) -> tuple[list[Stored], list[Stored]]:
    """Return the complete results below a folder: the newest versions, and those that a newer one supersedes.

    Damaged, old or unreadable results are reported on stderr and left out.

    Raises:
        PermissionError: none of the results may be read.
    """
    try:
        everything = read_all(Path(root))
    except FileNotFoundError:
        everything = []
    if everything and all(stored.state == "refused" for stored in everything):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(everything[0].folder))
    for line in as_lines(everything):
        print(escaping.one_line(f"left out: {line}"), file=sys.stderr)
    return newest(stored for stored in everything if stored.state in ("done", "left out"))


@contextmanager
def alone(folder: str, what: str = "left out") -> Iterator[None]:
    """Confine an error of one result (damaged rows, untrusted code) to that result; it is reported on stderr."""
    try:
        yield
    except Exception as error:  # any error of its evaluator on foreign rows
        print(escaping.one_line(f"{what}: {folder}: {first_line(error)}"), file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Evaluators:
    """The evaluators of results, each built once.

    Attributes:
        trust: what may be built.
    """

    trust: Trust
    _built: dict[str, Any] = field(default_factory=dict)

    def of(self, stored: Stored) -> Any:
        """Return the evaluator of a result. UntrustedError if its code is not trusted."""
        described = canonical(stored.identity["evaluator"])
        if described not in self._built:
            self._built[described] = stored.evaluator(self.trust)
        return self._built[described]


def read_results(root: Path, folders: Container[str] | None = None) -> list[dict[str, Any]]:
    """Return the facts about each complete result below `root`, or only about those in `folders`."""
    return [_line(stored) for stored in read_all(root, folders) if stored.state in ("done", "left out")]


def by_folder(root: Path, long: pd.DataFrame) -> dict[str, Stored]:
    """Return the results behind the lines of a frame, by folder name."""
    return {stored.folder.name: stored for stored in read_all(root, set(long["folder"]))}


def long_of(results: Iterable[Mapping[str, Any]], keys: Sequence[str] = ()) -> pd.DataFrame:
    """Return the frame of `collect` for some results of `selected`; names are made distinct among these alone.

    Args:
        results: the results.
        keys: parameters of networks, evaluators, methods or datasets that become columns (`column_of`): `layer`,
            `threshold`, or qualified, `method.alpha`. They are then not part of names.
    """
    results = [dict(result) for result in results]
    for key in keys:
        column = values_of(key, results)
        for result, value in zip(results, column, strict=True):
            result[column_of(key)] = value
    _tell_apart(results, keys)
    lines = []
    for result in results:
        shared = {key: value for key, value in result.items() if key not in ("metrics", "identity", "protocol")}
        lines += [{**shared, "metric": m.pop("name"), **m} for m in map(dict, result["metrics"])]
        if not result["metrics"]:
            texts = dict.fromkeys(("metric", "unit", "threshold", "better", "note", "win", "kept", "caution"), "")
            lines.append({**shared, **texts, "n": 0})
    names = dict.fromkeys(name for line in lines for name in line)
    frame = pd.DataFrame({name: _as_column([line.get(name, np.nan) for line in lines]) for name in names})
    numbers = ["value", "low", "high", "cost"]
    return frame.reindex(columns=[*frame.columns.difference(numbers, sort=False), *numbers]).astype(
        dict.fromkeys(numbers, float)
    )


def _as_column(values: list[Any]) -> "pd.Series[Any]":
    """A column; text stays Python strings, since selecting lines of a small frame takes Arrow several times as long."""
    return pd.Series(values, dtype=object if any(isinstance(value, str) for value in values) else None)


def provenance(root: Path, folders: Collection[str]) -> dict[str, list[str]]:
    """Return the commands, code and machines of results: `command`, `code` and `machine`, each value once."""
    runs = [run for stored in read_all(root, set(folders)) for run in stored.computing]
    facts = {
        "command": [shlex.join(run.command) for run in runs],
        "code": [run.code for run in runs],
        "machine": [run.machine for run in runs],
    }
    return {key: list(dict.fromkeys(lines)) for key, lines in facts.items()}


def _line(stored: Stored, suffix: str = "") -> dict[str, Any]:
    """The facts about one complete result; `suffix` is appended to its method's name."""
    summary, identity = stored.summary, stored.identity
    if summary is None:
        raise ValueError(f"{stored.folder}: not complete")
    data = identity["dataset"]
    names = dict(zip(NAMES, stored.names, strict=True))
    return {
        **names,
        "network": stored.network,
        "method": names["method"] + suffix,
        **{f"{column}_name": name for column, name in names.items()},
        "target": identity["target"],
        "dtype": identity["dtype"],
        "pictures": summary.n,
        "left_out": len(summary.bad_images),
        "bad_truths": len(summary.bad_truths),
        "fitted_on": summary.fitted_on,
        "cost": stored.cost,
        "unsupported": summary.unsupported,
        "part": " ".join(str(data[key]) for key in ("task", "image_set", "split") if data.get(key)),
        "headline": list(summary.headline),
        "group": json.dumps([data, identity["target"], identity["dtype"]], sort_keys=True),
        "baseline": summary.baseline,
        "caveat": summary.caveat,
        "folder": stored.folder.name,
        "commits": tuple(sorted({run.commit for run in stored.computing})),
        "packages": tuple(sorted({pair for run in stored.computing for pair in run.packages.items()})),
        "outdated": "; ".join(outdated(identity)),
        "claim": str(stored.claim or ""),
        "metrics": summary.metrics,
        "protocol": summary.protocol,
        "identity": identity,
    }


def _tell_apart(results: list[dict[str, Any]], keys: Sequence[str] = ()) -> None:
    """Add to a method's, evaluator's or network's name the parameters in which results of the same name differ.

    A parameter that is absent from an identity has its default and is not shown; nor are `keys`, which are columns.
    Parameters are compared only among results that ran, if any did. For a method that could not run, null parameters,
    such as a missing file, are not shown. Results that are still alike get the end of their folder's name.
    """
    for part in ("method", "evaluator", "network"):
        by_name: dict[str, list[dict[str, Any]]] = {}
        for result in results:
            by_name.setdefault(result[part], []).append(result)
        for same in by_name.values():
            flat = [
                {k: json.dumps(v) for k, v in _flat(result["identity"][part]).items() if not _is_key(part, k, keys)}
                for result in same
            ]
            ran = [f for f, result in zip(flat, same, strict=True) if not result["unsupported"]] or flat
            parameters_of = dict.fromkeys(k for f in ran for k in f)
            differing = sorted(k for k in parameters_of if len({f.get(k) for f in ran}) > 1)
            short = [k for k in differing if all(len(f.get(k, "").strip('"')) <= LONG for f in ran)]
            if _kinds(ran, short) == _kinds(ran, differing):  # long values, such as checksums, distinguish nothing more
                differing = short
            for result, parameters in zip(same, flat, strict=True):
                lacking = bool(result["unsupported"])
                given = [k for k in differing if k in parameters and not (lacking and parameters[k] == "null")]
                shown = [f"{_short(k.removeprefix('parameters.'))}={_short(parameters[k])}" for k in given]
                if shown:
                    result[part] += f" ({', '.join(shown[:MOST])}{', …' if len(shown) > MOST else ''})"
    for same in _alike(results, keys):  # they differ in something else: the memory format, or a new key
        for result in same[1:]:
            result["method"] += f" ({result['folder'].rsplit('-', 1)[-1]})"


def _alike(results: Iterable[dict[str, Any]], keys: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Groups of results that would fall into one cell of a table."""
    places: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for result in results:
        places.setdefault(tuple(result[key] for key in ("group", *NAMES, *map(column_of, keys))), []).append(result)
    return [same for same in places.values() if len(same) > 1]


PARTS = ("network", "evaluator", "method", "dataset")
"""Parts of an identity, in the order in which an unqualified parameter is looked up."""


def values_of(key: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a parameter's value in each result, as text; its default where a result's identity does not state it.

    Raises:
        ValueError: no result has such a parameter.
    """
    part = next((part for part in PARTS if any(_is_key(part, k, [key]) for k in _keys_of(part, results))), "")
    if not part:
        stated = sorted(
            {k.rsplit(".", 1)[-1] for part in ("network", "evaluator", "method") for k in _keys_of(part, results)}
        )
        raise ValueError(f"{key}: no result has such a parameter; there are: {', '.join(stated) or 'none'}")
    return [_value(part, key, result) for result in results]


def _value(part: str, key: str, result: Mapping[str, Any]) -> str:
    found = next((v for k, v in _flat(result["identity"][part]).items() if _is_key(part, k, [key])), None)
    name = key.rsplit(".", 1)[-1]
    if found is None and part == "evaluator":
        found = result["protocol"].get(name)
    return _short(json.dumps(default_of(part, result, name) if found is None else found, default=str))


def default_of(part: str, result: Mapping[str, Any], name: str) -> Any:
    """Return the default of a parameter of our own code; `default` if it is not known."""
    described = result["identity"][part]
    try:
        target = packaged_target(part, str(described.get("name")))
        default = inspect.signature(find(target)).parameters[name].default
    except (KeyError, TypeError, ValueError):
        return "default"
    return "default" if default is inspect.Parameter.empty else default


def _keys_of(part: str, results: Iterable[Mapping[str, Any]]) -> dict[str, None]:
    """The flat keys of a part of the identities; for an evaluator, also those of its protocol."""
    found = {k: None for result in results for k in _flat(result["identity"][part])}
    return found | ({k: None for result in results for k in result["protocol"]} if part == "evaluator" else {})


def _is_key(part: str, flat: str, keys: Sequence[str]) -> bool:
    """Whether a flat key of a part of an identity is one of the requested keys."""
    name = flat.removeprefix("parameters.")
    return any(name == key.removeprefix(f"{part}.") or (name.rsplit(".", 1)[-1] == key) for key in keys)


def _kinds(flat: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> int:
    """Number of distinct combinations of values of the keys."""
    return len({tuple(f.get(k) for k in keys) for f in flat})


def _short(text: str) -> str:
    """A parameter as shown in a name; a long one as its beginning and four digits of its hash."""
    text = text.strip('"')
    return text if len(text) <= LONG else f"{text[:12]}~{hashlib.sha256(text.encode()).hexdigest()[:4]}"


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
