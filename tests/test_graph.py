"""The graph of imports: arrows between rooms run one way, and no modules import each other in a circle.

Imports within functions count as the others do; those for type checkers alone (`if TYPE_CHECKING:`) do not,
since nothing runs them. `python tests/test_graph.py` prints the arrows between the rooms.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"eigencam": "eigencam", "evaluation": "eigencam.evaluation", "datasets": "eigencam.datasets"}
ORDER = (  # a room may import from the rooms above it in this list
    ("files", "moved", "transfer"),
    ("datasets",),
    ("evaluation",),
    ("store",),
    ("passes",),
    ("targets",),
    ("networks",),
    ("methods",),
    ("configuring",),
    ("running",),
    ("fitting",),
    ("reporting",),
    ("explainer",),
    ("commands",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


@dataclass(frozen=True, slots=True, order=True)
class Arrow:
    """One import: `importer` and `imported` are dotted names of our modules, `line` is in the file of `importer`."""

    importer: str
    imported: str
    file: str
    line: int
    typing: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.importer} imports {self.imported}"


def modules(root: Path) -> dict[str, Path]:
    """Return the file of each of our modules below `root` by dotted name."""
    found = {}
    for folder, package in FOLDERS.items():
        for file in sorted((root / folder).rglob("*.py")):
            parts = [package, *file.relative_to(root / folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


def typing_lines(tree: ast.Module) -> set[int]:
    """Return the lines that only a type checker reads."""
    blocks = (n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))
    return {line for block in blocks for s in block.body for line in range(s.lineno, (s.end_lineno or s.lineno) + 1)}


def names_of(node: ast.AST, importer: str, is_package: bool) -> Iterator[str]:
    """Return the dotted names that one node imports, by statement or by `import_module` of a literal."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parents = importer.split(".")[: len(importer.split(".")) - node.level + is_package] if node.level else []
        base = ".".join([*parents, *([node.module] if node.module else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".", 1)[-1] in ("import_module", "__import__"):
        yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


@lru_cache
def arrows(root: Path) -> tuple[Arrow, ...]:
    """Return each import of one of our modules by another."""
    files, out = modules(root), []
    for importer, file in files.items():
        tree = ast.parse(file.read_text())
        hidden = typing_lines(tree)
        for node in ast.walk(tree):
            for name in names_of(node, importer, file.name == "__init__.py"):
                target = next((t for t in (name, name.rpartition(".")[0]) if t in files), None)
                if target and target != importer:
                    line = getattr(node, "lineno", 0)
                    out.append(Arrow(importer, target, str(file.relative_to(root)), line, line in hidden))
    return tuple(sorted(out))


def room(module: str) -> str | None:
    """Return the room of a module, None for the package `eigencam` itself."""
    return module.split(".")[1] if "." in module else None


def against(found: Sequence[Arrow]) -> list[Arrow]:
    """Return the arrows that run from a room to one below it in `ORDER`; the package `eigencam` itself is the API."""
    pairs = [(a, room(a.importer), room(a.imported)) for a in found if not a.typing]
    return [a for a, i, t in pairs if i and t and (LEVEL[t] > LEVEL[i] or (LEVEL[t] == LEVEL[i] and t != i))]


def circles(found: Sequence[Arrow]) -> list[Arrow]:
    """Return the arrows that lie on a circle of modules (a strongly connected part of the graph)."""
    out: dict[str, set[str]] = {}
    for arrow in found:
        if not arrow.typing:
            out.setdefault(arrow.importer, set()).add(arrow.imported)
    reached: dict[str, set[str]] = {}
    for start in out:
        seen, todo = set[str](), [start]
        while todo:
            for following in out.get(todo.pop(), set()) - seen:
                seen.add(following)
                todo.append(following)
        reached[start] = seen
    return [a for a in found if not a.typing and a.importer in reached.get(a.imported, set())]


def lines(found: Sequence[Arrow]) -> str:
    """Return one line per arrow."""
    return "\n".join(map(str, found))


def test_every_room_has_a_place_in_the_order() -> None:
    assert {room(m) for m in modules(ROOT)} - {None} == set(LEVEL)


def test_no_import_runs_against_the_order_of_the_rooms() -> None:
    found = against(arrows(ROOT))
    assert not found, f"imports against the order of the rooms (docs/design.md):\n{lines(found)}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = circles(arrows(ROOT))
    assert not found, f"imports on a circle:\n{lines(found)}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("from eigencam.methods.cam import CAM\n", 1),
        ("import torch\nimport eigencam.methods.cam\n", 2),
        ("def f():\n    from eigencam.methods import cam\n", 2),
        ("def f():\n    from ..methods.cam import CAM\n", 2),
        ("from importlib import import_module\nm = import_module('eigencam.methods.cam')\n", 2),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from eigencam.methods import cam\n", None),
        ("from eigencam.evaluation import base\n", None),
    ],
)
def test_an_arrow_upward_is_named_with_its_file_and_line(tmp_path: Path, text: str, line: int | None) -> None:
    files = {
        "eigencam/passes/tape.py": text,
        "eigencam/methods/__init__.py": "",
        "eigencam/methods/cam.py": "",
        "evaluation/base.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    found = [f"{a.file}:{a.line}" for a in against(arrows(tmp_path))]
    assert found == ([f"eigencam/passes/tape.py:{line}"] if line else [])


def test_a_circle_through_functions_is_found(tmp_path: Path) -> None:
    inner = "def f():\n    import eigencam.passes.c"
    texts = {"a": "from eigencam.passes import b", "b": inner, "c": "from . import a"}
    (tmp_path / "eigencam/passes").mkdir(parents=True)
    for name, text in {**texts, "d": "from eigencam.passes import a", "__init__": ""}.items():
        (tmp_path / f"eigencam/passes/{name}.py").write_text(text)
    assert {a.importer[-1] for a in circles(arrows(tmp_path))} == {"a", "b", "c"}


if __name__ == "__main__":
    made = arrows(ROOT)
    between = {(room(a.importer), room(a.imported)) for a in made if room(a.imported) and not a.typing}
    print(
        "\n".join(
            f"{importer} -> {imported}" for importer, imported in sorted(between, key=str) if importer != imported
        )
    )
    if hidden := [a for a in made if a.typing]:
        print(f"for type checkers alone:\n{lines(hidden)}")
