"""The page on the design shows the current arrows between the rooms."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_drawing_of_the_rooms_is_the_graph_of_imports() -> None:
    script = runpy.run_path(str(ROOT / "scripts/house.py"))
    assert script["drawing"]() in (ROOT / "docs/design.md").read_text(), "python scripts/house.py draws it again"
    assert script["reduced"]({("a", "b"), ("b", "c"), ("a", "c")}) == {("a", "b"), ("b", "c")}


def test_every_room_is_on_the_page() -> None:
    text = (ROOT / "docs/design.md").read_text()
    rooms = {path.parent.name for path in (ROOT / "eigencam").glob("*/__init__.py")}
    assert rooms <= {name for names in re.findall(r"^\| `eigencam/(\w+)/`", text, re.M) for name in [names]}
