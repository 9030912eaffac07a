"""Options that say how tables are arranged and printed: `--rows`, `--pivot`, `--rename`, `--intervals` and others."""

import argparse
from collections.abc import Sequence
from typing import Any

import pandas as pd

from eigencam.configuring.printed_names import printed
from eigencam.evaluation.table_cells import INTERVALS, KINDS, Decimals, Style, column_of, stored_name
from eigencam.evaluation.table_layout import natural

OPTIONS = ("rows", "columns", "pivot", "rename", "only", "against", "second", "intervals", "decimals", "names")
FIRST, LAST = ("stem", "conv1", "conv_proj", "patch_embed"), ("norm", "ln", "avgpool", "head", "classifier", "fc")
"""Parts of layer names for the beginning and the end of a network."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument_group("arrangement").add_argument
    add("--rows", type=_names, default=(), metavar="KEY,…", help="keys of a table's rows (default: network,method)")
    add("--columns", type=_names, default=(), metavar="KEY,…", help="keys of a table's columns (default: metric)")
    add("--pivot", type=_names, default=(), metavar="KEY,…", help="parameters of a sweep as columns: layer,threshold")
    add("--only", nargs="+", type=_pair, default=[], metavar="KEY=VALUE,…", help="keep only these: layer=layer3,layer4")
    add("--rename", nargs="+", type=_pair, default=[], metavar="OLD=NEW", help="names to print in place of others")
    add("--names", choices=("stored", "printed"), help="gradcampp, or Grad-CAM++ (default: printed in LaTeX)")
    add("--intervals", choices=INTERVALS, default="brackets", help="how 95 %% intervals are printed")
    add("--decimals", type=_decimals, metavar="N", help="a number, or by unit, or by interval width (default in LaTeX)")
    add("--second", action="store_true", help="underline the second best")
    add("--against", metavar="METHOD", help="mark what differs from this method: p < 0.05, Holm-corrected")


def parameters(args: argparse.Namespace) -> list[str]:
    """Return the parameters named by the options: each has to be a column of the long frame."""
    named = [*args.rows, *args.columns, *args.pivot, *(key for key, _ in args.only)]
    return [key for key in dict.fromkeys(named) if key not in KINDS]


def chosen(args: argparse.Namespace, long: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of the frame that `--only` keeps.

    Raises:
        ValueError: a value does not occur.
    """
    for key, texts in args.only:
        values, own = texts.split(","), column_of(key)
        columns = [own, f"{own}_name"] if f"{own}_name" in long else [own]
        if unknown := [value for value in values if not any((long[column] == value).any() for column in columns)]:
            known_values = ", ".join(sorted(set(long[own]) - {""}, key=natural))
            raise ValueError(f"--only {key}={texts}: {', '.join(unknown)} does not occur; there are: {known_values}")
        kept = pd.concat([long[column].isin(values) for column in columns], axis=1).any(axis=1)
        long = long[kept | ((key == "metric") & (long["unsupported"] != ""))]
    return long


def style_of(args: argparse.Namespace, long: pd.DataFrame, *, paper: bool) -> Style:
    """Return the style that the options choose.

    Args:
        args: the options.
        long: the frame that the tables are made from.
        paper: whether names and decimals follow papers unless an option says otherwise.
    """
    rows = args.rows or tuple(key for key in ("network", "method") if key not in (*args.columns, *args.pivot))
    columns = (*args.pivot, *(args.columns or (() if "metric" in rows else ("metric",))))
    if twice := sorted({key for key in (*rows, *columns) if (*rows, *columns).count(key) > 1}):
        raise ValueError(f"{', '.join(twice)}: named twice among --rows, --columns and --pivot")
    renamed = dict(args.rename)
    in_print = (args.names or ("printed" if paper else "stored")) == "printed"
    name = printed if in_print else _stored
    names = (lambda kind, text: name(kind, text, renamed)) if renamed or in_print else stored_name
    known = {text for key in (*KINDS, *parameters(args)) for text in long[column_of(key)]}
    known |= {printed(kind, text) for kind in KINDS for text in set(long[kind])}
    known |= {text.partition(" (")[0] for text in known} | {*rows, *columns}
    if unknown := sorted(set(renamed) - known):
        raise ValueError(f"--rename {', '.join(unknown)}: no such name; there are: {', '.join(sorted(known - {''}))}")
    layers = [key for key in (*rows, *columns) if key.rsplit(".", 1)[-1] == "layer"]
    wanted: Decimals = args.decimals if args.decimals is not None else "interval" if paper else "unit"
    return Style(
        rows=tuple(map(column_of, rows)),
        columns=tuple(map(column_of, columns)),
        intervals=args.intervals,
        decimals=wanted,
        second=args.second,
        names=names,
        paper=in_print,
        orders={column_of(key): network_order(set(long[column_of(key)])) for key in layers},
        reference=args.against or "",
    )


def network_order(layers: set[str]) -> list[str]:
    """Return layers in the order of the network, as far as their names show it: `features.5` before `features.12`.

    >>> network_order({"norm", "layer2", "stem", "layer10"})
    ['stem', 'layer2', 'layer10', 'norm']
    """

    def place(layer: str) -> tuple[Any, ...]:
        parts = layer.split(".")
        return parts[0] not in FIRST, parts[0] in LAST, natural(layer)

    return sorted(layers, key=place)


def told(args: argparse.Namespace) -> str:
    """Return the options that change lines, columns and names, as typed; "" if there are none."""
    words = []
    for name in ("rows", "columns", "pivot", "rename", "names"):
        value = getattr(args, name)
        if value:
            pairs = [f"{key}={text}" for key, text in value] if name == "rename" else []
            shown = " ".join(pairs) or (",".join(value) if isinstance(value, tuple) else value)
            words.append(f"--{name} {shown}".strip())
    return " ".join(words)


def _stored(_kind: str, name: str, renamed: dict[str, str]) -> str:
    base, bracket, rest = name.partition(" (")
    return renamed.get(name) or f"{renamed.get(base, base)}{bracket}{rest}"


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are keys separated by commas, layer,threshold")
    return names


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is NAME=VALUE")
    return key, value


def _decimals(text: str) -> Decimals:
    if text == "unit" or text == "interval":
        return text
    if not (text.isdecimal() and int(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are 0 to 9, unit and interval")
    return int(text)


def arranged(args: argparse.Namespace) -> Sequence[str]:
    """Return the given options that choose lines, columns or the form of numbers; a long CSV uses none of them."""
    return [name for name in OPTIONS if name != "only" and getattr(args, name) and getattr(args, name) != "brackets"]
