"""Results split by prediction, and the share of images a method wins, compared with the rows by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module

from eigencam.commands.main import main
from eigencam.evaluation.tables import tables
from eigencam.reporting.collect import collect
from eigencam.reporting.derived import by_prediction, with_wins
from eigencam.running.run import run

METHODS = ("eigencam", "gradcam", "random")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 scenes, some of which the network classifies wrongly."""
    root = tmp_path_factory.mktemp("results")
    overrides = ["model=scenes_resnet", "dataset.count=40", "workers=0", f"paths.results={root}", "device=cpu"]
    overrides += [f"method=[{','.join(METHODS)}]", "evaluator=[localization,segmentation,average_drop]"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        run(compose("run", [*overrides, "model.preprocess.std=[1,1,1]"]))  # so dull that it does
    return root


def rows(results: Path, method: str, evaluator: str) -> pd.DataFrame:
    return pd.read_parquet(next(results.glob(f"*-{method}-{evaluator}-*/rows.parquet")))


def value(long: pd.DataFrame, method: str, metric: str) -> Any:
    (at,) = np.flatnonzero((long["method"] == method) & (long["metric"] == metric))
    return long.iloc[at]


def test_either_part_is_what_its_rows_give(results: Path) -> None:
    long = by_prediction(results, collect(results))
    for method in METHODS:
        own = rows(results, method, "localization")
        right = np.array([top[0] for top in own["top5"]]) == own["label"]
        assert 0 < right.sum() < 40
        for part, chosen in (("right", right), ("wrong", ~right)):
            line = value(long, method, f"gt_known_error_{part}")
            assert line["value"] == pytest.approx(100 * (own["iou"][chosen] < 0.5).mean())
            assert line["n"] == chosen.sum()
        assert value(long, method, "top1_cls_error_right")["value"] == 0
        assert value(long, method, "top1_cls_error_wrong")["value"] == 100
    table = next(t for t in tables(long) if "localization" in t.title)
    columns = list(table.frame)
    assert columns.index("mean_iou_wrong %") == columns.index("mean_iou_right %") + 1
    assert {t.title.split(": ")[1].split(" ")[0] for t in tables(long)} >= {"segmentation", "average_drop"}


def test_a_part_without_images_is_not_defined(tmp_path: Path) -> None:
    overrides = ["model=scenes_resnet", "dataset.count=3", "workers=0", f"paths.results={tmp_path}", "device=cpu"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        run(compose("run", [*overrides, "method=[eigencam]", "evaluator=[localization]"]))
    long = by_prediction(tmp_path, collect(tmp_path))
    assert value(long, "eigencam", "mean_iou_right")["n"] == 3
    line = value(long, "eigencam", "mean_iou_wrong")
    assert line["n"] == 0
    assert np.isnan(line["value"])


def test_unknown_predictions_are_refused(tmp_path: Path) -> None:
    overrides = ["model=scenes_resnet", "model.classes=imagenet", "target=predicted", "dataset.count=3", "workers=0"]
    overrides += [f"paths.results={tmp_path}", "device=cpu", "method=[eigencam]", "evaluator=[localization]"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        run(compose("run", overrides))
    with pytest.raises(ValueError, match="the network's classes must be the dataset's"):
        by_prediction(tmp_path, collect(tmp_path))


@pytest.mark.parametrize("methods", [METHODS, METHODS[:2]])
def test_wins_are_counted_image_by_image(results: Path, methods: tuple[str, ...]) -> None:
    long = with_wins(results, collect(results, method=methods))
    own = {m: rows(results, m, "average_drop") for m in methods}
    for share in ("100", "15"):
        won = dict.fromkeys(methods, 0)
        for i in range(40):
            drop = {
                m: max(0, r["confidence"][i] - r[f"kept_{share}"][i]) if r["map_state"][i] == "ok" else np.inf
                for m, r in own.items()
            }
            for m in methods:
                won[m] += np.isfinite(drop[m]) and drop[m] == min(drop.values())
        for m in methods:
            line = value(long, m, f"win_{share}")
            assert line["value"] == pytest.approx(100 * won[m] / 40)
            assert f"among {len(methods)} methods" in line["note"]
    table = next(t for t in tables(long) if "average_drop" in t.title)
    columns = list(table.frame)
    assert columns.index("win_100 %") == columns.index("drop_100 %") + 1


def test_a_pair_s_share_is_counted_among_the_two_whatever_else_ran(results: Path) -> None:
    everything, pair = collect(results, method=METHODS), METHODS[:2]
    long = with_wins(results, everything, pair)
    alone = with_wins(results, collect(results, method=pair))
    for name in ("win_100", "win_15"):
        assert set(long.loc[long["metric"] == name, "method"]) == set(pair)
        for method in pair:
            assert value(long, method, name)["value"] == value(alone, method, name)["value"]
        both = sum(value(long, method, name)["value"] for method in pair)
        assert 100 <= both < 200  # a tie counts for each
    twice = everything.assign(method_name=everything["method_name"].replace(METHODS[2], METHODS[0]))
    assert with_wins(results, twice, pair) is twice  # the paper's variant is ambiguous
    assert with_wins(results, everything, (pair[0], "absent")) is everything


def test_one_method_wins_nothing(results: Path) -> None:
    long = collect(results, method=["random"])
    assert with_wins(results, long) is long


def test_the_command_line(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "--results", str(results), "--by", "prediction", "--win"]) == 0
    out = capsys.readouterr().out
    assert "gt_known_error_wrong" in out
    assert "win_100_right" in out or "drop_100_right" in out


def test_an_evaluator_wins_by_what_its_metrics_say_not_by_its_name(results: Path) -> None:
    long = collect(results)
    renamed = long.assign(evaluator_name="mine", metric=long["metric"].str.replace("drop_", "lost_"))
    wins = with_wins(results, renamed)
    assert wins.loc[wins["metric"].str.startswith("win_"), "value"].tolist() == (
        with_wins(results, long).query("metric.str.startswith('win_')")["value"].tolist()
    )
    assert "win_50" in set(wins["metric"])
    assert "win_50" not in set(with_wins(results, long.assign(win=""))["metric"])
