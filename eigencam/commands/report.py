"""`eigencam report`: results as one self-contained HTML page, and their curves as figures for papers.

Examples:
    eigencam report --out report.html
    eigencam report --no-images --figures figures
"""

import argparse
from pathlib import Path

from eigencam.configuring.results_options import add_trust, default_results, trust_of
from eigencam.evaluation.tables import COLUMNS, tables
from eigencam.files import write_text
from eigencam.reporting import curves
from eigencam.reporting.collect import Evaluators, collect
from eigencam.reporting.report import galleries, loaded, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam report`."""
    add = parser.add_argument
    add("settings", nargs="*", metavar="key=value", help="override the results' stored configs: paths.voc=DIR")
    add("--results", type=Path, default=default_results(), metavar="DIR", help="folder of results")
    add("--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page")
    for name in COLUMNS:
        add(f"--{name}", nargs="+", default=[], metavar="NAME", help=f"only these {name}s")
    add("--metrics", nargs="+", default=[], metavar="NAME", help="columns of the tables; `all`: every metric")
    add("--images", type=int, default=48, metavar="N", help="number of images per dataset")
    add("--no-images", action="store_true", help="numbers and curves only; no network, no data")
    suppressed = argparse.SUPPRESS  # the names up to version 0.1
    add("--pictures", dest="images", type=int, default=suppressed, help=suppressed)
    add("--no-pictures", dest="no_images", action="store_true", default=suppressed, help=suppressed)
    add("--max-mb", type=float, default=3.0, metavar="X", help="size of the page; images are left out until it fits")
    add_trust(parser)
    add("--title", default="", metavar="TEXT", help="of the page")
    add("--figures", type=Path, metavar="DIR", help="also write every plot as a file")
    add("--figure-format", choices=curves.KINDS, default="pdf", help="of these files")


def main(args: argparse.Namespace) -> int:
    """Write the page, and figures; returns 0."""
    if faults := [item for item in args.settings if "=" not in item]:
        raise ValueError(f"{' '.join(faults)}: allowed are settings, key=value")
    if args.images < 0 or not args.max_mb > 0:
        raise ValueError(f"--images {args.images} --max-mb {args.max_mb}: allowed are 0 or more, and above 0")
    long = collect(args.results, **{name: getattr(args, name) for name in COLUMNS})
    made = tables(long, list(long["metric"].unique()) if args.metrics == ["all"] else args.metrics)
    evaluators = Evaluators(trust_of(args))
    results = loaded(args.results, long)
    plots, look = curves.plots(results, evaluators), curves.styles(long)
    said: dict[str, None] = {}

    def say(line: str) -> None:
        if line not in said:
            said[line] = None
            print(line)

    sets = {}
    if not args.no_images and args.images:
        sets = galleries(args, results, long, evaluators, say)
    page = render(args, long, made, plots, look, sets, list(said))
    write_text(args.out, page)
    shown = sum(len(content["images"]) for content in sets.values())
    print(f"{args.out}: {len(made)} tables, {len(plots)} plots, {shown} images, {len(page.encode()) / 1e6:.2f} MB")
    if args.figures:
        paths = curves.save_all(plots, look, args.figures, args.figure_format)
        print(f"{args.figures}: {len(paths)} figures")
    return 0
