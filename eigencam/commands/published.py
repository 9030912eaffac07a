"""`eigencam published`: the papers' numbers, the cells that could not be read in any source, and your readings of them.

    eigencam published                                          the papers: numbers, empty cells, address
    eigencam published --paper eigencam2021                     its empty cells, table by table
    eigencam published --paper eigencam2021 --template read.csv     the same as a CSV to fill in
    eigencam published --fill read.csv --into readings.csv      check what was read, and keep it
    eigencam table --paper eigencam2021 --readings readings.csv     the tables, each such number with its reader

Nothing here needs torch.
"""

import argparse
from itertools import groupby
from pathlib import Path

from eigencam.evaluation.escaping import one_line
from eigencam.evaluation.tables import listed, wrapped
from eigencam.reporting.paper_layouts import Layout, layouts
from eigencam.reporting.paper_tables import empty_cells, every_cell
from eigencam.reporting.published import merged, numbers, papers, read_readings, write_readings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eigencam published`."""
    parser.add_argument("--paper", metavar="NAME", help=f"list this paper's empty cells: {', '.join(papers())}")
    parser.add_argument("--template", type=Path, metavar="FILE", help="with --paper: write them as a CSV to fill in")
    parser.add_argument("--fill", type=Path, metavar="FILE", help="check such a CSV once its values are filled in")
    parser.add_argument("--into", type=Path, metavar="FILE", help="with --fill: add the values to this CSV of readings")


def main(args: argparse.Namespace) -> int:
    """Print, write or check; returns 0. Raises ValueError or FileNotFoundError for wrong input."""
    if args.template and not args.paper:
        raise ValueError("--template: give --paper too")
    if args.into and not args.fill:
        raise ValueError("--into: give --fill too, a CSV written by --template and filled in by a person")
    if args.fill and args.paper:
        raise ValueError("--fill: the file names its papers; leave --paper out")
    if args.fill:
        return _fill(args.fill, args.into)
    if not args.paper:
        return _overview()
    tables = layouts(args.paper)
    if args.template:
        if args.template.exists():
            raise ValueError(f"{args.template}: exists already, and may be filled in; give a new file")
        found = [cell for layout in tables for cell in empty_cells(layout, numbers())]
        write_readings(args.template, [(*cell.place, "", "%", "", "") for cell in found])
        print(f"written: {one_line(args.template)}, {len(found)} cells; fill in value, unit, reader and source")
        return 0
    for layout in tables:
        print(_listed(layout))
    return 0


def _overview() -> int:
    """Print one line per paper."""
    published, lines = numbers(), []
    for paper in papers():
        tables = layouts(paper)
        empty = sum(len(empty_cells(layout, published)) for layout in tables)
        lines.append((paper, int((published["paper"] == paper).sum()), empty, tables[0].address))
    print(listed(lines, ("paper", "numbers", "empty cells", "address")))
    return 0


def _listed(layout: Layout) -> str:
    """The empty cells of one table, one line per row of the paper."""
    empty = empty_cells(layout, numbers())
    title = wrapped(f"{layout.paper}: {layout.title}\n{layout.address}") + "\n"
    if not empty:
        return f"{title}\n  no empty cells\n"
    rows = groupby(empty, key=lambda cell: cell.place[3:5])
    lines = [(model, method, ", ".join(cell.column for cell in cells)) for (model, method), cells in rows]
    return f"{title}\n{listed(lines, ('network', 'method', f'{len(empty)} empty cells'))}\n"


def _fill(path: Path, into: Path | None) -> int:
    """Check a person's readings, and add them to the stored ones."""
    published = numbers()
    cells = every_cell(published)
    read = read_readings(path, cells, published)
    if read.empty:
        raise ValueError(f"{path}: no value is filled in")
    print(f"{one_line(path)}: {len(read)} values, all for cells that are empty here")
    if into:
        old = read_readings(into, cells, published) if into.exists() else read[:0]
        kept = merged(old, read)
        write_readings(into, kept.itertuples(index=False, name=None))
        print(
            f"written: {one_line(into)}, {len(kept)} values; `eigencam table --paper PAPER --readings FILE` shows them"
        )
    return 0
