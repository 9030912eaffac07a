"""Draw the graph of imports between the rooms into docs/design.md, as a Mermaid drawing.

    python scripts/house.py

A room is a subpackage or a top-level module of `eigencam`. An arrow is left out if a path of other arrows implies it.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/design.md"
sys.path.insert(0, str(ROOT / "tests"))

from test_graph import LEVEL, arrows, room  # noqa: E402

MARKS = ("<!-- made by scripts/house.py -->", "<!-- end -->")


def main() -> None:
    text = PAGE.read_text()
    PAGE.write_text(re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: drawing(), text, flags=re.DOTALL))


def drawing() -> str:
    """Return the block for the page."""
    found = {(str(room(a.importer)), str(room(a.imported))) for a in arrows(ROOT) if not a.typing}
    kept = {(a, b) for a, b in found if a != b and a in LEVEL and b in LEVEL and a != "__main__"}
    lines = [f"    {a} --> {b}" for a, b in sorted(reduced(kept), key=lambda pair: (-LEVEL[pair[0]], pair))]
    return "\n".join([MARKS[0], "```mermaid", "flowchart TD", *lines, "```", MARKS[1]])


def reduced(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the pairs without those implied by a path of other pairs; there are no cycles."""
    after = {a: {b for x, b in pairs if x == a} for a, _ in pairs}

    def reached(start: str) -> set[str]:
        return {far for b in after.get(start, ()) for far in (b, *reached(b))}

    return {(a, b) for a, b in pairs if not any(b in reached(c) for c in after[a] - {b})}


if __name__ == "__main__":
    main()
