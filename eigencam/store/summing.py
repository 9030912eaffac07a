"""From rows to a published summary, and to the curves that are kept beside it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from eigencam.evaluation.base import Metric, draws, headline_of
from eigencam.evaluation.curves import drawn, draws_blocks
from eigencam.evaluation.sums import Blocks, summarised
from eigencam.files import replacing, sync_folder, write_bytes
from eigencam.store.canonical import plain
from eigencam.store.kept_curves import kept_curves, write_curves
from eigencam.store.row_file import as_bytes
from eigencam.store.schema import ROWS, SUMMARY, Seal, Summary, stated
from eigencam.store.seal import DamagedError, digest, file_digest, write_json
from eigencam.store.versions import summary_versions_of


def summed_up(evaluator: Any, rows: pd.DataFrame | Blocks) -> tuple[dict[str, Any], list[Metric]]:
    """Return the fields of `Summary` that an evaluator computes from rows, in memory or in blocks, and its metrics.

    Raises:
        ValueError: a metric occurs twice, or its numbers contradict each other.
    """
    metrics = summarised(evaluator, rows)
    made = tuple(stated(metric.stored()) for metric in metrics)
    if len({metric["name"] for metric in made}) < len(made):
        raise ValueError("metrics: one of them twice")
    summary = {
        "protocol": plain(dict(evaluator.protocol())),
        "headline": headline_of(evaluator),
        "summary_versions": summary_versions_of(type(evaluator)),
        "metrics": made,
    }
    return summary, metrics


def is_current(summary: Summary, evaluator: Any) -> bool:
    """Whether the evaluator would compute the same summary from the same rows."""
    return summary.summary_versions == summary_versions_of(type(evaluator))


def is_outdated(folder: Path, summary: Summary, evaluator: Any) -> bool:
    """Whether a complete result's summary is not current, or curves should be kept there and are not."""
    return not is_current(summary, evaluator) or _lacks_curves(folder, summary, evaluator)


def sum_up_again(folder: Path, summary: Summary, evaluator: Any, rows: Blocks, *, always: bool = False) -> None:
    """Publish a complete result with what is outdated, or everything, recomputed from its unchanged rows."""
    if always or not is_current(summary, evaluator):
        summary = replace(summary, **summed_up(evaluator, rows)[0])
        publish(folder, summary)
    keep_curves(folder, summary, evaluator, rows)


def keep_curves(folder: Path, summary: Summary, evaluator: Any, rows: Blocks) -> None:
    """Write the curves of a complete result, even if it has none.

    Curves of a user's evaluator that need all rows at once are not kept.

    Args:
        folder: folder of the result; nothing is written if it is read-only.
        summary: summary of the result, as published.
        evaluator: the evaluator that made the rows.
        rows: all rows of the result.
    """
    if summary.n and _keeps(evaluator) and _is_writable(folder):
        try:
            curves = drawn(evaluator, rows) if draws_blocks(evaluator) else []
        except Exception:  # of a user's evaluator; a report draws from the rows and names the error
            return
        write_curves(folder, summary, curves)


def _lacks_curves(folder: Path, summary: Summary, evaluator: Any) -> bool:
    try:
        return _keeps(evaluator) and _is_writable(folder) and kept_curves(folder, summary) is None
    except DamagedError:
        return True


def _keeps(evaluator: object) -> bool:
    return draws_blocks(evaluator) or not draws(evaluator)


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def publish(folder: Path, summary: Summary, rows: pd.DataFrame | Path | None = None) -> None:
    """Write rows, then the summary that seals them, then sync the folder's names.

    Args:
        folder: folder of the result.
        summary: the summary; its `rows` are set here if rows are given.
        rows: rows of every image, or the file that holds them, which is moved; None: `rows.parquet` stays, as named by
            the summary.
    """
    if isinstance(rows, Path):
        seal = Seal(rows.stat().st_size, file_digest(rows))
        with replacing(folder / ROWS, sync=True, follow=False) as beside:
            rows.replace(beside)
        summary = replace(summary, rows=seal)
    elif rows is not None:
        content = as_bytes(pa.Table.from_pandas(rows, preserve_index=False))
        write_bytes(folder / ROWS, content, sync=True, follow=False)
        summary = replace(summary, rows=Seal(len(content), digest(content)))
    write_json(folder / SUMMARY, summary.stored(), sync=True)
    sync_folder(folder)
