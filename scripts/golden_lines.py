"""The lines of our code that each golden case executes: `sensitivity.py` skips cases that a change cannot affect."""

import ast
import gc
import math
import os
import resource
import select
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import golden
import golden_file
import golden_methods
from golden_file import Entry

PATIENCE = 600.0
"""Wall-clock seconds after which a copy of the process is stopped."""

DONE = b"\n"
"""First byte of a copy's answer, which distinguishes an empty answer from none."""

MORE_MEMORY = 6 << 30
"""Bytes by which the address space of a copy may grow."""

SEPARATOR = " / "


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a literal.

    Attributes:
        lines: of its statement, or of the function or class whose default or attribute it is.
        around: lines of the enclosing function or class; none at the top of the module.
        fixed: whether it is evaluated when the module is imported.
    """

    lines: range
    around: range
    fixed: bool


def places(tree: ast.AST, nodes: Iterable[ast.AST]) -> list[Place]:
    """The position of each of the given nodes of a module."""
    found: dict[int, Place] = {}
    _walk(tree, Place(range(0), range(0), True), found)
    return [found[id(node)] for node in nodes]


def _walk(node: ast.AST, place: Place, found: dict[int, Place]) -> None:
    found[id(node)] = place
    for child in ast.iter_child_nodes(node):
        inside = place
        if isinstance(node, ast.FunctionDef):
            if isinstance(child, ast.stmt):
                inside = Place(_rows(child), _rows(node), False)
            else:
                inside = Place(range(node.body[0].lineno, _rows(node).stop), _rows(node), place.fixed)
        elif isinstance(node, ast.ClassDef):
            inside = Place(_rows(node), _rows(node), place.fixed)
        elif isinstance(child, ast.stmt) or (isinstance(child, ast.expr) and hasattr(node, "body")):
            inside = replace(place, lines=_rows(child))
        _walk(child, inside, found)


def _rows(node: Any) -> range:
    return range(node.lineno, node.end_lineno + 1)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a case executed.

    Attributes:
        seconds: of CPU time, with tracing.
        lines: by module.
        loaded: modules that it imported.
    """

    seconds: float
    lines: dict[str, list[int]]
    loaded: list[str]


def single_cases() -> dict[str, partial[Entry]]:
    """The function that makes a single case, by the names of entry and case; "" for an entry with defaults only."""
    found: dict[str, partial[Entry]] = {}
    for key, make in golden.makers().items():
        thing, cases, *rest = make.args
        if isinstance(cases, Mapping):
            found |= {
                f"{key}{SEPARATOR}{name}": partial(make.func, thing, {name: cases[name]} if name else {}, *rest)
                for name in ("", *cases)
            }
        else:
            found[f"{key}{SEPARATOR}numbers"] = make
    return found


def warmed() -> None:
    """Load and examine the networks once, in this process and not in each copy of it."""
    for name in golden_methods.LABELS:
        golden_methods.network(name).examined()
    gc.collect()
    gc.freeze()


def about(make: partial[Entry]) -> str:
    """The module of an entry's subject."""
    thing = make.args[0]
    return thing.__name__ if isinstance(thing, ModuleType) else thing.__module__


def fault(name: str, make: Callable[[], Entry], wanted: Mapping[str, Entry]) -> str:
    """How a case differs from the file, or its error; "" if it is unchanged."""
    try:
        found = make()
        kept = wanted[name.partition(SEPARATOR)[0]]
        alone = {case: numbers for case, numbers in kept.cases.items() if case in found.cases}
        return name if next(golden_file.moved(found, replace(kept, cases=alone)), None) else ""
    except Exception as error:  # changed code may raise anything
        return f"{name}: {type(error).__name__}"


def first_fault(makers: Mapping[str, Callable[[], Entry]], wanted: Mapping[str, Entry]) -> str:
    """The first case that differs or raises; "" if none does."""
    with golden.alone():
        return next(filter(None, (fault(name, make, wanted) for name, make in makers.items())), "")


def traced(task: Callable[[], Any], files: Mapping[str, str]) -> dict[str, list[int]]:
    """The lines that a task executes, by module.

    Args:
        task: the function to trace.
        files: module by file, for the files that count.
    """
    seen: dict[str, set[int]] = defaultdict(set)

    def line(frame: FrameType, _event: str, _argument: Any) -> Any:
        seen[frame.f_code.co_filename].add(frame.f_lineno)
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        return line(frame, event, argument) if frame.f_code.co_filename in files else None

    threading.settrace(call)
    sys.settrace(call)
    try:
        task()
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    return {files[name]: sorted(numbers) for name, numbers in seen.items()}


def ran(name: str, make: Callable[[], Entry], files: Mapping[str, str], wanted: Mapping[str, Entry]) -> dict[str, Any]:
    """What a case executes, or its error."""
    before, found = set(sys.modules), list[str]()
    with golden.alone():
        start = time.process_time()
        lines = traced(lambda: found.append(fault(name, make, wanted)), files)
    loaded = [name for name in sys.modules if name not in before]
    return asdict(Ran(time.process_time() - start, lines, loaded)) | {"fault": found[0]}


def files_of(modules: Iterable[str]) -> dict[str, str]:
    """The module of each file."""
    return {str(Path(str(sys.modules[name].__file__))): name for name in modules}


def forked(task: Callable[[], str], seconds: float = PATIENCE) -> str:
    """Run a task in a copy of this process.

    Args:
        task: runs in the copy only.
        seconds: of CPU time, after which the copy is stopped.

    Returns:
        The task's result, or its error; `ended` if the copy died or took longer.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _alone(seconds)
        try:
            answer = task()
        except BaseException as error:  # the copy must not continue as the original process
            answer = f"error: {type(error).__name__}: {error}"
        with os.fdopen(writing, "wb") as stream:
            stream.write(DONE + answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as stream:
        content, end = b"", time.monotonic() + PATIENCE
        while select.select([stream], [], [], max(end - time.monotonic(), 0))[0] and (part := stream.read(1 << 16)):
            content += part
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return content.removeprefix(DONE).decode() if content.startswith(DONE) else "ended"


def _alone(seconds: float) -> None:
    """Silence output, and limit CPU time and memory."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    limit = math.ceil(time.process_time() + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MORE_MEMORY, size + MORE_MEMORY))
