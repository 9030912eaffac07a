"""Tables as files: CSV, Markdown, LaTeX and HTML, each with a header that says what made it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from eigencam.evaluation import escaping
from eigencam.evaluation.latex import PACKAGES
from eigencam.evaluation.tables import FORMATS, Format, Table, render
from eigencam.files import write_text
from eigencam.reporting.collect import provenance

SUFFIX = {"terminal": "txt", "markdown": "md", "latex": "tex", "csv": "csv", "html": "html"}


LONG = (
    *("dataset", "part", "pictures", "network", "method", "evaluator", "target", "dtype"),
    *("metric", "value", "low", "high", "unit", "n", "threshold", "note", "left_out", "bad_truths", "cost", "folder"),
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


def as_csv(long: pd.DataFrame, digits: int | None = None) -> str:
    """Return every metric of every result, with `digits` significant digits; None: all digits."""
    lines = long[list(LONG)].itertuples(index=False)
    return escaping.csv_table([LONG, *([_rounded(cell, digits) for cell in line] for line in lines)])


def _rounded(cell: Any, digits: int | None) -> Any:
    return f"{cell:.{digits}g}" if digits and isinstance(cell, float) and cell == cell else cell


def write(
    folder: Path,
    stem: str,
    made: Sequence[Table] | Mapping[Format, Sequence[Table]],
    header: list[str],
    lines: str | None = None,
) -> list[Path]:
    """Write the tables as STEM.csv, .md, .tex and .html, each with the header.

    Args:
        folder: made if it does not exist.
        stem: of the file names.
        made: the tables; or, by format, the tables arranged for it. Other formats use the first that is not LaTeX's.
        header: sentences.
        lines: content of STEM.csv instead of the tables.

    Returns:
        The files.
    """
    forms: Mapping[Format, Sequence[Table]] = made if isinstance(made, Mapping) else {"html": made}
    other = next(form for style, form in forms.items() if style != "latex" or len(forms) == 1)
    styles: list[Format] = [style for style in FORMATS if style != "terminal"]
    texts = {style: "\n".join(render(table, style) for table in forms.get(style, other)) for style in styles}
    plain = [escaping.one_line(line) for line in header]
    texts["csv"] = "".join(f"# {line}\n" for line in plain) + (lines or texts["csv"])
    texts["latex"] = "".join(f"% {line}\n" for line in [*plain, PACKAGES]) + "\n" + texts["latex"]
    said = f"<!-- {' | '.join(map(escaping.comment, header))} -->\n"
    texts["markdown"] = said + "\n" + texts["markdown"]
    texts["html"] = PAGE.format(title=escaping.html(stem), body=said + texts["html"])
    paths = {style: folder / f"{stem}.{SUFFIX[style]}" for style in texts}
    for style, path in paths.items():
        write_text(path, texts[style])
    return list(paths.values())


def header_of(root: Path, long: pd.DataFrame) -> list[str]:
    """Return the commands that made the results, with code and machine."""
    found = provenance(root, long["folder"].unique()) if len(long) else {}
    return [*(f"{key}: {line}" for key, lines in found.items() for line in lines), "printed by: eigencam table"]
