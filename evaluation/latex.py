r"""A table as LaTeX that compiles as it is, with `\usepackage{booktabs}` and, for a wide one, `graphicx`.

The typeset cells have printed names; comments beside them have the stored ones, so that `eigencam reproduce` can read
the file: `% table:` is followed by the title, `% columns:` by the headings, and each line by its keys.

A table of more lines than fit on a page is set in parts, each a `table` of its own with the same number. Footnotes that
leave no room for the table on their page are set as a paragraph before it, which may run over pages.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from eigencam.evaluation import escaping
from eigencam.evaluation.table_cells import Table, parsed

NARROW, SMALL, TALL = 62, 80, 40
"""Characters that fit into a line of `article` at \\normalsize and at \\footnotesize, and lines below a caption."""

LINES = 56
"""Largest number of lines on one page."""

PAGE, SCALED, CAPTION = 44, 34, 80
"""Lines of a page at \\normalsize, those of a table scaled to 0.7 \\textheight, and characters in a caption's line."""

SEPARATOR = " | "
PACKAGES = "needs: \\usepackage{booktabs,graphicx}"


def latex(table: Table) -> str:
    """Return the table as `table` environments, one per page; without a metric, its title and notes as comments."""
    stored = table.stored or table
    title = f"% table: {escaping.one_line(stored.title)}"
    columns = f"% columns: {_joined(stored.frame.columns)}"
    notes = [f"% note: {escaping.one_line(note)}" for note in stored.notes]
    if not table.best.shape[1]:
        return "\n".join([title, *notes, ""])
    cells = [_cells(table, k) for k in range(len(table.frame))]
    before, caption = _caption(table)
    text = [title, columns, *notes, *before]
    for k, part in enumerate(_parts(table)):
        text += [*([title, columns] if k else []), *_environment(table, cells, part, caption if not k else None)]
    return "\n".join([*text, ""])


def _environment(table: Table, cells: Sequence[Sequence[str]], part: range, caption: str | None) -> list[str]:
    r"""The lines of one `table` environment; without a caption it continues the table before it."""
    small, scaled = _size(table, len(part))
    named = [rf"\caption{{{caption}}}", rf"\label{{{label(table.stored or table)}}}"]
    continued = [r"\tablename~\thetable, continued", r"\par"]
    return [
        r"\begin{table}",
        r"\centering\sloppy",
        *(continued if caption is None else named),
        r"\medskip",
        *([r"\footnotesize"] if small else []),
        *([rf"\resizebox*{scaled}{{%"] if scaled else []),
        rf"\begin{{tabular}}{{{_sides(table)}}}",
        r"\toprule",
        *_heads(table),
        r"\midrule",
        *_body(table, cells, part),
        r"\bottomrule",
        r"\end{tabular}" + ("}" if scaled else ""),
        r"\end{table}",
    ]


def _parts(table: Table) -> list[range]:
    """The lines of each page, about equally many; a new page begins with a network if one begins nearby."""
    lines = len(table.frame)
    count = max(1, -(-lines // LINES))
    names = list(table.frame.iloc[:, 0]) if table.span else []
    borders = [k for k in range(1, len(names)) if names[k] != names[k - 1]]
    even = [round(lines * k / count) for k in range(1, count)]
    near = [min(borders, key=lambda border, cut=cut: abs(border - cut), default=cut) for cut in even]
    cuts = [b if abs(b - cut) <= LINES // 8 else cut for b, cut in zip(near, even, strict=True)]
    return [range(*ends) for ends in zip([0, *cuts], [*cuts, lines], strict=True)]


def label(table: Table) -> str:
    r"""Return the name of a table for `\ref`: `tab:scenes-test-localization`."""
    about = re.sub(r", \d+ (?:pictures|images)|maps for the class", "", table.title)
    return "tab:" + "-".join(re.findall(r"[a-z0-9]+", about.lower()))[:120]


def _caption(table: Table) -> tuple[list[str], str]:
    """Return a paragraph that precedes the table, if one is needed, and the caption.

    The caption has the title and every footnote except those on where results come from; if it would be too long, the
    footnotes are in the paragraph.
    """
    sentences = [table.title, *(note for note in table.notes if note not in table.provenance)]
    title, *notes = (f"{_breakable(escaping.latex(_sentence(text)))}." for text in sentences)
    lines = len(_parts(table)[0])
    if sum(map(len, sentences)) <= CAPTION * (PAGE - min(SCALED, lines + 3)):
        return [], " ".join([title, *notes])
    number = rf"Table~\ref{{{label(table.stored or table)}}}"
    return [
        rf"{{\footnotesize\sloppy\noindent {number}: {' '.join(notes)}\par}}"
    ], f"{title} Its notes are in the text."


def _breakable(text: str) -> str:
    """Allow line breaks after `_` and `/` in typeset text."""
    return re.sub(r"(\\_|/)(?=\w)", r"\1\\allowbreak{}", text)


def _sentence(text: str) -> str:
    """A footnote with a capital letter, unless it begins with a name; without a full stop."""
    first = text.partition(" ")[0].rstrip(",:")
    capital = first.islower() and first.isalpha() and len(first) > 1
    return (text[:1].upper() + text[1:] if capital else text).rstrip(".")


def _joined(texts: Iterable[object]) -> str:
    return SEPARATOR.join(escaping.comment(text) for text in texts)


def _shown(table: Table) -> list[int]:
    """Indices of the typeset columns: all except the spanning one."""
    return [k for k, name in enumerate(table.frame.columns) if not (k == 0 and name == table.span)]


def _sides(table: Table) -> str:
    names = list(table.frame.columns)
    filled = {name: [cell for cell in table.frame[name].astype(str) if cell] for name in names}
    numbers = {name for name, cells in filled.items() if cells and all(map(parsed, cells))}
    return "".join("r" if names[k] in table.best or names[k] in numbers else "l" for k in _shown(table))


def _size(table: Table, lines: int) -> tuple[bool, str]:
    r"""Whether the font has to be smaller, and what the tabular is scaled to: "" or the sides of a `\\resizebox*`.

    Args:
        table: the whole table, so that its parts have the same columns.
        lines: number of lines in a part.
    """
    shown = [table.headings[k] for k in _shown(table)]
    columns = [table.frame.iloc[:, k].astype(str) for k in _shown(table)]
    widths = [max(len(head[-1]), *map(_length, column)) for head, column in zip(shown, columns, strict=True)]
    wide = (sum(widths) + 2 * len(widths)) / SMALL
    spans = table.frame.iloc[:, 0].nunique() if len(shown) < len(table.frame.columns) else 0
    tall = (lines + 1.5 * spans * lines / max(len(table.frame), 1) + 2) / TALL
    small = max(wide * SMALL / NARROW, tall) > 1
    if max(wide, tall) <= 1:
        return small, ""
    return small, r"{\textwidth}{!}" if wide > tall else r"{!}{0.7\textheight}"


def _length(text: str) -> float:
    """Approximate width of a cell in characters; its interval is set in a smaller font."""
    value, space, interval = text.partition(" [")
    return len(value) + (0.75 * len(interval) + 2 if space else 0)


def _heads(table: Table) -> list[str]:
    r"""The lines of headings; one over several columns is set once, above a `\cmidrule`."""
    heads = [table.headings[k] for k in _shown(table)]
    levels = max(map(len, heads))
    padded = [("",) * (levels - len(head)) + head for head in heads]  # short ones are at the bottom
    lines = []
    for k in range(levels):
        cells, rules, column = [], [], 1
        for head, same in groupby(padded, lambda head, k=k: head[: k + 1]):
            size = len(list(same))
            text = escaping.latex(head[k])
            if size > 1 and text:
                cells.append(rf"\multicolumn{{{size}}}{{c}}{{{text}}}")
                rules.append(rf"\cmidrule(lr){{{column}-{column + size - 1}}}")
            else:
                cells += [text] * size
            column += size
        lines += [" & ".join(cells) + r" \\", *rules]
    return lines


def _body(table: Table, cells: Sequence[Sequence[str]], part: range) -> list[str]:
    """Some of the lines; those of each network are preceded by a line across the table."""
    stored = table.stored or table
    keys = [name for name in stored.frame.columns if name not in stored.best and name != "cost"]
    shown = _shown(table)
    lines, before = [], None
    for k in part:
        if len(shown) < len(table.frame.columns) and (name := str(table.frame.iloc[k, 0])) != before:
            lines += [r"\addlinespace"] if before is not None else []
            lines.append(rf"\multicolumn{{{len(shown)}}}{{l}}{{\textit{{{escaping.latex(name)}}}}} \\")
            before = name
        own = f" % {_joined(stored.frame[keys].iloc[k])}" if table.span or table.stored else ""
        lines.append(" & ".join(cells[k]) + r" \\" + own)
    return lines


def _cells(table: Table, k: int) -> list[str]:
    """The typeset cells of one line."""
    made = []
    for column in _shown(table):
        name, text = table.frame.columns[column], str(table.frame.iloc[k, column])
        best = name in table.best and bool(table.best[name].iloc[k])
        second = table.second is not None and name in table.second and bool(table.second[name].iloc[k])
        made.append(_typeset(text, r"\textbf{{{}}}" if best else r"\underline{{{}}}" if second else "{}"))
    return made


def _typeset(text: str, form: str) -> str:
    r"""`\textbf{57.5}$^{*}$ {\scriptsize [50.6, 64.1]}`; text that is not a number is escaped."""
    parts = parsed(text)
    if not parts or parts["value"] == "-" or not set(text) & set("[±*"):
        return form.format(escaping.latex(text))
    marks = f"$^{{{parts['marks']}}}$" if parts["marks"] else ""
    interval = rf" {{\scriptsize [{parts['low']}, {parts['high']}]}}" if parts["low"] else ""
    half = rf" $\pm$ {parts['half']}" if parts["half"] else ""
    return f"{form.format(parts['value'])}{marks}{interval}{half}"
