"""Provenance of one result: what was computed, from what, by which runs, and what was left out."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping

from eigencam.evaluation import states
from eigencam.store.outdated import outdated
from eigencam.store.reader import Stored
from eigencam.store.schema import Run, Summary

NAMED = 5
"""Maximum number of left-out images that are listed."""

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "scipy", "eigencam-bench")
"""Packages that numbers depend on most; the run's file lists all."""


def card(stored: Stored) -> list[str]:
    """Return the lines of the page.

    Args:
        stored: the result, read with a check of its rows' checksum.
    """
    dataset, network, method, evaluator = stored.names
    lines = [f"{method} on {network}, {dataset}: {evaluator}", f"  folder: {stored.folder}", f"  state: {stored.state}"]
    if claim := stored.claim:
        lines += [f"  {claim}; bundle {claim.bundle} of {claim.host}, {claim.made}"]
    lines += [f"  {fault}" for fault in (stored.denied, stored.old, *stored.faults) if fault]
    if stored.summary is not None:
        lines += _metrics(stored.summary)
        lines += _images(stored, stored.summary)
    identity = dict(stored.identity)
    for part in ("network", "dataset", "method", "evaluator"):
        lines += ["", part, *_described(identity.pop(part, {}))]
    if stored.summary is not None:
        lines += ["", "protocol", *_described(stored.summary.protocol)]
    lines += ["", "run", *_described({key: value for key, value in identity.items() if key != "format"})]
    if old := outdated(stored.identity):
        lines += ["  made by another version of this program: " + "; ".join(old)]
    for run in stored.computing:
        lines += ["", *_run(run)]
    return lines


def _metrics(summary: Summary) -> Iterator[str]:
    yield ""
    yield "metrics"
    if summary.unsupported:
        yield f"  not run: {summary.unsupported}"
    for metric in summary.metrics:
        interval = f" [{metric['low']:.4g}, {metric['high']:.4g}]" if metric["low"] == metric["low"] else ""
        value = f"{metric['value']:.4g}{metric['unit']}{interval}" if metric["value"] == metric["value"] else "-"
        beside = [f"n = {metric['n']}", metric["threshold"], metric["note"]]
        yield f"  {metric['name']}: {value}; {'; '.join(filter(None, beside))}"


def _images(stored: Stored, summary: Summary) -> Iterator[str]:
    """The numbers of images that were scored, left out and undefined."""
    if summary.unsupported:
        return
    yield ""
    yield "images"
    yield f"  scored: {summary.n}"
    for what, reasons in (("could not be decoded", summary.bad_images), ("invalid truth", summary.bad_truths)):
        if reasons:
            yield f"  left out, {what}: {len(reasons)}"
            yield from (f"    {image}: {reason}" for image, reason in list(reasons.items())[:NAMED])
    if summary.fitted_on:
        yield f"  seen by the classifier when it was fitted: {summary.fitted_on}"
    columns = {"map_state": "maps", "answer_state": "answers of the network"}
    counts = {column: Counter[str]() for column in columns}
    for rows in stored.row_file().blocks(list(columns)):
        for column in counts.keys() & set(rows.columns):
            counts[column].update(rows[column].tolist())
    for column, what in columns.items():
        if degenerate := {state: n for state, n in counts[column].most_common() if state in states.DEGENERATE}:
            yield f"  {what} that are " + ", ".join(f"{state}: {n}" for state, n in degenerate.items())


def _described(node: object, indent: str = "  ") -> Iterator[str]:
    """Nested mappings as indented lines."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from _described(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {value if isinstance(value, str) else json.dumps(value)}"


def _run(run: Run) -> Iterator[str]:
    """One run: command, code, machine, rows and cost."""
    yield f"computed {run.started} on {run.host}"
    yield f"  command: {shlex.join(run.command)}"
    yield f"  code: {run.code}"
    yield f"  machine: {run.machine}, device {run.environment.get('device')}"
    packages = [f"{name} {run.packages[name]}" for name in PACKAGES if name in run.packages]
    yield f"  packages: {', '.join(packages)}"
    if run.environment.get("weights_sha256"):
        yield f"  weights: SHA-256 {run.environment['weights_sha256']}"
    if run.rows:
        yield "  rows: " + ", ".join(f"{first} to {last}" for first, last in run.rows)
    if run.images:
        yield f"  images: {run.images} in {run.seconds:.1f} s"
    if run.cost is not None:
        yield f"  cost: {run.cost:.2f} forward passes"
