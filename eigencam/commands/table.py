"""`eigencam table`: the results as tables, and the papers' tables with ours beside."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from eigencam.configuring.results import add_trust, default_results, trust_of
from eigencam.evaluation import escaping
from eigencam.evaluation.tables import FORMATS, Table, render, tables
from eigencam.files import write_text
from eigencam.reporting.collect import collect, long_of, provenance, selected
from eigencam.reporting.derived import by_prediction, with_wins
from eigencam.reporting.papers import Layout, layouts, numbers, paper_table, papers, shown_beside
from eigencam.store.identity import describe

SUFFIX = {"terminal": "txt", "markdown": "md", "latex": "tex", "csv": "csv", "html": "html"}
LONG = (
    *("dataset", "part", "pictures", "network", "method", "evaluator", "target", "dtype"),
    *("metric", "value", "low", "high", "unit", "n", "threshold", "note", "left_out", "cost", "folder"),
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }}
body {{ margin: 2rem auto; padding: 0 1rem; max-width: 80rem }}
h2 {{ font-size: 1.1rem; margin-top: 2.5rem }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ padding: .25rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884 }}
td {{ font-variant-numeric: tabular-nums }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left }}
ul {{ color: GrayText; font-size: .9em }}
</style></head><body>
{body}</body></html>
"""


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
        try:
            results = selected(args.results, **only)
        except FileNotFoundError:  # the table then says what would make them
            results = []
        ours = [_beside(args.results, layout, results) for layout in planned]
        made = [paper_table(layout, published, long) for layout, long in zip(planned, ours, strict=True)]
        long = pd.concat(ours)
    else:
        long = collect(args.results, all_versions=args.all_versions, **only)
        long = with_wins(args.results, long) if args.win else long
        long = by_prediction(args.results, long, trust_of(args)) if args.by else long
        made = tables(long, list(long["metric"].unique()) if args.metrics == ["all"] else args.metrics)
    if args.format == "csv" and not args.paper:
        print(_csv(long), end="")
    else:
        print("\n".join(render(table, args.format) for table in made))
    if args.out:
        lines = _csv(long, digits=6) if not args.paper else None
        header = _header(args.results, long)
        print("written:", *write(args.out, args.paper or "tables", made, header, lines))
    return 0


def _beside(root: Path, layout: Layout, results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What a published table shows of the results; names are told apart among these alone."""
    wanted = {column.evaluator for column in layout.metrics.values()}
    chosen = [r for r in results if r["dataset"] == layout.ours["dataset"] and r["evaluator"] in wanted]
    if not chosen:
        return pd.DataFrame()
    planned, long = _planned(layout), with_wins(root, long_of(chosen))
    others = {r["folder"]: _others(r["identity"]["evaluator"], planned.get(r["evaluator"], {})) for r in chosen}
    return shown_beside(layout, long.assign(parameters=long["folder"].map(others)))


def _planned(layout: Layout) -> dict[str, Mapping[str, Any]]:
    """The evaluators of a layout's experiment, with all their parameters."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("eigencam.configs", version_base="1.3"):
        nodes: Any = OmegaConf.to_container(compose("run", [f"experiment={layout.experiment}"]).evaluator, resolve=True)
    return {name: describe(node) for name, node in nodes.items()}


def _others(found: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    """In which parameters an evaluator is not the one that was planned; "" where it is."""
    if not planned:
        return ""
    theirs, ours = found.get("parameters", {}), planned.get("parameters", {})
    differing = [key for key in dict.fromkeys([*theirs, *ours]) if theirs.get(key) != ours.get(key)]
    return ", ".join(f"{key}={theirs.get(key, 'default')}" for key in differing)


def _csv(long: pd.DataFrame, digits: int | None = None) -> str:
    """Every metric of every result, numbers with so many digits; with all of them by default."""
    lines = long[list(LONG)].itertuples(index=False)
    return escaping.csv_table([LONG, *([_rounded(cell, digits) for cell in line] for line in lines)])


def _rounded(cell: Any, digits: int | None) -> Any:
    return f"{cell:.{digits}g}" if digits and isinstance(cell, float) and cell == cell else cell


def write(folder: Path, stem: str, made: list[Table], header: list[str], lines: str | None = None) -> list[Path]:
    """The tables as STEM.csv, .md, .tex and .html, each beginning with the header.

    Args:
        folder: made where it is not there.
        stem: of the files' names.
        made: the tables.
        header: sentences.
        lines: what STEM.csv holds instead of the tables.

    Returns:
        The files.
    """
    texts = {style: "\n".join(render(table, style) for table in made) for style in FORMATS if style != "terminal"}
    plain = [escaping.one_line(line) for line in header]
    texts["csv"] = "".join(f"# {line}\n" for line in plain) + (lines or texts["csv"])
    texts["latex"] = "".join(f"% {line}\n" for line in plain) + texts["latex"]
    said = f"<!-- {' | '.join(map(escaping.comment, header))} -->\n"
    texts["markdown"] = said + "\n" + texts["markdown"]
    texts["html"] = PAGE.format(title=escaping.html(stem), body=said + texts["html"])
    paths = {style: folder / f"{stem}.{SUFFIX[style]}" for style in texts}
    for style, path in paths.items():
        write_text(path, texts[style])
    return list(paths.values())


def _header(root: Path, long: pd.DataFrame) -> list[str]:
    """Which commands made the results, on which code and machine."""
    found = provenance(root, long["folder"].unique()) if len(long) else {}
    return [*(f"{key}: {line}" for key, lines in found.items() for line in lines), "printed by: eigencam table"]
