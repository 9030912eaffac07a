"""Does changing any number in methods and evaluators make the golden test fail?

    python scripts/sensitivity.py [--every N] [MODULE ...]

Each numeric literal and default in the modules of methods, evaluators, attacks and shared parts is changed separately:
floats by 5 % (0.0 to 0.05), integers by 1 up and by 1 down. A change is caught if a golden number changes, a default
differs from the recorded one, or the code fails. A change that is not caught must be listed in tests/golden_exempt.txt
with a reason; otherwise the exit status is 1. It is also 1 if that file lists a literal that does not exist or is
caught.

Literals that cannot change a result are skipped: in annotations, `raise` statements, conditions and messages of errors,
cache sizes, and versions themselves.

Modules are given by the ends of their names, as `perturbation`. Functions are changed in place in forked copies of one
process, which takes 0.1 s or more per change. Only those entries are computed that use the changed function. Numba's
functions run as plain Python.
"""

import argparse
import ast
import fnmatch
import importlib
import inspect
import os
import select
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
EXEMPT = TESTS / "golden_exempt.txt"
PATIENCE = 30.0
"""Seconds after which a loop is considered endless because of a change."""

sys.path.insert(0, str(TESTS))
if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_DISABLE_JIT": "1"}  # before numba is imported

import golden  # noqa: E402
import golden_file  # noqa: E402
import golden_methods  # noqa: E402

from eigencam import versions  # noqa: E402
from eigencam.evaluation.base import asks_network  # noqa: E402
from eigencam.running.probe import BatchProbe  # noqa: E402


@dataclass(frozen=True, slots=True)
class Change:
    """One literal changed one way.

    Attributes:
        where: the module's stem, the qualified name, and the literal with its number among equal ones there.
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
        """As in the list of exemptions."""
        return f"{self.where} {'up' if self.new > self.old else 'down'}"


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
        others = (value + 1, value - 1) if isinstance(value, int) else (1.05 * value or 0.05,)
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


class Golden:
    """The golden entries that use a module.

    Attributes:
        module: the module.
        order: names of the entries, the fastest first.
    """

    def __init__(self, name: str) -> None:
        self.module = importlib.import_module(name)
        self._file = golden_file.read()
        self._makers = {key: make for key, make in golden.makers().items() if name in dict(reached_by(make))}
        times = {key: forked(lambda key=key: self._timed(key)) for key in self._makers}
        if wrong := [key for key, text in times.items() if not text.replace(".", "").isdigit()]:
            raise SystemExit(f"{name}: without a change {wrong[0]} fails: {times[wrong[0]]}")
        self.order = sorted(times, key=lambda key: float(times[key]))

    def of(self, name: str) -> list[str]:
        """The entries that use the code of one top-level name; all, if that is not known."""
        here = self.module.__name__
        touched = [key for key in self.order if (here, name) in reached_by(self._makers[key])]
        unclear = [key for key in self.order if (here, "") in reached_by(self._makers[key])]
        return [key for key in self.order if key in {*touched, *unclear}] if touched else self.order

    def fault(self, names: list[str]) -> str:
        """The first entry that changed, or an error; "-" if all are as in the file."""
        with golden.alone():
            for name in names:
                try:
                    if next(golden_file.moved(self._makers[name](), self._file[name]), None):
                        return name
                except Exception as error:  # changed code may raise anything
                    return f"{name}: {type(error).__name__}"
        return "-"

    def _timed(self, key: str) -> str:
        start = time.perf_counter()
        fault = self.fault([key])
        return f"{time.perf_counter() - start:.3f}" if fault == "-" else fault


def reached_by(make: Any) -> frozenset[tuple[str, str]]:
    """The modules and top-level names whose code computes an entry's numbers."""
    thing = make.args[0]
    if isinstance(thing, ModuleType):
        return frozenset({(thing.__name__, "")})
    return versions.reached(thing) | (versions.reached(BatchProbe) if asks_network(thing) else frozenset())


def forked(task: Callable[[], str]) -> str:
    """Result of a task in a copy of this process; `endless` if it takes too long, `ended` if it dies."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            answer = task()
        except BaseException as error:  # the copy must not continue as the original process
            answer = f"error: {type(error).__name__}: {error}"
        os.write(writing, answer.encode()[:4000])
        os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], PATIENCE)
    answer = (os.read(reading, 4000).decode() or "ended") if ready else "endless"
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    os.waitpid(child, 0)
    return answer


def tried(name: str, every: int = 1) -> list[tuple[Change, str]]:
    """Changes of one module with what caught each, "" if nothing did; of integers, one in `every`."""
    entries = Golden(name)
    source = inspect.getsource(entries.module)
    tree = ast.parse(source)
    found, nodes = [], literals(tree)

    def attempt(names: list[str], change: Change | None = None) -> str:
        if change:
            nodes[change.node][0].value = change.new  # in a copy of this process
        apply(entries.module, tree)
        return entries.fault(names)

    if (answer := forked(lambda: attempt(entries.order))) != "-":
        raise SystemExit(f"{name}: the same code in place of the same code: {answer}")
    all_changes = list(changes(source, name.rpartition(".")[2]))
    integers = [change for change in all_changes if isinstance(change.old, int)]
    for change in [c for c in all_changes if isinstance(c.old, float)] + integers[
        zlib.crc32(name.encode()) % every :: every
    ]:
        names = entries.of(change.where.split()[1].partition(".")[0])
        answer = forked(lambda change=change, names=names: attempt(names, change))
        found.append((change, answer.removeprefix("-")))
    print(f"{name}: {sum(bool(by) for _, by in found)} of {len(found)} changes caught", file=sys.stderr, flush=True)
    return found


def names() -> list[str]:
    """The modules of methods, evaluators, attacks and shared parts."""
    made = golden.makers()
    things = [make.args[0] for make in made.values()]
    modules = {t.__name__ if isinstance(t, ModuleType) else t.__module__ for t in things}
    rooms = ("methods", "evaluation")
    parts = {t.__name__ for t in things if isinstance(t, ModuleType) and ".datasets." not in t.__name__}
    return sorted(name for name in modules if name in parts or name.split(".")[1] in rooms)


def exemptions() -> dict[str, str]:
    """Pattern to reason."""
    lines = [line.split("  # ", 1) for line in EXEMPT.read_text().splitlines() if line and not line.startswith("#")]
    if bad := [line[0] for line in lines if len(line) < 2 or not line[1].strip()]:
        raise SystemExit(f"{EXEMPT}: no reason given (two spaces, #, the reason): {'; '.join(bad)}")
    return {pattern.strip(): reason for pattern, reason in lines}


def report(found: list[tuple[Change, str]], patterns: dict[str, str], whole: bool) -> int:
    """Print the counts and what is neither caught nor exempt; return the exit status."""
    open_, used = list[Change](), Counter[str]()
    for change, by in found:
        matching = [pattern for pattern in patterns if fnmatch.fnmatchcase(change.name, f"{pattern}*")]
        if not by and not matching:
            open_.append(change)
        used.update(matching if not by else ())
    literals = {(change.where, change.line) for change, _ in found}
    missed = {(change.where, change.line) for change, by in found if not by}
    print(
        f"{len(literals)} literals, {len(found)} changes: {sum(bool(by) for _, by in found)} caught, "
        f"{sum(not by for _, by in found) - len(open_)} exempt ({len(missed)} literals), {len(open_)} neither"
    )
    for change in open_:
        print(f"  line {change.line}: {change.name}  ({change.old} became {change.new})")
    idle = [pattern for pattern in patterns if not used[pattern]] if whole else []
    for pattern in idle:
        print(f"  {EXEMPT.name} names {pattern}, which is caught or not there")
    return int(bool(open_ or idle))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="ends of their names; all of them by default")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of the integers' changes only one in N")
    arguments = parser.parse_args()
    ends = tuple(f".{end}" for end in arguments.modules)
    for heavy in ("torch._dynamo", "torch.optim", "torch.fx"):
        importlib.import_module(heavy)  # here, once, and not in each copy
    for network in golden_methods.LABELS:
        golden_methods.network(network)
    chosen = [name for name in names() if not ends or name.endswith(ends)]
    found = [one for name in chosen for one in tried(name, arguments.every)]
    return report(found, exemptions() if EXEMPT.is_file() else {}, not ends and arguments.every == 1)


if __name__ == "__main__":
    sys.exit(main())
