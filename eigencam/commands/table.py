"""`eigencam table`: the results as tables, and the papers' tables with ours beside."""

import argparse
from pathlib import Path

import pandas as pd

from eigencam.configuring.results import add_trust, default_results, trust_of
from eigencam.evaluation.tables import FORMATS, render, tables
from eigencam.reporting.collect import collect, selected
from eigencam.reporting.derived import by_prediction, with_wins
from eigencam.reporting.papers import beside, every_cell, layouts, paper_table
from eigencam.reporting.published import anchors, numbers, papers, read_readings
from eigencam.reporting.written import as_csv, header_of, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam table`."""
    parser.add_argument("--results", type=Path, default=default_results(), metavar="DIR", help="folder of results")
    for name in ("dataset", "network", "method", "evaluator"):
        parser.add_argument(f"--{name}", nargs="+", default=[], metavar="NAME", help=f"only these {name}s")
    parser.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help="columns; `all`: every one there is")
    parser.add_argument(
        "--by",
        choices=("prediction",),
        help="every metric twice: where the first class is right, and where not",
    )
    parser.add_argument(
        "--win", action="store_true", help="average drop: the share of pictures in which a method's drop is smallest"
    )
    parser.add_argument(
        "--paper", metavar="NAME", help=f"a paper's tables, ours beside the published numbers: {', '.join(papers())}"
    )
    parser.add_argument(
        "--readings",
        type=Path,
        metavar="FILE",
        help="with --paper: values that a person has read, see `eigencam published`; they are marked as read by them",
    )
    parser.add_argument(
        "--all-versions", action="store_true", help="also results that a later version of the same code supersedes"
    )
    add_trust(parser)
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="of what is printed")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="also write tables.csv (every metric), tables.md, .tex and .html; with --paper, under the paper's name",
    )


def main(args: argparse.Namespace) -> int:
    """Print tables; returns 0."""
    only = {name: getattr(args, name) for name in ("dataset", "network", "method", "evaluator")}
    if args.paper:
        if unused := [f"--{name}" for name in ("by", "win", "metrics") if getattr(args, name)]:
            raise ValueError(f"{', '.join(unused)}: not with --paper, whose tables have their own columns")
        planned, published = layouts(args.paper), numbers()
        read = read_readings(args.readings, every_cell(published), published) if args.readings else None
        try:
            results = selected(args.results, **only)
        except FileNotFoundError:  # the table then says what would make them
            results = []
        ours = [beside(args.results, layout, results) for layout in planned]
        first = anchors()
        made = [paper_table(layout, published, long, first, read) for layout, long in zip(planned, ours, strict=True)]
        long = pd.concat(ours)
    elif args.readings:
        raise ValueError("--readings: for a paper's table; give --paper too")
    else:
        long = collect(args.results, all_versions=args.all_versions, **only)
        long = with_wins(args.results, long) if args.win else long
        long = by_prediction(args.results, long, trust_of(args)) if args.by else long
        made = tables(long, list(long["metric"].unique()) if args.metrics == ["all"] else args.metrics)
    if args.format == "csv" and not args.paper:
        print(as_csv(long), end="")
    else:
        print("\n".join(render(table, args.format) for table in made))
    if args.out:
        lines = as_csv(long, digits=6) if not args.paper else None
        header = header_of(args.results, long)
        print("written:", *write(args.out, args.paper or "tables", made, header, lines))
    return 0
