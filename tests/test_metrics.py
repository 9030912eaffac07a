"""What a metric declares, independent of its name and its note."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eigencam.datasets.base import Truth
from eigencam.evaluation import statistics
from eigencam.evaluation.base import SAID, Metric
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.maps import ScoreMap
from eigencam.reporting.comparison import _chosen
from eigencam.reporting.gallery import Scores
from eigencam.store.schema import metric_of
from eigencam.store.seal import DamagedError

PLAIN: dict[str, Any] = {"name": "a", "value": 1.0, "low": 0.0, "high": 2.0, "n": 3}
UNDEFINED: dict[str, Any] = PLAIN | dict.fromkeys(("value", "low", "high"), float("nan"))


def test_only_what_is_said_is_stored_and_absent_keys_are_the_defaults() -> None:
    plain, telling = (
        Metric(**PLAIN),
        Metric(**UNDEFINED, about="network", hit=True, undefined=True, win="w", kept="k", caution="c"),
    )
    assert not set(plain.stored()) & set(SAID)
    assert {key: telling.stored()[key] for key in SAID} == {key: getattr(telling, key) for key in SAID}
    for metric in (plain, telling):
        stored = {key: None if value != value else value for key, value in metric.stored().items()}  # as in a file
        read = metric_of(Path("metrics.json"), stored)
        told = {f.name: getattr(metric, f.name) for f in fields(Metric) if f.name != "sample"}
        assert read == pytest.approx(told, nan_ok=True)


@pytest.mark.parametrize(("key", "value"), [("about", 1), ("hit", "yes"), ("undefined", 1), ("win", False)])
def test_other_types_are_refused(key: str, value: object) -> None:
    with pytest.raises(DamagedError, match=key):
        metric_of(Path("metrics.json"), {**PLAIN, key: value})


def test_what_is_about_the_network_is_not_compared_whatever_its_name() -> None:
    full = {
        "cam": {"top1": Metric("top1", 1, 0, 2, 3, about="network"), "x_cls_error": Metric("x_cls_error", 1, 0, 2, 3)}
    }
    assert _chosen(full, (), ()) == ["x_cls_error"]
    assert _chosen(full, (), ("all",)) == ["top1", "x_cls_error"]


def test_localization_says_what_its_metrics_are_about() -> None:
    truth = Truth("a", (8, 8), 0, np.array([[0.0, 0, 3, 3]]), np.zeros(1, np.int64))
    row = {
        "image": "a",
        "label": 0,
        "target": 0,
        "top5": [0, 1],
        **Localization().row(ScoreMap(np.eye(8), (8, 8)), truth),
    }
    about = {metric.name: metric.about for metric in Localization().summary(pd.DataFrame([row]))}
    assert {name for name, what in about.items() if what == "network"} == {"top1_cls_error", "top5_cls_error"}
    assert {name for name, what in about.items() if what == "both"} == {"top1_loc_error", "top5_loc_error"}
    undefined = Localization().summary(pd.DataFrame([{**row, "top5": []}]))
    assert {m.name for m in undefined if m.undefined} == {m.name for m in undefined if m.value != m.value}
    assert {m.name for m in undefined if m.undefined} >= {"top1_cls_error", "top1_loc_error"}


class Marks:
    """An evaluator with meaningless names."""

    headline = ("both", "seen", "grade")

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        hits = np.array([True, False])
        return [
            statistics.rate("both", hits, about="both"),
            statistics.rate("seen", hits),
            statistics.mean("grade", [1.0, 0.0]),
        ]


def test_the_gallery_takes_hits_for_hits_whatever_their_name() -> None:
    rows = pd.DataFrame({"image": ["a", "b"], "label": 0, "top5": [[0], [1]], "answer_state": "ok"})
    scores = Scores()
    scores.add({"network": "n", "method": "m", "folder": "f", "evaluator": "e"}, Marks(), rows)
    assert (scores.hit, scores.main) == ("e seen", "e grade")
