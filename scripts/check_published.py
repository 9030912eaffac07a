"""Where to find each row of `results/published/published.csv` in its source, so that its number can be checked.

    python scripts/check_published.py                                      all rows
    python scripts/check_published.py --paper torchray2019 --table pointing
    python scripts/check_published.py --rows 53-60 229 --csv               rows by number, as CSV

A row's number is its line number in the file minus one, for the header. Some values were computed from the source by
the rule that the column `source` gives. If a value is the sum of CAM's and a difference, both are printed as well.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd
from tabulate import tabulate

from eigencam.evaluation.escaping import one_line
from eigencam.reporting.published import numbers

ADDED = "differences to CAM added up"
"""Part of the text of a source that prints CAM's numbers and the other methods' differences to them."""
ABSOLUTE = ("cam", "center_gaussian")
"""The methods that this source prints without a difference."""


class Look(NamedTuple):
    """Where to look, and what must be found there."""

    row: int
    paper: str
    source: str
    read: str
    note: str


def looks(published: pd.DataFrame) -> Iterator[Look]:
    """For each row, where to look and what must be found there."""
    texts = published.fillna("").astype(str).to_dict("records")
    values = published["value"].to_list()
    cam = {
        (line["paper"], line["dataset"], line["model"]): value
        for line, value in zip(texts, values, strict=True)
        if line["method"] == "cam"
    }
    for row, (line, value) in enumerate(zip(texts, values, strict=True), start=1):
        said = f"{value:g} {line['unit']}"
        if ADDED in line["source"] and line["method"] not in ABSOLUTE:
            base = cam[line["paper"], line["dataset"], line["model"]]
            said = f"{value - base:+.1f} (CAM {base:g}, together {value:g} {line['unit']})"
        where = f"table {line['table']}, {line['dataset']}, {line['model']}, {line['method']}: {line['metric']}"
        yield Look(row, line["paper"], line["source"], f"{said} at {where}", line["note"])


def wanted(texts: Sequence[str], last: int) -> set[int]:
    """The rows that `--rows` names. ValueError for anything else."""
    chosen: set[int] = set()
    for text in texts:
        first, _, end = text.partition("-")
        if not (first.isdecimal() and (end or first).isdecimal() and 1 <= int(first) <= int(end or first) <= last):
            raise ValueError(f"--rows {text}: allowed are rows and ranges from 1 to {last}, such as 53-60")
        chosen.update(range(int(first), int(end or first) + 1))
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Print the selected rows and return 0; exit with 2 for a wrong option, or if nothing is selected."""
    published = numbers()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("paper", "table", "dataset", "model", "method", "metric"):
        parser.add_argument(
            f"--{name}", nargs="+", default=[], metavar="NAME", help=f"only rows with these values of `{name}`"
        )
    parser.add_argument("--rows", nargs="+", default=[], metavar="N", help="only these rows, 53 or 53-60")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    args = parser.parse_args(argv)
    kept = published.index >= 0
    for name in ("paper", "table", "dataset", "model", "method", "metric"):
        if given := getattr(args, name):
            if unknown := sorted(set(given) - set(published[name].astype(str))):
                known = ", ".join(sorted(set(published[name].astype(str))))
                parser.error(f"--{name} {unknown[0]}: not in published.csv; there are: {known}")
            kept &= published[name].astype(str).isin(given)
    try:
        rows = wanted(args.rows, len(published))
    except ValueError as error:
        parser.error(str(error))
    found = [look for look, keep in zip(looks(published), kept, strict=True) if keep and (not rows or look.row in rows)]
    if not found:
        parser.error("no row of published.csv matches all of these")
    if args.csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows([Look._fields, *found])
        return 0
    for source in dict.fromkeys(look.source for look in found):
        of = [look for look in found if look.source == source]
        print(f"\n{one_line(source)}\n")
        print(tabulate([(k.row, one_line(k.read), one_line(k.note)) for k in of], ("row", "read", "note")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
