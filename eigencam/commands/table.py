"""`eigencam table`: the results as tables, and the papers' tables beside ours.

Examples:
    eigencam table --dataset scenes --metrics mean_iou
    eigencam table --format latex --second --against eigencam
    eigencam table --pivot layer,threshold --metrics gt_known_error --figure sweep.pdf
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from eigencam.commands.table_options import add_arguments as add_arrangement
from eigencam.commands.table_options import arranged, chosen, parameters, style_of, told
from eigencam.configuring.results_options import add_trust, default_results, trust_of
from eigencam.evaluation.table_cells import column_of
from eigencam.evaluation.tables import FORMATS, Format, Table, render, tables
from eigencam.reporting.collect import long_of, selected
from eigencam.reporting.paper_layouts import layouts
from eigencam.reporting.paper_tables import beside, every_cell, paper_table
from eigencam.reporting.parsed_tables import ARRANGED
from eigencam.reporting.published import anchors, numbers, papers, read_readings
from eigencam.reporting.sweep_plot import save
from eigencam.reporting.table_files import as_csv, header_of, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam table`."""
    parser.add_argument("--results", type=Path, default=default_results(), metavar="DIR", help="folder of results")
    for name in ("dataset", "network", "method", "evaluator"):
        parser.add_argument(f"--{name}", nargs="+", default=[], metavar="NAME", help=f"only these {name}s")
    parser.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help="columns; `all`: every metric")
    parser.add_argument(
        "--by",
        choices=("prediction",),
        help="every metric twice: over right and over wrong predictions",
    )
    parser.add_argument(
        "--win", action="store_true", help="average drop: the share of images in which a method has the smallest drop"
    )
    parser.add_argument(
        "--paper", metavar="NAME", help=f"a paper's tables, published numbers beside ours: {', '.join(papers())}"
    )
    parser.add_argument(
        "--readings",
        type=Path,
        metavar="FILE",
        help="with --paper: values that a person has read, marked as such; see `eigencam published`",
    )
    parser.add_argument(
        "--all-versions", action="store_true", help="also results that a later version of the same code supersedes"
    )
    add_trust(parser)
    add_arrangement(parser)
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="also draw a sweep, along the first key of --pivot: .pdf, .svg, .png",
    )
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="of the printed tables")
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
        unused = [
            *(name for name in ("by", "win", "metrics", "figure", "only") if getattr(args, name)),
            *arranged(args),
        ]
        if unused:
            names = ", ".join(f"--{name}" for name in unused)
            raise ValueError(f"{names}: not with --paper, whose tables have their own columns")
        made, long = _of_paper(args, only)
        forms, lines, every = {args.format: made}, None, long
    elif args.readings:
        raise ValueError("--readings: for a paper's table; give --paper too")
    else:
        results = selected(args.results, all_versions=args.all_versions, **only)
        keys = parameters(args)
        long = chosen(args, _derived(args, long_of(results, keys)))
        folders = set(long["folder"])
        kept = [result for result in results if result["folder"] in folders]
        every = _derived(args, long_of(kept)) if keys else long  # with fully qualified names
        forms = {style: _tables(args, long, paper=style == "latex") for style in {args.format, *_written(args)}}
        lines = as_csv(every, digits=6) if args.out else None
    if args.format == "csv" and not args.paper and not arranged(args):
        print(as_csv(every), end="")
    else:
        print("\n".join(render(table, args.format) for table in forms[args.format]))
    if args.figure:
        pivot, metrics = [column_of(key) for key in args.pivot], _metrics(args, long)
        print("written:", save(long, style_of(args, long, paper=True), pivot, metrics, args.figure))
    if args.out:
        header = header_of(args.results, long)
        header += [f"{ARRANGED}{words}"] if (words := told(args)) else []
        print("written:", *write(args.out, args.paper or "tables", forms, header, lines))
    return 0


def _derived(args: argparse.Namespace, long: pd.DataFrame) -> pd.DataFrame:
    """The frame with the rows that `--win` and `--by` add."""
    if not (args.win or args.by):
        return long
    from eigencam.reporting.derived import by_prediction, with_wins  # importing SciPy takes time

    long = with_wins(args.results, long) if args.win else long
    return by_prediction(args.results, long, trust_of(args)) if args.by else long


def _written(args: argparse.Namespace) -> tuple[Format, ...]:
    return ("latex", "html") if args.out else ()


def _metrics(args: argparse.Namespace, long: pd.DataFrame) -> list[str]:
    named = [value for key, values in args.only if key == "metric" for value in values.split(",")]
    return list(long["metric"].unique()) if args.metrics == ["all"] else args.metrics or named


def _tables(args: argparse.Namespace, long: pd.DataFrame, *, paper: bool) -> list[Table]:
    """The tables in the requested arrangement."""
    style, metrics = style_of(args, long, paper=paper), _metrics(args, long)
    if args.against:
        from eigencam.reporting.significance import marks  # importing SciPy takes time

        style = replace(style, marks=marks(args.results, long, args.against, metrics, trust_of(args)))
    return tables(long, metrics, style)


def _of_paper(args: argparse.Namespace, only: dict[str, list[str]]) -> tuple[list[Table], pd.DataFrame]:
    """A paper's tables, and our lines in them."""
    planned, published = layouts(args.paper), numbers()
    read = read_readings(args.readings, every_cell(published), published) if args.readings else None
    try:
        results = selected(args.results, all_versions=False, **only)
    except FileNotFoundError:  # the table then names the command that makes them
        results = []
    ours = [beside(args.results, layout, results) for layout in planned]
    first = anchors()
    made = [paper_table(layout, published, long, first, read) for layout, long in zip(planned, ours, strict=True)]
    return made, pd.concat(ours)
