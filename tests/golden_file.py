"""The file of golden numbers: its content, how two sets of numbers are compared, and which entries may be replaced.

An entry is about one class or function of ours, or a shared part (see `eigencam.store.versions`), at one version; its
cases are settings of it (the packaged configs and some more) with named numbers. A small array is kept as it is; of a
large one, shape, mean, range and three weighted means are kept, which change if a value or its position changes.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("golden.json")
RENEW = "python scripts/golden.py"
SMALL = 8
DIGITS = 9
FLOOR = 1e-6
"""Smallest relative tolerance: a few roundings of float32."""

EXACT = {"boxes", "x1", "y1", "x2", "y2"}
"""Names of numbers that may not differ at all."""

Numbers = list[float | str]
Case = dict[str, Numbers]


@dataclass(frozen=True, slots=True)
class Entry:
    """The file's entry for one subject.

    Attributes:
        versions: of the subject and of the shared parts that it uses.
        defaults: of its parameters; an identity names only parameters that differ.
        cases: numbers by name, by case.
        tolerances: by case and name, the allowed difference of numbers, relative to the largest of them; `FLOOR` if the
            name is missing.
    """

    versions: dict[str, int]
    defaults: dict[str, Any]
    cases: dict[str, Case]
    tolerances: dict[str, dict[str, float]] = field(default_factory=dict)


def numbers(value: Any) -> Numbers:
    """The stored form of a value: a number, a text, or an array."""
    if isinstance(value, str):
        return [value]
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        return [str(value)]
    flat = array.astype(np.float64).ravel()
    if flat.size <= SMALL:
        return [*([] if array.ndim == 0 else [_form(array)]), *map(_rounded, flat)]
    empty = np.isnan(flat)
    flat, place = np.where(empty, 0, flat), np.arange(flat.size)
    weights = place / flat.size, place % array.shape[-1] / array.shape[-1], (7 * place % 13 - 6) / 6
    kept = [np.abs(flat).mean(), flat.min(), flat.max(), *(float((flat * weight).mean()) for weight in weights)]
    return [_form(array), *([f"{empty.sum()} nan"] if empty.any() else []), *map(_rounded, kept)]


def difference(found: Numbers, wanted: Numbers) -> float:
    """The largest difference relative to the largest number; infinite if texts, shapes or NaNs differ."""
    if len(found) != len(wanted):
        return math.inf
    pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if a != b and not (a != a and b != b)]
    if any(isinstance(x, str) or not math.isfinite(x) for pair in pairs for x in pair):
        return math.inf
    scale = max((abs(b) for b in wanted if not isinstance(b, str) and math.isfinite(b)), default=0.0)
    largest = max((abs(float(a) - float(b)) for a, b in pairs), default=0.0)
    return largest if largest == 0 else largest / scale if scale else math.inf


def moved(found: Entry, wanted: Entry) -> Iterator[str]:
    """One line for each number, default or case that differs between two entries of the same versions."""
    for name, value in wanted.defaults.items():
        if name not in found.defaults:
            yield f"the parameter {name} is gone"
        elif json.dumps(found.defaults[name]) != json.dumps(value):
            yield f"the default {name}={value} became {found.defaults[name]}"
    for name, case in wanted.cases.items():
        if name not in found.cases:
            yield f"{name}: the case is gone"
            continue
        for what, old in case.items():
            new = found.cases[name].get(what, [])
            allowed = 0.0 if what in EXACT else wanted.tolerances.get(name, {}).get(what, FLOOR)
            if (by := difference(new, old)) > allowed:
                yield f"{name}: {what} was {old}, is {new}; moved by {by:.1e}, allowed {allowed:.0e}"


def added(found: Entry, wanted: Entry) -> Iterator[str]:
    """Parameters, cases and numbers that the file does not have yet."""
    yield from (f"the parameter {name} is new" for name in found.defaults if name not in wanted.defaults)
    for name, case in found.cases.items():
        yield from (f"{name}: {what} is new" for what in case if what not in wanted.cases.get(name, {}))


def what_to_raise(name: str, versions: Mapping[str, int]) -> str:
    """Where an entry's version is set: in a class or function, in its summary, or in a shared part."""
    thing = name.partition("@")[0]
    if "summary_version" in versions:
        return f"{thing}.summary_version"
    return f"{thing}.version" if "version" in versions else f"{thing} in VERSIONS of its module"


def tolerances(runs: list[dict[str, Case]]) -> dict[str, dict[str, float]]:
    """By case and name, ten times the largest difference between runs, with one digit, if it is above `FLOOR`."""
    made: dict[str, dict[str, float]] = {}
    for name, case in runs[0].items():
        spread = {what: 10 * max(difference(run[name][what], old) for run in runs[1:]) for what, old in case.items()}
        made[name] = {what: float(f"{by:.0e}") for what, by in spread.items() if by > FLOOR and what not in EXACT}
    return made


def read(path: Path = FILE) -> dict[str, Entry]:
    """The entries by name."""
    if not path.is_file():
        return {}
    made = {}
    for name, content in json.loads(path.read_text()).items():
        cases = content["cases"]
        allowed = {case: cases[case].pop("tolerance", {}) for case in cases}
        made[name] = Entry(content["versions"], content["defaults"], cases, allowed)
    return made


def write(entries: Mapping[str, Entry], path: Path = FILE) -> None:
    """The file's text, with one line per name of numbers."""
    lines = []
    for name, entry in sorted(entries.items()):
        cases = [
            f"   {json.dumps(case)}: {{\n"
            + ",\n".join(
                f"    {json.dumps(what)}: {json.dumps(values)}"
                for what, values in {**_if_any("tolerance", entry.tolerances.get(case)), **content}.items()
            )
            + "\n   }"
            for case, content in entry.cases.items()
        ]
        head = [f'  "{key}": {json.dumps(asdict(entry)[key])}' for key in ("versions", "defaults")]
        body = ",\n".join([*head, '  "cases": {\n' + ",\n".join(cases) + "\n  }"])
        lines.append(f" {json.dumps(name)}: {{\n{body}\n }}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _if_any(name: str, value: Any) -> dict[str, Any]:
    return {name: value} if value else {}


def _form(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def plain(value: Any) -> Any:
    """A default as JSON stores it: lists for tuples."""
    return json.loads(json.dumps(value, default=str))
