"""Rows summed in blocks give the same metrics as all rows at once, and so does a file read in blocks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from eigencam.evaluation import statistics, sums
from eigencam.evaluation.adversarial import Adversarial
from eigencam.evaluation.attacks import PGD
from eigencam.evaluation.base import Metric
from eigencam.evaluation.class_segmentation import ClassSegmentation
from eigencam.evaluation.evidence import Evidence
from eigencam.evaluation.infidelity import Infidelity
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.localization_tuned import TunedLocalization
from eigencam.evaluation.maxboxacc import MaxBoxAcc
from eigencam.evaluation.pointing import Energy, Pointing
from eigencam.evaluation.proposals import Proposals
from eigencam.evaluation.pxap import PxAP
from eigencam.evaluation.randomization import LabelRandomization, Randomization
from eigencam.evaluation.segmentation import Segmentation
from eigencam.evaluation.sensitivity import MaxSensitivity
from eigencam.evaluation.sparseness import Sparseness
from eigencam.evaluation.sums import reduced, summarised
from eigencam.store.bounded_parquet import read_batches
from eigencam.store.row_file import RowFile

STATES = np.array(["ok", "ok", "ok", "ok", "constant", "nonfinite"])


def rows_of(kind: str, n: int, several: bool) -> tuple[Any, pd.DataFrame]:
    """An evaluator, and rows in its form, for images with one or several rows."""
    rng = np.random.default_rng(n)
    image = np.sort(rng.integers(0, n // 3, n)) if several else np.arange(n)
    label = rng.integers(0, 4, n)
    rows: dict[str, Any] = {
        "image": [f"i{k:06d}" for k in image],
        "label": label,
        "target": label,
        "top5": list(rng.integers(0, 4, (n, 2))),
        "map_state": rng.choice(STATES, n),
        "answer_state": rng.choice(STATES[:5], n),
        "constant_by_design": False,
    }
    iou = np.where(rng.random(n) < 0.1, np.nan, rng.random(n))
    own = of_each_row(rng, iou)
    evaluator, more = own[kind] if kind in own else chosen_of_all_rows(kind, rng, label, iou)
    return evaluator, pd.DataFrame({**rows, **more})


def of_each_row(rng: np.random.Generator, iou: NDArray[np.float64]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Evaluators whose metrics are means over rows, and their columns."""
    n = len(iou)
    objects, shares = rng.integers(0, 4, n), np.linspace(0.5, 1.5, len(TunedLocalization().grid))
    squares = {"map_square": rng.random(n), "product": rng.random(n) - 0.3, "drop_square": rng.random(n)}
    hits = {f"hits_{d}": list(rng.integers(0, 255, (n, 32), np.uint8)) for d in (30, 50, 70)}
    found = {
        "n_boxes": rng.integers(0, 9, n),
        "n_objects": objects,
        "object_class": [rng.integers(0, 3, k) for k in objects],
        **{name: [rng.random(k) for k in objects] for name in ("best", "best_1", "best_5")},
    }
    return {
        "localization": (Localization(), {"iou": iou}),
        "tuned": (TunedLocalization(), {"ious": list(iou[:, None] * shares)}),
        "maxboxacc": (MaxBoxAcc(ious=(0.3, 0.5, 0.7)), hits),
        "pointing": (Pointing(), {"hit": np.round(iou)}),
        "energy": (Energy(), dict.fromkeys(("energy", "overlap_0", "overlap_0.25", "overlap_0.5"), iou)),
        "evidence": (Evidence(), dict.fromkeys(("mass", "rank"), iou)),
        "infidelity": (Infidelity(), {"infidelity": iou, **squares}),
        "max_sensitivity": (MaxSensitivity(), dict.fromkeys(MaxSensitivity().headline, iou)),
        "sparseness": (Sparseness(), dict.fromkeys(Sparseness().headline, rng.random(n))),
        "pxap": (PxAP(step=0.25), {f"hist_{k}": list(rng.integers(0, 99, (n, 5))) for k in ("object", "background")}),
        "proposals": (Proposals(over="classes", budgets=(1, 5)), found),
    }


def chosen_of_all_rows(
    kind: str, rng: np.random.Generator, label: NDArray[np.int64], iou: NDArray[np.float64]
) -> tuple[Any, dict[str, Any]]:
    """Rows of evaluators that choose a threshold from all rows, or run the network again."""
    n, stages = len(label), [rng.random((len(label), 3)) for _ in range(2)]
    if kind == "segmentation":
        kinds = rng.integers(0, 9, (3, n, 256)).astype(np.uint32)
        pixels = np.zeros((n, 6), np.uint32)
        pixels[:, 0], pixels[:, 5] = kinds[2].sum(axis=1), kinds[1].sum(axis=1)
        pixels[np.arange(n), label + 1] += kinds[0].sum(axis=1).astype(np.uint32)
        above = kinds[:, :, 50:].sum(axis=2).T
        histograms = {f"hist_{k}": list(v) for k, v in zip(("label", "other", "background"), kinds, strict=True)}
        masks = {"has_mask": rng.random(n) < 0.9, "any_foreground": False, "fg_iou": iou}
        return Segmentation(), {**masks, **histograms, "above": list(above), "class_pixels": list(pixels)}
    if kind == "class_segmentation":
        evaluator = ClassSegmentation(step=0.1)
        levels, given = len(evaluator.grid) + 1, [np.unique(np.array([0, k + 1, rng.integers(0, 6)])) for k in label]
        right = [rng.integers(0, 99, len(k) * levels) for k in given]
        counts = {name: rng.integers(0, 3, n) for name in ("tied", "constant")} | {"maps": 3, "nonfinite": 0}
        return evaluator, {"has_mask": rng.random(n) < 0.9, **counts} | {
            "classes": given,
            "right": right,
            "predicted": [r + rng.integers(0, 99, len(r)) for r in right],
            "truth": [rng.integers(0, 999, len(k)) for k in given],
        }
    if kind == "randomization":
        stages[0][rng.random((n, 3)) < 0.1] = np.nan
        return Randomization(), {"stages": "fc layer4 conv1", "rank": list(stages[0]), "rank_abs": list(stages[1])}
    if kind == "label_randomization":
        return LabelRandomization("file"), {"rank": iou, "rank_abs": iou**2}
    predicted = rng.integers(-1, 4, (2, n))
    return Adversarial(PGD()), {
        "iou_before": iou,
        "iou_after": np.where(np.isnan(iou), np.nan, stages[0][:, 0]),
        "prediction": predicted[0],
        "prediction_after": predicted[1],
        "fooled": predicted[0] != predicted[1],
        **dict.fromkeys(("rank_correlation", "cosine"), iou),
        **dict.fromkeys(("l2", "linf", "relative_l2"), stages[1][:, 0]),
        "iterations": label + 1,
        "map_state_after": rng.choice(STATES, n),
    }


def tuned_on_some(kind: str, rows: pd.DataFrame, evaluator: Any) -> tuple[Any, pd.DataFrame]:
    """Rows of evaluators whose threshold is chosen on some images and, for metrics of boxes, with other boxes."""
    marked = rows.assign(in_tune=rows["image"].str.endswith(("1", "4", "5")))
    if kind == "maxboxacc":
        other = {f"pseudo_{d}": rows[f"hits_{d}"].iloc[::-1].tolist() for d in (30, 50, 70)}
        return replace(evaluator, tune=0.3, pseudo="file"), marked.assign(**other)
    if kind == "tuned":
        return replace(evaluator, tune=0.3, pseudo="file"), marked.assign(pseudo_ious=rows["ious"].iloc[::-1].tolist())
    return replace(evaluator, tune=0.3), marked


KINDS = (
    *("localization", "tuned", "maxboxacc", "pointing", "energy", "pxap", "proposals"),
    *("segmentation", "class_segmentation", "randomization", "label_randomization", "adversarial"),
    *("evidence", "infidelity", "max_sensitivity", "sparseness"),
    *("tuned on some", "maxboxacc on some", "segmentation on some", "class_segmentation on some"),
)


def equal(a: list[Metric], b: list[Metric], tolerance: float = 1e-9) -> None:
    """Equal names, counts and texts; equal floats within a relative tolerance."""
    assert [(m.name, m.n, m.note, m.caution, m.threshold) for m in a] == [
        (m.name, m.n, m.note, m.caution, m.threshold) for m in b
    ]
    for one, other in zip(a, b, strict=True):
        found, wanted = ([m.value, m.low, m.high] for m in (one, other))
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=1e-12, err_msg=one.name)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_in_blocks_is_all_rows_at_once(
    kind: str, several: bool, grouped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, _, some = kind.partition(" ")
    evaluator, rows = rows_of(kind, 700, several)
    if some:
        evaluator, rows = tuned_on_some(kind, rows, evaluator)
    if grouped:
        monkeypatch.setattr(statistics, "MOST_IMAGES", 100)
        monkeypatch.setattr(statistics, "GROUPS", 60)
    monkeypatch.setattr(sums, "BLOCK", 10_000)
    at_once = summarised(evaluator, rows)
    monkeypatch.setattr(sums, "BLOCK", 64)
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), tmp_path / "rows.parquet", row_group_size=150)
    found = summarised(evaluator, RowFile(tmp_path / "rows.parquet", rows["image"].nunique()))
    equal(found, at_once)
    assert all(m.value == m.value for m in found)
    if not grouped:
        by_rows = statistics.by_image(evaluator.summary(rows), rows)
        assert [m.name for m in found] == [m.name for m in by_rows]
        for one, other in zip(found, by_rows, strict=True):
            assert (one.value, one.n) == (pytest.approx(other.value, rel=1e-12), other.n)
            assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-9, nan_ok=True)


def test_the_order_of_blocks_of_any_size_is_kept() -> None:
    frames = [pd.DataFrame({"image": range(a, b)}) for a, b in ((0, 3), (3, 3), (3, 10), (10, 11))]
    found = list(sums.of_size(frames, 4))
    assert [frame["image"].tolist() for frame in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_rows_of_an_image_that_lie_apart_are_put_together_or_refused() -> None:
    evaluator, rows = rows_of("energy", 90, several=False)
    again = pd.concat([rows, rows], ignore_index=True)
    equal(summarised(evaluator, again), summarised(evaluator, again.sort_values("image", kind="stable")))
    with pytest.raises(ValueError, match="are not consecutive"):
        reduced(evaluator, [again], 90)


def test_an_evaluator_with_a_summary_alone_is_given_all_rows(tmp_path: Path) -> None:
    seen: list[int] = []

    class Own:
        def summary(self, rows: pd.DataFrame) -> list[Metric]:
            seen.append(len(rows))
            return [statistics.mean("mine", rows["iou"])]

        def protocol(self) -> dict[str, object]:
            return {}

    rows = pd.DataFrame({"image": [f"{k}" for k in range(50)], "label": 0, "iou": np.linspace(0, 1, 50)})
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), tmp_path / "rows.parquet")
    [metric] = summarised(Own(), RowFile(tmp_path / "rows.parquet", 50))
    assert (seen, metric.value) == ([50], 50)


def test_blocks_are_read_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "BLOCK", 100)
    held: list[int] = []
    _, rows = rows_of("localization", 300, several=False)

    def blocks() -> Iterator[pd.DataFrame]:
        for start in range(0, 300, 100):
            held.append(start)
            yield rows.iloc[start : start + 100]

    class Watching(Localization):
        def parts(self, rows: pd.DataFrame) -> Any:
            assert len(rows) <= 100
            return super().parts(rows)

    reduced(Watching(), blocks(), 300)
    assert held == [0, 100, 200]


def test_reading_a_file_keeps_no_row_group_that_was_read(tmp_path: Path) -> None:
    path, groups, rows = tmp_path / "rows.parquet", 200, 20_000
    table = pa.table({"image": ["a"] * rows, "label": [0] * rows, "iou": np.random.default_rng(0).random(rows)})
    with pq.ParquetWriter(path, table.schema) as file:
        for _ in range(groups):
            file.write_table(table, row_group_size=rows)
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_batches(path)]
    assert len(held) >= groups
    assert max(held) < 0.2 * path.stat().st_size
