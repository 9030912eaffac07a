"""The files of a result folder and their content.

    <results>/<dataset>-<network>-<method>-<evaluator>-<hash>/
        identity.json       the content that the hash is computed from; see `identity`
        config.yaml         the resolved config of the last run that contributed
        runs/<run>.json     for each such run: command, commit, packages, machine, checksums, measurements
        parts/              rows of finished batches, and images that were left out, while a run is in progress
        rows.parquet        one row per image (with `target=each`: per image and class), in the dataset's order
        metrics.json        the summary; written last, so its presence means: complete. It holds the size and the
                            checksum of its rows
        curves.json         the curves of its rows, for reports; made from the rows again if it is missing; see
                            `kept_curves`
        error.json          the first line and the traceback of a failed run, until a later run succeeds; for a shard
                            error-3of16.json
        damaged/            files that have changed since they were written; computed again, kept for inspection

Every JSON and YAML file is sealed (`seal`), the rows by the summary, a part by its name, the identity by the name of
the folder. Everything read here is data: names, numbers and texts of the stated types; anything else is refused.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Self

from eigencam.store.canonical import checksum
from eigencam.store.seal import DamagedError, read_bytes, read_json

FORMAT = 2
"""Format of identities and folders; a folder of another format is recognised, and never mixed in."""

IDENTITY, CONFIG, ROWS, SUMMARY = "identity.json", "config.yaml", "rows.parquet", "metrics.json"
CURVES = "curves.json"
RUNS, PARTS, DAMAGED = "runs", "parts", "damaged"
NAMES = ("dataset", "network", "method", "evaluator")
Bad = Literal["bad_images", "bad_truths"]
"""Why images are left out: they cannot be decoded, or their boxes, labels or mask are invalid."""

_METRIC = {
    "name": str,
    "value": float,
    "low": float,
    "high": float,
    "n": int,
    "unit": str,
    "threshold": str,
    "better": str,
    "note": str,
    "about": str,
    "hit": bool,
    "undefined": bool,
    "win": str,
    "kept": str,
    "caution": str,
}
_WORDS = {"better": ("", "lower", "higher"), "about": ("method", "network", "both")}
"""Allowed values of two of these keys, the default first."""

_ABSENT = {str: "", float: float("nan"), int: 0, bool: False}
"""Default of a key that a metric does not have."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Size in bytes and BLAKE2b checksum of a file."""

    bytes: int
    blake2b: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The content of `metrics.json`.

    Attributes:
        dataset: name of the dataset; `network`, `method` and `evaluator` are names, too.
        n: number of images with a row.
        unsupported: the reason why the method cannot run on the network; "" if it ran.
        metrics: each has the keys of `eigencam.evaluation.base.Metric`, null for a number that is not defined.
        target: the class that maps are for.
        bad_images: reason by id for each image that was left out because it could not be decoded.
        bad_truths: likewise, because its boxes, labels or mask are invalid.
        protocol: the evaluator's protocol, in words and numbers.
        headline: metrics that a table shows by default.
        fitted_on: images that the network's classifier was fitted on.
        summary_versions: versions of the code that computed the metrics from the rows (`summary_versions_of`).
        rows: the seal of `rows.parquet`; None if the method was left out.
        baseline: whether the method is a baseline (a centred box, noise), as it declares.
        caveat: the note below every table with the method, as it declares.
        result: checksum of the identity, the end of the folder's name.
    """

    dataset: str
    network: str
    method: str
    evaluator: str
    n: int
    unsupported: str = ""
    metrics: tuple[dict[str, Any], ...] = ()
    target: str = ""
    bad_images: dict[str, str] = field(default_factory=dict)
    bad_truths: dict[str, str] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    headline: tuple[str, ...] = ()
    fitted_on: int = 0
    summary_versions: dict[str, Any] = field(default_factory=dict)
    baseline: bool = False
    caveat: str = ""
    rows: Seal | None = None
    result: str = ""

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Dataset, network, method, evaluator."""
        return self.dataset, self.network, self.method, self.evaluator

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a summary. Raises DamagedError if it has changed since it was written."""
        content = _Content(path, read_json(path))
        rows = content.get("rows", dict, None)
        seal = _Content(path, rows) if rows is not None else None
        metrics = tuple(metric_of(path, metric) for metric in content.get("metrics", list))
        if len({metric["name"] for metric in metrics}) < len(metrics):
            raise DamagedError(path, "metrics: one of them twice")
        return cls(
            *(content.get(name, str) for name in NAMES),
            n=content.get("n", int),
            unsupported=content.get("unsupported", str, ""),
            metrics=metrics,
            target=content.get("target", str, ""),
            bad_images=content.texts("bad_images"),
            bad_truths=content.texts("bad_truths"),
            protocol=content.get("protocol", dict, {}),
            headline=content.strings("headline"),
            fitted_on=content.get("fitted_on", int, 0),
            summary_versions=content.get("summary_versions", dict, {}),
            rows=Seal(seal.get("bytes", int), seal.get("blake2b", str)) if seal else None,
            baseline=content.get("baseline", bool, False),
            caveat=content.get("caveat", str, ""),
            result=content.get("result", str),
        )

    def stored(self) -> dict[str, Any]:
        """Return the content of `metrics.json`: all fields that are set."""
        content = asdict(self)
        always = (*NAMES, "n", "metrics", *(("bad_images", "target") if not self.unsupported else ()))
        return {key: value for key, value in content.items() if key in always or value not in ("", {}, (), 0, None)}


@dataclass(frozen=True, slots=True)
class Run:
    """The content of `runs/<run>.json`: command, code and machine of a run, and its measurements.

    Attributes:
        started: UTC, `2026-03-01T12:00:00Z`.
        host: name of the machine.
        command: the words of the command line.
        packages: version of every package that was used, by lower-case name.
        environment: everything else that is known: commit, Python, CPU, GPU, checksums.
        rows_before: number of rows left by earlier runs of an unfinished result.
        cost: time of the method alone, in bare forward passes; None if not measured.
        images: number of images scored by this run, in `seconds`.
        rows: ranges of the result's rows that it computed, as (first, last); recorded when the result is
            complete.
    """

    started: str
    host: str
    command: tuple[str, ...]
    packages: dict[str, str]
    environment: dict[str, Any]
    rows_before: int = 0
    cost: float | None = None
    images: int = 0
    seconds: float = 0.0
    rows: tuple[tuple[int, int], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read one run. Raises DamagedError if the file has changed since it was written."""
        everything = read_json(path)
        content = _Content(path, everything)
        cost, seconds = content.get("cost", float, None), content.get("seconds", float, 0.0)
        for key, value in (("cost", cost), ("seconds", seconds)):
            if value is not None and value < 0:
                raise DamagedError(path, f"{key}: {value:g}; a time is 0 or more")
        return cls(
            started=content.time("started"),
            host=content.get("host", str),
            command=content.strings("command"),
            packages=content.texts("packages"),
            environment=everything,
            rows_before=content.get("rows_before", int, 0),
            cost=cost,
            images=content.get("images", int, 0),
            seconds=seconds,
            rows=content.stretches("rows"),
        )

    @property
    def commit(self) -> str:
        """The commit, "(with changes)" if the files differed from it; "" if the code ran outside a clone."""
        commit = str(self.environment.get("git_commit") or "")
        return f"{commit} (with changes)" if commit and self.environment.get("git_dirty") else commit

    @property
    def machine(self) -> str:
        """The GPU or CPU, and the number of cores."""
        return f"{self.environment.get('gpu') or 'CPU'}, {self.environment.get('cpus')} cores"

    @property
    def code(self) -> str:
        """Commit, Python and the packages that numbers depend on most."""
        names = {"torch": "torch", "pillow": "Pillow"}
        packages = ", ".join(f"{shown} {self.packages[name]}" for name, shown in names.items() if name in self.packages)
        return f"{self.commit or 'no clone'}; Python {self.environment.get('python')}, {packages}"


def read_identity(path: Path) -> dict[str, Any]:
    """Read an identity of this program's format.

    Raises:
        DamagedError: it has changed since it was written, or does not belong to its folder.
        OldFormatError: another version of the program wrote it.
    """
    try:
        identity = read_json(path)
    except DamagedError:
        if old := _old_format(path):
            raise OldFormatError(path, old) from None
        raise
    content = _Content(path, identity)
    if content.get("format", int) != FORMAT:
        raise OldFormatError(path, identity["format"])
    for key in ("network", "dataset", "method", "evaluator"):
        content.get(key, dict)
    for where in ("network", "dataset"):
        _Content(path, identity[where]).get("name", str)
    content.get("target", str)
    content.get("dtype", str)
    found, named = checksum(identity), path.parent.name.rsplit("-", 1)[-1]
    if found != named:
        raise DamagedError(path, f"it is the identity of a folder …-{found}, not of …-{named}")
    return identity


def network_label(name: str, untrained: str) -> str:
    """Return the name of a network as all output shows it, marked if its weights are random.

    >>> network_label("resnet18", "untrained"), network_label("mine", "partly untrained: fc.weight")
    ('resnet18 (untrained)', 'mine (partly untrained)')
    """
    return f"{name} ({untrained.partition(':')[0]})" if untrained else name


class OldFormatError(ValueError):
    """A result folder that another version of this program wrote."""

    def __init__(self, path: Path, version: object) -> None:
        super().__init__(str(path), version)
        self.path, self.version = path, version

    def __str__(self) -> str:
        return (
            f"{self.path.parent}: a result of format {self.version}; this program reads format {FORMAT}. A run "
            "computes its numbers again; `eigencam prune` lists such folders"
        )


def _old_format(path: Path) -> int | None:
    """Return the number of an older, unsealed format, or None if the file is something else."""
    import json

    try:
        content = json.loads(read_bytes(path, 2**20))
    except (ValueError, RecursionError):
        return None
    return content["version"] if isinstance(content, dict) and content.get("version") == 1 else None


LARGEST_NUMBER = 2**53
"""Largest magnitude of counts and values in a record; up to it, a float represents every integer. No count is < 0."""

_REQUIRED = object()


@dataclass(frozen=True, slots=True)
class _Content:
    """A JSON object whose values are read with type checks."""

    path: Path
    values: Mapping[str, Any]

    def get(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        """Return the value of a key. Raises DamagedError if it has another type, or is missing without a default."""
        value = self.values.get(key, default)
        if value is default and default is not _REQUIRED:
            return value
        allowed = (float, int) if kind is float else kind
        if value is _REQUIRED or not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            seen = "nothing" if value is _REQUIRED else type(value).__name__
            raise DamagedError(self.path, f"{key}: {seen} in the place of {kind.__name__}")
        if kind in (int, float) and not (0 if kind is int else -LARGEST_NUMBER) <= value <= LARGEST_NUMBER:
            raise DamagedError(self.path, f"{key}: no number that was measured")
        return float(value) if kind is float else value

    def time(self, key: str) -> str:
        """Return a time with its zone in ISO form, `2026-03-01T12:00:00Z`. Raises DamagedError for other text."""
        text = self.get(key, str)
        try:
            zone = datetime.fromisoformat(text).tzinfo
        except ValueError:
            zone = None
        if zone is None:
            raise DamagedError(self.path, f"{key}: {text[:40]!r} is no time with its zone")
        return text

    def texts(self, key: str) -> dict[str, str]:
        """Return a mapping of texts; values of other types are left out."""
        return {str(k): v for k, v in self.get(key, dict, {}).items() if isinstance(v, str)}

    def strings(self, key: str) -> tuple[str, ...]:
        """Return a list of texts as a tuple."""
        return tuple(str(item) for item in self.get(key, list, []))

    def stretches(self, key: str) -> tuple[tuple[int, int], ...]:
        """Return a list of (first, last) pairs. Raises DamagedError for anything else."""
        found = self.get(key, list, [])
        for pair in found:
            numbers = isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
            if not numbers or not 0 <= pair[0] <= pair[1] <= LARGEST_NUMBER:
                raise DamagedError(self.path, f"{key}: {str(pair)[:40]} in the place of the first and the last of rows")
        return tuple((first, last) for first, last in found)


def metric_of(path: Path, metric: object) -> dict[str, Any]:
    """Return one metric with all its keys; null becomes NaN."""
    if not isinstance(metric, dict):
        raise DamagedError(path, f"metrics: {type(metric).__name__} in the place of dict")
    content = _Content(path, {key: value for key, value in metric.items() if value is not None})
    absent = {key: _ABSENT[kind] for key, kind in _METRIC.items()} | {"name": _REQUIRED, "about": "method"}
    found = {key: content.get(key, kind, absent[key]) for key, kind in _METRIC.items()}
    if what := impossible(found):
        raise DamagedError(path, f"metrics: {found['name']}: {what}")
    return found


def stated(metric: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `metrics.json` holds of a metric, with Python's own numbers.

    Args:
        metric: `eigencam.evaluation.base.Metric.stored`.

    Raises:
        ValueError: a value of another type, or numbers that would be refused when they are read.
    """
    allowed: dict[type, type] = {float: Real, int: Integral, str: str, bool: bool}
    name, made = f"metric {metric['name']}", dict[str, Any]()
    for key, value in metric.items():
        kind = _METRIC[key]
        if not isinstance(value, allowed[kind]) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{name}: {key}: {type(value).__name__} in the place of {kind.__name__}")
        made[key] = kind(value)
        if kind in (int, float) and abs(made[key]) > LARGEST_NUMBER:
            raise ValueError(f"{name}: {key}: {made[key]:g}; allowed are numbers up to {LARGEST_NUMBER:g}")
    if what := impossible(made):
        raise ValueError(f"{name}: {what}")
    return made


def impossible(metric: Mapping[str, Any]) -> str:
    """Return why no evaluator can have computed such a metric; "" if one can.

    Args:
        metric: name, value, low, high and n, and other attributes of `eigencam.evaluation.base.Metric` if it has them.
    """
    value, low, high, n = (metric[key] for key in ("value", "low", "high", "n"))
    if n < 0 or (n == 0 and value == value):
        return f"n = {n}, and a value of {value:g}"
    if low > high:
        return f"its interval is {low:g} to {high:g}"
    if metric.get("undefined") and value == value:
        return f"declared undefined, but has the value {value:g}"
    if metric.get("hit") and metric.get("unit") == "%" and (value < 0 or value > 100):
        return f"a share of {value:g} %"
    for key, words in _WORDS.items():
        if (word := metric.get(key, words[0])) not in words:
            return f"{key}: {str(word)[:40]!r}; allowed are {', '.join(map(repr, words))}"
    return ""
