"""`eigencam status`: what is done, partly done, failed or left out."""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from tabulate import tabulate

from eigencam.table import default_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam status`."""
    parser.add_argument("--results", type=Path, default=default_results(), metavar="DIR", help="folder of results")
    parser.add_argument("--all", action="store_true", help="a line for each result, not for each dataset and network")
    parser.add_argument("--json", action="store_true", help="a JSON list with a line for each result")


def main(args: argparse.Namespace) -> int:
    """Print the state of every result; returns 1 if any has failed."""
    frame = states(args.results)
    if args.json:
        print(json.dumps(frame.to_dict("records"), indent=1))
    elif args.all:
        print(tabulate(frame.to_dict("list"), headers="keys", showindex=False, tablefmt="simple"))
    else:
        counts = frame.pivot_table(
            index=["dataset", "network"], columns="state", values="rows", aggfunc="size", fill_value=0
        )
        print(tabulate(counts.reset_index().to_dict("list"), headers="keys", showindex=False, tablefmt="simple"))
        for line in frame[frame["state"] == "failed"].itertuples():
            print(f"failed: {line.dataset} {line.network} {line.method} {line.evaluator}: {line.error}")
        print(f"{len(frame)} results in {args.results}; --all lists them")
    return int((frame["state"] == "failed").any())


def states(root: Path) -> pd.DataFrame:
    """One line for each result folder: names, `state` (done, partial, failed, left out), rows, an error's first line.

    Raises:
        FileNotFoundError: there is no result folder.
    """
    lines = [_state(path.parent) for path in sorted(Path(root).glob("*/identity.json"))]
    if not lines:
        raise FileNotFoundError(f"{root}: no results there; `eigencam run` makes them")
    return pd.DataFrame(lines)


def _state(folder: Path) -> dict[str, Any]:
    identity = json.loads((folder / "identity.json").read_text())
    dataset, network = identity["dataset"]["name"], identity["network"]["name"]
    method, evaluator = folder.name.removeprefix(f"{dataset}-{network}-").rsplit("-", 1)[0].rsplit("-", 1)
    line = {"dataset": dataset, "network": network, "method": method, "evaluator": evaluator}
    done, errors = folder / "metrics.json", sorted(folder.glob("error*.json"))
    if done.is_file():
        summary = json.loads(done.read_text())
        state = "left out" if summary.get("unsupported") else "done"
        return {**line, "state": state, "rows": summary["n"], "error": summary.get("unsupported", "")}
    rows = sum(pq.read_metadata(part).num_rows for part in (folder / "parts").glob("*.parquet"))
    if errors:
        error = json.loads(errors[0].read_text())["error"]
        return {**line, "state": "failed", "rows": rows, "error": error.split("\n")[0]}
    return {**line, "state": "partial", "rows": rows, "error": ""}
