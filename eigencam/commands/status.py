"""`eigencam status`: which results are done, running, partly done, failed, left out or missing, and the remaining time.

    eigencam status
    eigencam status experiment=demo

Without settings it lists the results in a folder. With the settings of a run, such as `experiment=demo`, it lists the
results of that run: absent ones are `missing`, and a job whose config has faults is `refused`, with the reason.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from eigencam.configuring.results_options import default_results
from eigencam.evaluation.escaping import one_line
from eigencam.evaluation.tables import listed, wrapped
from eigencam.store.reader import Stored, as_lines, read, read_all

STATES = ("done", "running", "partial", "failed", "damaged", "old", "left out", "missing", "refused")

BAD = ("failed", "damaged", "refused")
"""States that require action by a person."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam status`."""
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="of a run: experiment=demo model=vgg16,resnet50"
    )
    parser.add_argument("--results", type=Path, default=default_results(), metavar="DIR", help="folder of results")
    parser.add_argument("--all", action="store_true", help="a line per result, not per dataset and network")
    parser.add_argument("--json", action="store_true", help="a JSON list with one entry per result")


def main(args: argparse.Namespace) -> int:
    """Print the state of every result; returns 1 if any has failed, is damaged or was refused."""
    frame = planned(args.settings, args.results) if args.settings else states(args.results)
    if args.json:
        print(json.dumps(json.loads(frame.to_json(orient="records")), indent=1))
    elif args.all:
        shown = frame.assign(left=frame.pop("left_s").map(duration)).fillna("")
        print(listed(shown.itertuples(index=False), list(shown.columns)))
    else:
        _print_counts(frame)
        print(f"{len(frame)} results in {args.results}; --all lists them")
    return int(frame["state"].isin(BAD).any())


def states(root: Path) -> pd.DataFrame:
    """Return a line per result folder: dataset, network, method, evaluator, state, rows, pictures, left_s, error.

    `pictures`: the dataset's number of images, for unfinished results. `left_s`: estimated seconds until a running
    result is done, from the rows since its run began; NaN if not known.

    Raises:
        FileNotFoundError: there is no result folder.
    """
    lines = [_state(stored) for stored in read_all(root)] if Path(root).is_dir() else []
    if not lines:
        raise FileNotFoundError(f"{root}: no results there; `eigencam run` makes them")
    return pd.DataFrame(lines)


def planned(settings: list[str], root: Path) -> pd.DataFrame:
    """Return the same as `states`, for the results of a run's settings.

    Args:
        settings: as on the command line of `eigencam run`, sweeps included.
        root: folder of results.

    Returns:
        For results that are missing, partly done or failed, `left_s` is estimated from the times of the results in the
        folder, of the same network if there are any.
    """
    from eigencam.running.prepare import prepare
    from eigencam.running.sweep import jobs

    lines: list[dict[str, Any]] = []
    for chosen, config in jobs([*settings, f"paths.results={root}"]):
        try:
            job = prepare(config)
        except (ValueError, FileNotFoundError) as error:
            text = ": ".join(filter(None, (chosen, str(error).splitlines()[0])))
            lines.append({**_line(config.model.get("name", "?"), "?", "?", "?"), "state": "refused", "error": text})
            continue
        for (method, evaluator), result in job.results.items():
            line = _line(job.network.label, method, evaluator, job.dataset.name)
            stored = read(result.folder)
            missing = {**line, "state": "missing", "rows": 0, "pictures": len(job.dataset.ids), "error": ""}
            if method in job.unsupported and stored is None:
                missing |= {"state": "left out", "error": job.unsupported[method]}
            lines.append(_state(stored) if stored else missing)
    frame = pd.DataFrame(lines)
    return _estimated(frame, root)


def duration(seconds: float) -> str:
    """Return hours and minutes, or seconds if less than a minute; "" for NaN.

    >>> duration(3700.0), duration(42.0)
    ('1 h 2 min', '42 s')
    """
    if seconds != seconds:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _print_counts(frame: pd.DataFrame) -> None:
    """Print the states' counts per (dataset, network), the failed and old ones with reasons, and the time left."""
    counts = frame.pivot_table(
        index=["dataset", "network"], columns="state", values="error", aggfunc="size", fill_value=0
    )
    counts = counts.reindex(columns=[state for state in STATES if state in counts])
    shown = counts.reset_index()
    print(listed(shown.itertuples(index=False), list(shown.columns)))
    for line in frame[frame["state"].isin([*BAD, "old"])].itertuples():
        said = f"{line.state}: {line.dataset} {line.network} {line.method} {line.evaluator}: {line.error}"
        print(wrapped(one_line(said)))
    # The results of one network on one dataset are made together, so the longest time counts; jobs run in sequence.
    left = frame.groupby(["dataset", "network"])["left_s"].max().sum(min_count=1)
    if left == left:
        print(f"time left, one job after another: {duration(left)}")


def _line(network: str, method: str, evaluator: str, dataset: str) -> dict[str, Any]:
    return {"dataset": dataset, "network": network, "method": method, "evaluator": evaluator}


def _state(stored: Stored) -> dict[str, Any]:
    dataset, _, method, evaluator = stored.names
    line = {**_line(stored.network, method, evaluator, dataset), "state": stored.state, "rows": 0, "pictures": None}
    line |= {"left_s": float("nan"), "error": ""}
    if stored.summary is not None:
        return {**line, "rows": stored.summary.n, "error": stored.summary.unsupported}
    if stored.state != "partial":
        return {**line, "error": "; ".join(as_lines([stored]))}
    parts = stored.parts()
    n = stored.identity["dataset"].get("n") if stored.identity.get("target") != "each" else None  # rows are no images
    line |= {"rows": sum(rows for _, rows in parts), "pictures": n if type(n) is int and 0 <= n < 2**53 else None}
    if stored.running:
        return {**line, "state": "running", "left_s": _left(stored, line)}
    if errors := stored.errors():
        return {**line, "state": "failed", "error": errors[0]}
    return line


def _left(stored: Stored, line: Mapping[str, Any]) -> float:
    """Seconds until a running result is done, from the rows since its run began; NaN if not known."""
    started = datetime.fromisoformat(stored.updated).timestamp() if stored.updated else time.time()
    span = time.time() - started
    before = max((run.rows_before for run in stored.runs if run.started == stored.updated), default=0)
    rate = (line["rows"] - before) / span if span > 0 else 0.0
    return max(0.0, (line["pictures"] - line["rows"]) / rate) if rate and line["pictures"] else float("nan")


def _paces(root: Path) -> Iterator[tuple[str, float]]:
    """(network, seconds per image) of the runs recorded in the results below `root`."""
    for stored in read_all(root) if root.is_dir() else ():
        for run in stored.runs:
            if run.images:
                yield stored.network, run.seconds / run.images


def _estimated(frame: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Add `left_s` for results that have not begun, or have stopped."""
    paces = pd.DataFrame(_paces(root), columns=["network", "pace"])
    of_network = frame["network"].map(paces.groupby("network")["pace"].median()).fillna(paces["pace"].median())
    waits = frame["state"].isin(["missing", "partial", "failed"])
    columns = {"rows": 0, "pictures": float("nan"), "left_s": float("nan"), "error": ""}
    frame = frame.reindex(columns=[*frame.columns, *(name for name in columns if name not in frame)]).fillna(columns)
    left = (frame["pictures"].astype(float) - frame["rows"]) * of_network.astype(float)
    return frame.assign(left_s=frame["left_s"].astype(float).where(~waits, left))
