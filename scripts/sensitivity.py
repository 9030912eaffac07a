"""Does changing any number in methods and evaluators by 5 % make the golden test fail?

    python scripts/sensitivity.py [--unreached] [--small] [MODULE ...]

Each numeric literal and default in the modules of methods, evaluators, attacks and shared parts is changed separately:
floats by 5 % (0.0 to 0.05), integers from 10 on by 5 % up and down, at least by 1. Smaller integers, most of which are
axes, positions and powers, stay as they are. Defaults, small ones as well, are compared with the recorded ones. A
change is caught if a golden number changes, a default differs, or the code fails. A change that is not
caught must be listed in tests/golden_exempt.txt with a reason; otherwise the exit status is 1. It is also 1 if that
file lists a literal that does not exist or is caught.

Literals that cannot change a result are skipped: in annotations, `raise` statements, conditions and messages of errors,
cache sizes, and versions themselves.

`--small` also changes smaller integers by 1, up and down, and counts how many of these changes are caught; it asks for
no exemption. `--unreached` tries nothing: it reports the literals in statements that no golden case executes, which no
golden number can therefore catch. It takes only the tracing, some two minutes of CPU time for all modules.

Modules are given by the ends of their names (`scorecam`); the smallest come first. Functions are changed in place
in forked copies of one process. Only those golden cases are computed that execute the changed statement: all cases of
its module, and of the others the fastest that take different paths through its function, up to two seconds. Numba's
functions run as plain Python. The outcomes are kept in a file: an interrupted call resumes, and only what has changed
is tried again.
"""

import argparse
import ast
import fnmatch
import importlib
import inspect
import json
import os
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
EXEMPT = TESTS / "golden_exempt.txt"
STATE = Path("build/sensitivity.json")
OTHERS_SECONDS = 2.0
"""Processor time of the cases of other modules that are tried for a change, measured with every line traced."""

sys.path.insert(0, str(TESTS))
if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_DISABLE_JIT": "1"}  # before numba is imported

import golden  # noqa: E402
import golden_file  # noqa: E402
from changed_literals import Change, apply, changes, literals  # noqa: E402
from golden_lines import (  # noqa: E402
    SEPARATOR,
    Place,
    Ran,
    about,
    files_of,
    first_fault,
    forked,
    places,
    ran,
    single_cases,
    warmed,
)

from eigencam.files import write_text  # noqa: E402


class Golden:
    """The golden cases, and the lines of the changed modules that each of them executes.

    Attributes:
        makers: by case, the function that computes its entry alone.
        wanted: the file.
        ran: what each case executes in the modules that are changed.
    """

    def __init__(self, modules: Iterable[str], state: "State") -> None:
        self.makers, self.wanted = single_cases(), golden_file.read()
        warmed()
        files, known = files_of(modules), state.ran
        for k, name in enumerate([name for name in self.makers if name not in known]):
            if k % 50 == 49:
                state.save()
            known[name] = json.loads(
                forked(lambda name=name: json.dumps(ran(name, self.makers[name], files, self.wanted)))
            )
            imported(known[name])
            if known[name]["fault"]:
                raise SystemExit(f"without a change {known[name]['fault']} fails")
        self.ran = {name: imported(known[name]) for name in self.makers}
        self._lines = cache(lambda module: {n: frozenset(r.lines.get(module, ())) for n, r in self.ran.items()})

    def of(self, module: str, place: Place) -> list[str]:
        """The cases to try for a literal: first those of its module, then the fastest for each path through it."""
        lines = self._lines(module)
        touched = [name for name, seen in lines.items() if not seen.isdisjoint(place.lines)]
        if place.fixed and not touched:
            touched = [name for name, seen in lines.items() if not seen.isdisjoint(place.around)] or [
                name for name, seen in lines.items() if seen
            ]
        mine = {name for name, make in self.makers.items() if about(make) == module}
        recorded = (SEPARATOR, f"{SEPARATOR}constants")  # defaults and constants
        found = [name for name in mine if name.endswith(recorded)] if place.fixed else []
        ways, spent = Counter[Any](), 0.0
        order = dict[str, tuple[bool, int, float]]()
        for name in sorted(touched, key=lambda name: self.ran[name].seconds):
            way = frozenset(lines[name] & set(place.around))
            order[name] = (name not in mine, ways[way, name in mine], self.ran[name].seconds)
            ways[way, name in mine] += 1
        for name in sorted(order, key=order.__getitem__):
            spent += self.ran[name].seconds * (name not in mine)
            if spent <= OTHERS_SECONDS and name not in found:
                found.append(name)
        return found


def imported(found: dict[str, Any]) -> Ran:
    """What a case executes; the modules that it loads are loaded here, once, and not in each copy of the process."""
    for name in found["loaded"]:
        with suppress(ImportError):
            importlib.import_module(name)
    return Ran(found["seconds"], found["lines"], found["loaded"])


def tried(
    name: str, golden: Golden, known: dict[str, str], *, small: bool = False, unreached: bool = False
) -> Iterator[tuple[Change, str]]:
    """Changes of one module with what caught each, "" if nothing did.

    Args:
        name: of the module.
        golden: the cases.
        known: what earlier calls found; added to.
        small: also those of small integers.
        unreached: only changes that no case executes, which are not tried.
    """
    module = importlib.import_module(name)
    source = inspect.getsource(module)
    tree = ast.parse(source)
    nodes = literals(tree)
    where = places(tree, [node for node, _ in nodes])

    def attempt(names: list[str], change: Change | None = None) -> str:
        if change:
            nodes[change.node][0].value = change.new  # in a copy of this process
        apply(module, tree)
        return first_fault({key: golden.makers[key] for key in names}, golden.wanted)

    for change in changes(source, name.rpartition(".")[2]):
        if change.small and not small:
            continue
        names = golden.of(name, where[change.node])
        if names and unreached:
            continue
        key = f"{change.name} {change.new} {zlib.crc32(source.encode()):08x}"
        missed = f"-{zlib.crc32(' '.join(sorted(names)).encode()):08x}"
        if known.get(key, missed).startswith("-") and known.get(key) != missed:
            seconds = 2 * sum(golden.ran[each].seconds for each in names) + 3
            known[key] = (forked(lambda c=change, n=names: attempt(n, c), seconds) if names else "") or missed
        yield change, "" if known[key] == missed else known[key]


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


def report(found: list[tuple[Change, str]], patterns: dict[str, str], whole: bool, small: bool = False) -> int:
    """Print the counts and what is neither caught nor exempt; return the exit status."""
    open_, used = list[Change](), Counter[str]()
    if small:
        caught = [bool(by) for change, by in found if change.small]
        print(f"{len(caught)} changes of small integers: {sum(caught)} caught")
        found = [(change, by) for change, by in found if not change.small]
    for change, by in found:
        matching = [pattern for pattern in patterns if fnmatch.fnmatchcase(change.name, f"{pattern}*")]
        if not by and not matching:
            open_.append(change)
        used.update(matching if not by else ())
    literals = {(change.where, change.line) for change, _ in found}
    missed = {(change.where, change.line) for change, by in found if not by}
    print(
        f"{len(literals)} literals, {len(found)} changes: {sum(bool(by) for _, by in found)} caught "
        f"({sum(by.startswith('error') for _, by in found)} on loading, {sum(by == 'ended' for _, by in found)} by not "
        "ending), "
        f"{sum(not by for _, by in found) - len(open_)} exempt ({len(missed)} literals), {len(open_)} neither"
    )
    for change in open_:
        print(f"  line {change.line}: {change.name}  ({change.old} became {change.new})")
    idle = [pattern for pattern in patterns if not used[pattern]] if whole else []
    for pattern in idle:
        print(f"  {EXEMPT.name} names {pattern}, which is caught, or does not exist")
    return int(bool(open_ or idle))


class State:
    """What an earlier, interrupted call found, kept in a file.

    Attributes:
        ran: what each golden case executes of the unchanged code.
        tried: what caught each change, by the change, a module's source and the cases.
    """

    def __init__(self, path: Path, modules: Iterable[str]) -> None:
        self._path = path
        there = json.loads(path.read_text()) if path.is_file() else {}
        self._code = code(modules)
        self.ran: dict[str, Any] = there.get("ran", {}) if there.get("code") == self._code else {}
        self.tried: dict[str, str] = there.get("tried", {})

    def save(self) -> None:
        """Write the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps({"code": self._code, "ran": self.ran, "tried": self.tried}))


def code(modules: Iterable[str]) -> str:
    """A checksum of the modules and of what makes golden numbers."""
    paths = [*files_of(modules), *map(str, sorted(TESTS.glob("golden*.py")))]
    return f"{zlib.crc32(b''.join(Path(path).read_bytes() for path in sorted(paths))):08x}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="ends of their names; all of them by default")
    parser.add_argument("--small", action="store_true", help="also change integers below 10, by 1")
    parser.add_argument("--unreached", action="store_true", help="only what no golden case executes")
    parser.add_argument("--state", type=Path, default=STATE, metavar="FILE", help=f"what was found so far ({STATE})")
    arguments = parser.parse_args()
    ends = tuple(f".{end}" for end in arguments.modules)
    everything = names()
    state = State(arguments.state, everything)
    golden = Golden(everything, state)
    state.save()
    found: list[tuple[Change, str]] = []
    chosen = [name for name in everything if not ends or name.endswith(ends)]
    for name in sorted(chosen, key=lambda name: len(inspect.getsource(sys.modules[name]))):
        begun, before = len(found), os.times()
        for one in tried(name, golden, state.tried, small=arguments.small, unreached=arguments.unreached):
            found.append(one)
            if len(found) % 50 == 0:
                state.save()
        state.save()
        now, caught = os.times(), sum(bool(by) for _, by in found[begun:])
        seconds = sum(now[:4]) - sum(before[:4])
        print(f"{name}: {caught} of {len(found) - begun} caught, {seconds:.0f} s", file=sys.stderr, flush=True)
    whole = not (ends or arguments.unreached)
    return report(found, exemptions() if EXEMPT.is_file() else {}, whole, arguments.small)


if __name__ == "__main__":
    sys.exit(main())
