"""Change one numeric literal of a module at a time, and put the changed module in place of the original."""

import ast
import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class Change:
    """One literal changed one way.

    Attributes:
        where: module and function, the literal, and its number among the equal literals of that function.
        line: in the file.
        old: the literal.
        new: what it becomes.
        node: number of the literal among all in the file.
    """

    where: str
    line: int
    old: float
    new: float
    node: int

    @property
    def name(self) -> str:
        """Name in the list of exemptions."""
        return f"{self.where} {'up' if self.new > self.old else 'down'}"

    @property
    def small(self) -> bool:
        """Whether the literal is a small integer."""
        return isinstance(self.old, int) and self.old < SMALL


SMALL = 10
"""Integers below it are small."""


class _Literals(ast.NodeVisitor):
    """Collects the numeric literals that results may depend on, with the qualified names around them."""

    def __init__(self) -> None:
        self.found: list[tuple[ast.Constant, str]] = []
        self._names: list[str] = []

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, int | float) and not isinstance(node.value, bool):
            self.found.append((node, ".".join(self._names) or "module"))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node.name, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        defaults = [d for d in (*node.args.defaults, *node.args.kw_defaults) if d is not None]
        self._inside(node.name, [*defaults, *node.body])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if not {"version", "summary_version", "VERSIONS", "SUMMARY_VERSIONS"} & set(names):
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Do not visit it."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Do not visit it."""

    def visit_If(self, node: ast.If) -> None:
        for part in (*([] if isinstance(node.body[-1], ast.Raise) else [node.test, *node.body]), *node.orelse):
            self.visit(part)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "maxsize":
            self.visit(node.value)

    def _inside(self, name: str, nodes: list[Any]) -> None:
        self._names.append(name)
        for node in nodes:
            self.visit(node)
        self._names.pop()


def literals(tree: ast.AST) -> list[tuple[ast.Constant, str]]:
    """The literals in the order of the file, each with the qualified name that it stands in."""
    visitor = _Literals()
    visitor.visit(tree)
    return visitor.found


def changes(source: str, stem: str) -> Iterator[Change]:
    """All changes of a module's literals."""
    seen: Counter[str] = Counter()
    for k, (node, name) in enumerate(literals(ast.parse(source))):
        value: Any = node.value
        text = f"{stem} {name} {value}"
        seen[text] += 1
        where = f"{text}#{seen[text]}"
        step = max(1, round(value / 20)) if isinstance(value, int) else 0
        others = (value + step, value - step) if step else (1.05 * value or 0.05,)
        yield from (Change(where, node.lineno, value, other, k) for other in others)


def apply(module: ModuleType, tree: ast.AST) -> None:
    """Make everything imported from a module behave as its changed code: functions are changed in place."""
    fresh = ModuleType(module.__name__)
    fresh.__file__ = module.__file__
    exec(compile(tree, str(module.__file__), "exec"), vars(fresh))  # type: ignore[arg-type]
    package = module.__name__.partition(".")[0]
    ours = [other for other in list(sys.modules.values()) if other.__name__.partition(".")[0] == package]
    for name, new in vars(fresh).items():
        old = vars(module).get(name)
        if name.startswith("__") or getattr(old, "__module__", module.__name__) != module.__name__:
            continue
        if not _in_place(old, new):
            for other in ours:
                if name in vars(other) and vars(other)[name] is old:
                    setattr(other, name, new)


def _in_place(old: Any, new: Any) -> bool:
    """Change a function or a class into another one; False for anything else."""
    if isinstance(old, type):
        for name, value in list(vars(new).items()):
            there = vars(old).get(name)
            if name.startswith("__") and not isinstance(there, FunctionType):
                continue
            if isinstance(value, type) and value.__qualname__ != f"{new.__qualname__}.{name}":
                continue  # not defined in it: an autograd function and its backward node refer to each other
            if not _in_place(there, value) and not inspect.isdatadescriptor(there) and there is not None:
                setattr(old, name, value)
        return True
    for part in ("fget", "__func__", "__wrapped__", "py_func"):
        if getattr(old, part, None) is not None:
            if hasattr(old, "cache_clear"):
                old.cache_clear()
            return _in_place(getattr(old, part), getattr(new, part))
    if not isinstance(old, FunctionType):
        return False
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
    return True
