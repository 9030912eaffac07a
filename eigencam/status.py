"""`eigencam status`: what is done, running, partly done, failed, left out or missing, and the time left.

Without settings it lists the results that are in a folder. With those of a run, as `experiment=demo`, it lists the
results that the run would give: what is not there is `missing`; a job whose config has faults is `refused`, and why.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from tabulate import tabulate

from eigencam.evaluation.escaping import one_line
from eigencam.files import folders
from eigencam.locks import is_held
from eigencam.table import default_results

STATES = ("done", "running", "partial", "failed", "left out", "missing", "refused")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam status`."""
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="of a run: experiment=demo model=vgg16,resnet50"
    )
    parser.add_argument("--results", type=Path, default=default_results(), metavar="DIR", help="folder of results")
    parser.add_argument("--all", action="store_true", help="a line for each result, not for each dataset and network")
    parser.add_argument("--json", action="store_true", help="a JSON list with a line for each result")


def main(args: argparse.Namespace) -> int:
    """Print the state of every result; returns 1 if any has failed or was refused."""
    frame = planned(args.settings, args.results) if args.settings else states(args.results)
    if args.json:
        print(json.dumps(json.loads(frame.to_json(orient="records")), indent=1))
    elif args.all:
        shown = frame.assign(left=frame.pop("left_s").map(duration)).fillna("")
        shown = shown.map(lambda cell: one_line(cell) if isinstance(cell, str) else cell)
        print(tabulate(shown.to_dict("list"), headers="keys", tablefmt="simple", disable_numparse=[0, 1, 2, 3]))
    else:
        _print_counts(frame)
        print(f"{len(frame)} results in {args.results}; --all lists them")
    return int(frame["state"].isin(["failed", "refused"]).any())


def states(root: Path) -> pd.DataFrame:
    """One line for each result folder: dataset, network, method, evaluator, state, rows, pictures, left_s, error.

    `left_s`: seconds until a running result is done, by the rows that its last parts took; NaN where that is not known.

    Raises:
        FileNotFoundError: there is no result folder.
    """
    there, denied = folders(root) if root.exists() else ([], [])
    lines = [_state(path) for path in there if (path / "identity.json").is_file()] + [_denied(path) for path in denied]
    if not lines:
        raise FileNotFoundError(f"{root}: no results there; `eigencam run` makes them")
    return pd.DataFrame(lines)


def planned(settings: list[str], root: Path) -> pd.DataFrame:
    """As `states`, for the results of a run's settings.

    Args:
        settings: as on the command line of `eigencam run`; a sweep's, too.
        root: folder of results.

    Returns:
        With `left_s` of what is missing from the time that results of the folder took, of the same network where there
        are any.
    """
    from eigencam.prepare import prepare
    from eigencam.sweep import jobs

    lines: list[dict[str, Any]] = []
    for chosen, config in jobs([*settings, f"paths.results={root}"]):
        try:
            job = prepare(config)
        except (ValueError, FileNotFoundError) as error:
            text = str(error).splitlines()[0]
            lines.append({**_line(config.model.get("name", "?"), "?", "?", chosen), "state": "refused", "error": text})
            continue
        for (method, evaluator), result in job.results.items():
            line = _line(job.network.name, method, evaluator, job.dataset.name)
            there = (result.folder / "identity.json").is_file()
            missing = {**line, "state": "missing", "rows": 0, "pictures": len(job.dataset.ids), "error": ""}
            if method in job.unsupported and not there:
                missing |= {"state": "left out", "error": job.unsupported[method]}
            lines.append(_state(result.folder) if there else missing)
    frame = pd.DataFrame(lines)
    return _estimated(frame, root)


def duration(seconds: float) -> str:
    """Hours and minutes; "" for NaN.

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
    """How many results of each (dataset, network) are in each state, what failed and why, and the time left."""
    counts = frame.pivot_table(
        index=["dataset", "network"], columns="state", values="error", aggfunc="size", fill_value=0
    )
    counts = counts.reindex(columns=[state for state in STATES if state in counts])
    shown = counts.reset_index().map(lambda cell: one_line(cell) if isinstance(cell, str) else cell)
    print(tabulate(shown.to_dict("list"), headers="keys", tablefmt="simple", disable_numparse=[0, 1]))
    for line in frame[frame["state"].isin(["failed", "refused"])].itertuples():
        print(one_line(f"{line.state}: {line.dataset} {line.network} {line.method} {line.evaluator}: {line.error}"))
    # The results of one network on one dataset are made together, so the longest counts; jobs come one after another.
    left = frame.groupby(["dataset", "network"])["left_s"].max().sum(min_count=1)
    if left == left:
        print(f"time left, one job after another: {duration(left)}")


def _line(network: str, method: str, evaluator: str, dataset: str) -> dict[str, Any]:
    return {"dataset": dataset, "network": network, "method": method, "evaluator": evaluator}


def _denied(folder: Path) -> dict[str, Any]:
    """The line of a result that another user keeps to himself."""
    names = dict(zip(("evaluator", "method", "network", "dataset"), folder.name.rsplit("-", 4)[-2:0:-1], strict=False))
    refused = {"state": "refused", "rows": 0, "pictures": None, "left_s": float("nan")}
    return {**_line("", "", "", folder.name), **names, **refused, "error": f"{folder}: no permission"}


def _state(folder: Path) -> dict[str, Any]:
    identity = json.loads((folder / "identity.json").read_text())
    dataset, network = identity["dataset"]["name"], identity["network"]["name"]
    method, evaluator = folder.name.removeprefix(f"{dataset}-{network}-").rsplit("-", 1)[0].rsplit("-", 1)
    line = {**_line(network, method, evaluator, dataset), "state": "partial", "rows": 0, "pictures": None}
    line |= {"left_s": float("nan"), "error": ""}
    if (folder / "metrics.json").is_file():
        summary = json.loads((folder / "metrics.json").read_text())
        reason = summary.get("unsupported", "")
        return {**line, "state": "left out" if reason else "done", "rows": summary["n"], "error": reason}
    parts = sorted((folder / "parts").glob("*.parquet"), key=lambda part: part.stat().st_mtime)
    sizes = [pq.read_metadata(part).num_rows for part in parts]
    line |= {"rows": sum(sizes), "pictures": identity["dataset"].get("n")}
    if _running(folder):
        span = time.time() - parts[0].stat().st_mtime if len(parts) > 1 else 0.0
        rate = sum(sizes[1:]) / span if span else 0.0
        left = (line["pictures"] - line["rows"]) / rate if rate and line["pictures"] else float("nan")
        return {**line, "state": "running", "left_s": max(0.0, left)}
    if errors := sorted(folder.glob("error*.json")):
        return {**line, "state": "failed", "error": json.loads(errors[0].read_text())["error"].split("\n")[0]}
    return line


def _running(folder: Path) -> bool:
    """Whether a process holds the lock of the result, or of one of its shards."""
    return any(map(is_held, folder.glob(".lock*")))


def _paces(root: Path) -> Iterator[tuple[str, float]]:
    """(network, seconds a picture) of the sessions that results below `root` note."""
    for path in root.glob("*/env.json"):
        network = json.loads((path.parent / "identity.json").read_text())["network"]["name"]
        for session in json.loads(path.read_text()):
            if session.get("pictures"):
                yield network, session["seconds"] / session["pictures"]


def _estimated(frame: pd.DataFrame, root: Path) -> pd.DataFrame:
    """With `left_s` of what has not begun, or has stopped."""
    paces = pd.DataFrame(_paces(root), columns=["network", "pace"])
    of_network = frame["network"].map(paces.groupby("network")["pace"].median()).fillna(paces["pace"].median())
    waits = frame["state"].isin(["missing", "partial", "failed"])
    columns = {"rows": 0, "pictures": float("nan"), "left_s": float("nan"), "error": ""}
    frame = frame.reindex(columns=[*frame.columns, *(name for name in columns if name not in frame)]).fillna(columns)
    left = (frame["pictures"].astype(float) - frame["rows"]) * of_network.astype(float)
    return frame.assign(left_s=frame["left_s"].astype(float).where(~waits, left))
