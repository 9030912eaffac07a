"""Print `docs/measured.md`: excerpts of the committed tables, each with the command that made it.

python scripts/measured.py > docs/measured.md
"""

import html
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXCERPTS = (
    ("scenes", "scenes test", "localization", ("scenes_resnet", "scenes_vgg")),
    ("real_ilsvrc", "ilsvrc val", "localization", ("googlenet_bvlc", "squeezenet1_0")),
    ("real_methods", "ilsvrc val", "localization", ("googlenet_bvlc",)),
    ("real_voc", "voc2012 Segmentation val", "segmentation", ("googlenet_bvlc", "squeezenet1_0")),
)
"""Folder of `results/`, beginning of the title, evaluator, networks."""

HEAD = """# Measured

Excerpts of the committed tables, made by `python scripts/measured.py`; the folders have every network and every
footnote. Intervals are over images, at 95 %.
"""


def main() -> int:
    """Print the page; returns 0."""
    print(HEAD)
    for folder, data, evaluator, networks in EXCERPTS:
        text = (ROOT / "results" / folder / "tables.md").read_text(encoding="utf-8")
        print("\n".join(excerpt(text, folder, data, evaluator, networks)))
    return 0


def excerpt(text: str, folder: str, data: str, evaluator: str, networks: Sequence[str]) -> list[str]:
    """Return a heading, the command and the lines of some networks of one of a file's tables."""
    commands = sorted(re.findall(r"command: (.*?) \|", html.unescape(text).partition("\n")[0]), key=len)
    sections = [part for part in text.split("\n### ")[1:] if part.startswith(data) and f": {evaluator} (" in part]
    if not commands or len(sections) != 1:
        raise ValueError(
            f"results/{folder}/tables.md: no command in its header, or {len(sections)} tables of {data}: {evaluator}"
        )
    title, *lines = sections[0].splitlines()
    table = [line for line in lines if line.startswith("|")]
    rows = [line for line in table[2:] if line.strip("| ").split(" ")[0] in networks]
    link = f"[results/{folder}](../results/{folder}/tables.md)"
    return [
        f"## {title}",
        "",
        f"{', '.join(f'`{command}`' for command in commands)}, {link}",
        "",
        *map(squeezed, [*table[:2], *rows]),
        "",
    ]


def squeezed(line: str) -> str:
    """Return a line of a table without the spaces that align it."""
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    return f"| {' | '.join('---' if set(cell) <= set(':-') and len(cell) > 2 else cell for cell in cells)} |"


if __name__ == "__main__":
    sys.exit(main())
