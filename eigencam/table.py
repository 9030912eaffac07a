"""`eigencam table`: the results as tables."""

import argparse
import json
import os
import sys
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from eigencam.evaluation.tables import FORMATS, Table, beside_published, collect, render, tables

SUFFIX = {"terminal": "txt", "markdown": "md", "latex": "tex", "csv": "csv"}
LONG = (
    *("dataset", "part", "pictures", "network", "method", "evaluator", "target", "dtype"),
    *("metric", "value", "low", "high", "unit", "n", "threshold", "note", "left_out", "cost", "folder"),
)
PUBLISHED = Path("results/published/published.csv")


def default_results() -> Path:
    """Where runs write unless told otherwise."""
    return Path(os.environ.get("EIGENCAM_RESULTS", "results/runs"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam table`."""
    parser.add_argument("--results", type=Path, default=default_results(), metavar="DIR", help="folder of results")
    for name in ("dataset", "network", "method", "evaluator"):
        parser.add_argument(f"--{name}", nargs="+", default=[], metavar="NAME", help=f"only these {name}s")
    parser.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help="columns; `all`: every one there is")
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="of what is printed")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="also write tables.csv (every metric), tables.md, tables.tex"
    )
    parser.add_argument("--published", metavar="PAPER", help="the numbers of a paper beside ours, e.g. gradcam2017")
    parser.add_argument("--published-file", type=Path, default=PUBLISHED, metavar="CSV", help="the papers' numbers")


def main(args: argparse.Namespace) -> int:
    """Print tables; returns 0."""
    only = {name: getattr(args, name) for name in ("dataset", "network", "method", "evaluator")}
    if args.published:
        print(_published(args, only))
        return 0
    long = collect(args.results, **only)
    metrics = list(long["metric"].unique()) if args.metrics == ["all"] else args.metrics
    made = tables(long, metrics)
    if args.format == "csv":
        long[list(LONG)].to_csv(sys.stdout, index=False)
    else:
        print("\n".join(render(table, args.format) for table in made))
    if args.out:
        write(args.out, long, made, _header(args.results, long))
        print(f"written: {', '.join(str(args.out / f'tables.{SUFFIX[s]}') for s in ('csv', 'markdown', 'latex'))}")
    return 0


def write(folder: Path, long: pd.DataFrame, made: list[Table], header: list[str]) -> None:
    """`tables.csv` with every metric, `tables.md` and `tables.tex` with the tables; each begins with the header."""
    folder.mkdir(parents=True, exist_ok=True)
    comment = "".join(f"# {line}\n" for line in header)
    (folder / "tables.csv").write_text(comment + long[list(LONG)].to_csv(index=False, float_format="%.6g"))
    for style in ("markdown", "latex"):
        head = f"<!-- {' | '.join(header)} -->\n\n" if style == "markdown" else comment.replace("#", "%")
        (folder / f"tables.{SUFFIX[style]}").write_text(head + "\n".join(render(table, style) for table in made))


def _header(root: Path, long: pd.DataFrame) -> list[str]:
    """Which commands made the results, on which code and machine."""
    seen: dict[str, None] = {}
    for folder in long["folder"].unique():
        for env in json.loads((root / folder / "env.json").read_text()):
            packages, dirty = env["packages"], " (with changes)" if env["git_dirty"] else ""
            seen[f"command: {' '.join(env['command'])}"] = None
            seen[
                f"code: {env['git_commit']}{dirty}; Python {env['python']}, torch {packages['torch']}, "
                f"Pillow {packages['pillow']}; {env['gpu'] or 'CPU'}, {env['cpus']} cores"
            ] = None
    return [*seen, "printed by: eigencam table"]


def _published(args: argparse.Namespace, only: dict[str, list[str]]) -> str:
    if not args.published_file.is_file():
        raise FileNotFoundError(f"{args.published_file}: not there; it is in the repository, or give --published-file")
    numbers = pd.read_csv(args.published_file, comment="#")
    papers = sorted(set(numbers["paper"]))
    if args.published not in papers:
        raise ValueError(f"--published {args.published}: not in {args.published_file}; there are: {', '.join(papers)}")
    try:
        long = collect(args.results, **only)
    except FileNotFoundError:
        long = pd.DataFrame(columns=["dataset_name", "network_name", "method_name", "metric"])
    frame = beside_published(long, numbers[numbers["paper"] == args.published])
    if args.format == "csv":
        return frame.to_csv(index=False)
    text = frame.astype(object).where(frame.notna(), "-")
    if args.format == "latex":
        return text.style.hide(axis="index").format(precision=2, escape="latex").to_latex(hrules=True)
    style = "github" if args.format == "markdown" else "simple"
    return tabulate(text.to_dict("list"), headers="keys", showindex=False, tablefmt=style, floatfmt=".2f")
