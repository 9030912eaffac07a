"""Methods compared on the same images: differences with intervals and tests, and ranks over datasets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from eigencam.evaluation import ranks
from eigencam.evaluation.base import Metric, headline_of
from eigencam.evaluation.paired import Difference, difference, holm
from eigencam.evaluation.rank_intervals import Placing, placings
from eigencam.evaluation.statistics import by_image
from eigencam.files import first_line
from eigencam.store.canonical import canonical
from eigencam.store.finish import KEY
from eigencam.store.reader import Stored, read
from eigencam.store.trust import PACKAGED, Trust

PLACES = ("dataset", "network", "evaluator", "metric")


DIGITS = 1
"""Number of decimals for values in percent."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The setting of comparable results: dataset, network, evaluator with its parameters, requested class, dtype."""

    dataset: str
    network: str
    evaluator: str
    target: str
    identity: str


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison and its outcome."""

    setting: Setting
    metric: str
    better: str
    unit: str
    reference: str
    method: str
    difference: Difference
    holm: float = float("nan")


def compare(
    folders: Sequence[Path],
    order: Sequence[str],
    metrics: Sequence[str] = (),
    *,
    all_pairs: bool = False,
    trust: Trust = PACKAGED,
) -> tuple[list[Compared], pd.DataFrame, list[str]]:
    """Compare complete results.

    Args:
        folders: of the results.
        order: the methods, the reference first.
        metrics: names; empty: the evaluators' headlines; `all`: every metric.
        all_pairs: whether to compare every pair, not only with the reference.
        trust: what may be built from stored results.

    Returns:
        The comparisons, with p-values corrected over all of them; the metrics of each method, as columns setting,
        method, metric, value, n, better, placing; sentences on what could not be compared.

    Raises:
        ValueError: nothing can be compared, or a metric is unknown.
    """
    settings, notes = _places(folders)
    lines: list[Compared] = []
    values: list[dict[str, Any]] = []
    known: dict[str, None] = {}
    for place, by_method in settings.items():
        evaluator = next(iter(by_method.values())).evaluator(trust)
        found = _Summed.of(evaluator, {name: by_method[name] for name in order if name in by_method})
        full = found.full
        known |= {metric: None for metrics_of in full.values() for metric in metrics_of}
        chosen = _chosen(full, headline_of(evaluator), metrics)
        values += _values(place, found, chosen)
        for a, b in combinations(full, 2):
            if not all_pairs and a != order[0]:
                continue
            (first, second), one = found.common([a, b])
            if one.empty:
                notes[f"{place.evaluator}: {a} and {b} have no image in common"] = None
            for metric in chosen:
                if why := _reason(metric, {a: first.get(metric), b: second.get(metric)}):
                    notes[f"{place.evaluator}: {why}"] = None
                elif line := _compared(place, a, b, first.get(metric), second.get(metric), one):
                    lines.append(line)
    _check(lines, metrics, known, notes)
    corrected = holm([line.difference.p for line in lines])
    done = [replace(line, holm=float(p)) for line, p in zip(lines, corrected, strict=True)]
    return done, pd.DataFrame(values), list(notes)


def pair_of(reference: Stored, other: Stored, metrics: Sequence[str], trust: Trust = PACKAGED) -> list[Compared]:
    """Return the comparisons of two results of the same dataset, network and evaluator, without correction.

    Args:
        reference: the result to compare with.
        other: the result that is compared.
        metrics: names; empty: the evaluator's headline.
        trust: what may be built from stored results.
    """
    evaluator = other.evaluator(trust)
    both = _Summed.of(evaluator, {"reference": reference, "other": other})
    (first, second), one = both.common(["reference", "other"])
    chosen = _chosen({"": first, " ": second}, headline_of(evaluator), metrics)
    place, names = _setting(other), (reference.names[2], other.names[2])
    found = (_compared(place, *names, first.get(metric), second.get(metric), one) for metric in chosen)
    return [line for line in found if line]


def _places(folders: Sequence[Path]) -> tuple[dict[Setting, dict[str, Stored]], dict[str, None]]:
    """The results by setting and method, and notes on those that cannot be compared."""
    settings: dict[Setting, dict[str, Stored]] = {}
    notes: dict[str, None] = {}
    for stored in filter(None, (read(folder, hashed=True) for folder in sorted(folders))):
        if stored.summary is None:
            raise ValueError("\n".join([f"{stored.folder}: {stored.state}", *stored.faults]))
        network, method = stored.network, stored.names[2]
        if stored.summary.unsupported:
            notes[f"{method} on {network}: not run, {stored.summary.unsupported}"] = None
            continue
        if caveat := stored.summary.caveat:
            notes[f"{method}: {caveat}"] = None
        settings.setdefault(_setting(stored), {})[method] = stored
    return settings, notes


@dataclass(frozen=True, slots=True)
class _Summed:
    """The metrics of one setting's results. Only one result's rows are in memory at a time, unless their images differ.

    Attributes:
        evaluator: of the rows.
        stored: the results, by method.
        full: the metrics of each method over its own images.
        keys: image and label of each row of the first method.
        same: the methods that have exactly these rows, in this order.
    """

    evaluator: Any
    stored: Mapping[str, Stored]
    full: Mapping[str, Mapping[str, Metric]]
    keys: pd.DataFrame
    same: frozenset[str]

    @classmethod
    def of(cls, evaluator: Any, stored: Mapping[str, Stored]) -> Self:
        """Read the results one after the other."""
        full, keys, same = dict[str, Mapping[str, Metric]](), pd.DataFrame(), set[str]()
        for name, one in stored.items():
            rows = one.rows()
            full[name] = _metrics(evaluator, rows)
            own = rows[KEY]
            keys = own if len(full) == 1 else keys
            if len(own) == len(keys) and (own.to_numpy() == keys.to_numpy()).all():
                same.add(name)
        return cls(evaluator, stored, full, keys, frozenset(same))

    def common(self, names: Sequence[str]) -> tuple[list[Mapping[str, Metric]], pd.DataFrame]:
        """The methods' metrics over their common images and classes, and image and label of each common row."""
        if self.same.issuperset(names):
            return [self.full[name] for name in names], self.keys
        frames = _common([self.stored[name].rows() for name in names])
        return [_metrics(self.evaluator, frame) for frame in frames], frames[0][KEY]


def _values(setting: Setting, found: _Summed, chosen: Sequence[str]) -> list[dict[str, Any]]:
    """Each method's value of each metric over its images, and its placing over the common images."""
    full = found.full
    metrics, keys = found.common(list(full))
    own = dict(zip(full, metrics, strict=True))
    placed: dict[str, dict[str, Placing]] = {}
    for metric in chosen:
        with_value = {
            name: by_name[metric]
            for name, by_name in own.items()
            if metric in by_name and by_name[metric].value == by_name[metric].value
        }
        better = next((m.better for m in with_value.values()), "")
        summed = {name: by_image([m], keys)[0].sample for name, m in with_value.items()}
        samples = {name: sample for name, sample in summed.items() if sample}
        placed[metric] = placings(samples, better) if better and len(samples) == len(full) else {}
    return [
        {"setting": setting, "method": name, "metric": m, "value": by_name[m].value, "n": by_name[m].n}
        | {"better": by_name[m].better, "placing": placed[m].get(name)}
        for name, by_name in full.items()
        for m in chosen
        if m in by_name
    ]


def _common(frames: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The rows of the images and classes common to all frames, in one order."""
    indexed = [own.set_index(KEY) for own in frames]
    common = indexed[0].index
    for own in indexed[1:]:
        common = common.intersection(own.index, sort=False)
    return [own.loc[common].reset_index() for own in indexed]


def rankings(values: pd.DataFrame, order: Sequence[str]) -> list[ranks.Ranking]:
    """Ranks for every metric over the (dataset, network) pairs where all methods have equally many images."""
    found = []
    values = values[values["better"].isin(["lower", "higher"])]
    most = values.groupby(["setting", "metric"], sort=False)["n"].transform("max")
    evaluators = [place.evaluator for place in values["setting"]]
    values = values.assign(evaluator=evaluators, value=values["value"].where(values["n"] == most))
    for (evaluator, metric), part in values.groupby(["evaluator", "metric"], sort=False):
        wide = part.set_index(["setting", "method"])["value"].unstack("method")  # noqa: PD010
        wide = wide.reindex(columns=[name for name in order if name in wide]).dropna()
        if len(wide) > 1 and wide.shape[1] > 1:
            name = f"{evaluator} {metric}"
            found.append(
                ranks.ranking(name, [str(m) for m in wide], wide.to_numpy(np.float64), str(part["better"].iloc[0]))
            )
    return found


def _setting(stored: Stored) -> Setting:
    identity = {k: stored.identity[k] for k in ("dataset", "network", "evaluator", "target", "dtype")}
    dataset, network, evaluator = stored.names[0], stored.network, stored.names[3]
    return Setting(dataset, network, evaluator, stored.identity["target"], identity=canonical(identity))


def _metrics(evaluator: Any, rows: pd.DataFrame) -> dict[str, Metric]:
    """The summary of rows, by metric name; empty without rows."""
    try:
        return {metric.name: metric for metric in evaluator.summary(rows)} if len(rows) else {}
    except (KeyError, TypeError, AttributeError, IndexError) as error:  # sealed, but not rows of this evaluator
        raise ValueError(f"rows that {type(evaluator).__name__} cannot summarise: {first_line(error)}") from None


def _check(lines: Sequence[Compared], asked: Sequence[str], known: Iterable[str], notes: Iterable[str]) -> None:
    """Raise ValueError for unknown metrics, and if nothing could be compared."""
    if unknown := [name for name in asked if name not in (*known, "all")]:
        raise ValueError(f"--metrics {','.join(unknown)}: unknown; allowed: all, {', '.join(known)}")
    if not lines:
        raise ValueError("\n".join(["nothing can be compared", *notes]))


def _compared(
    setting: Setting, a: str, b: str, first: Metric | None, second: Metric | None, rows: pd.DataFrame
) -> Compared | None:
    """Compare two metrics of the same images, `rows`; None if one is missing or has no per-image values."""
    if not (first and second and first.sample and second.sample):
        return None
    one, other = by_image(_in_both(first, second), rows)
    assert one.sample is not None  # as above, after averaging by image
    assert other.sample is not None
    return Compared(setting, first.name, first.better, first.unit, a, b, difference(one.sample, other.sample))


def _in_both(first: Metric, second: Metric) -> tuple[Metric, Metric]:
    """Two means over the rows in which both have a value; other metrics unchanged."""
    a, b = first.sample, second.sample
    if a is None or b is None or a.statistic or b.statistic or a.parts.shape != b.parts.shape:
        return first, second
    values = np.stack([np.asarray(s.parts, np.float64) for s in (a, b)])
    values[:, np.isnan(values).any(axis=0)] = np.nan
    return replace(first, sample=replace(a, parts=values[0])), replace(second, sample=replace(b, parts=values[1]))


def _chosen(full: Mapping[str, Mapping[str, Metric]], headline: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Names of the metrics; `a|b` in the headline means b if a is not defined."""
    available = list(dict.fromkeys(name for found in full.values() for name in found))
    if asked:
        return available if list(asked) == ["all"] else [name for name in available if name in asked]
    defined = {name for found in full.values() for name, metric in found.items() if metric.value == metric.value}
    firsts = [next((n for n in name.split("|") if n in defined), "") for name in headline or available]
    of_networks = {name for found in full.values() for name, metric in found.items() if metric.about == "network"}
    return [name for name in firsts if name in available and name not in of_networks]


def _reason(metric: str, pair: Mapping[str, Metric | None]) -> str:
    """Why a metric cannot be compared; "" if it can."""
    for name, metrics in pair.items():
        if metrics is not None and metrics.value != metrics.value:
            return f"{metric} of {name} {metrics.note or 'is not defined'}"
    return ""
