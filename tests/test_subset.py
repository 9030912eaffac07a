"""`limit`, `seed` and `images`: a part of any dataset."""

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from eigencam.commands.main import main
from eigencam.datasets.names import Ids
from eigencam.datasets.scenes import Scenes
from eigencam.datasets.subset import Subset, chosen
from eigencam.running.run import run

IDS = [f"scenes-test-{k:06}" for k in range(12)]


def test_the_first_images() -> None:
    data = Scenes(count=12)
    part = chosen(data, limit=5)
    assert part.ids == IDS[:5]
    assert np.array_equal(part.image(4), data.image(4))
    assert part.truth(4).image_id == IDS[4]


def test_a_sample_is_fixed_spread_and_part_of_a_larger_one() -> None:
    data = Scenes(count=12)
    few, many = (chosen(data, limit=n, seed=3).ids for n in (4, 8))
    assert few == chosen(data, limit=4, seed=3).ids == sorted(few)
    assert set(few) < set(many) < set(IDS)
    assert few != IDS[:4]
    assert few != chosen(data, limit=4, seed=4).ids


def test_all_images_are_the_dataset_itself() -> None:
    data = Scenes(count=12)
    assert chosen(data, limit=12) is data is chosen(data)
    assert chosen(data, images=IDS) is data


@pytest.mark.parametrize("kind", ["file", "list"])
def test_images_of_a_list_keep_the_dataset_s_order(tmp_path: Path, kind: str) -> None:
    names = [IDS[7], IDS[2], IDS[9]]
    (tmp_path / "few.txt").write_text("\n".join(names))
    part = chosen(Scenes(count=12), images=names if kind == "list" else str(tmp_path / "few.txt"))
    assert part.ids == [IDS[2], IDS[7], IDS[9]]
    assert part.truth(1).image_id == IDS[7]
    assert chosen(Scenes(count=12), limit=2, images=names).ids == [IDS[2], IDS[7]]


def test_aliases_and_faults_are_those_of_the_part() -> None:
    data = Scenes(count=12)
    data.ids = Ids(data.ids, {"1": IDS[1], "2": IDS[2]})
    data.faults = {IDS[1]: "wrong", IDS[2]: "wrong, too"}  # type: ignore[attr-defined]
    part = chosen(data, images=["2", IDS[5]])
    assert isinstance(part, Subset)
    assert part.ids.aliases == {"2": IDS[2]}  # type: ignore[attr-defined]
    assert part.faults == {IDS[2]: "wrong, too"}


def test_the_identity_tells_parts_apart() -> None:
    data = Scenes(count=12)
    told = [
        json.dumps(chosen(data, **how).identity())  # type: ignore[arg-type]
        for how in ({}, {"limit": 4}, {"limit": 4, "seed": 0}, {"limit": 4, "seed": 1}, {"limit": 5})
    ]
    assert len(set(told)) == 5
    assert json.loads(told[1])["n"] == 4
    assert told[1] == json.dumps(chosen(data, images=IDS[:4]).identity())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit=0; allowed are 1 to 12"),
        ({"limit": 13}, "limit=13; allowed are 1 to 12"),
        ({"seed": 1}, "seed=1 without limit"),
        ({"images": []}, "no image is named"),
        ({"images": ["q"]}, "entry 1: 'q' is of no image"),
        ({"images": [IDS[1], IDS[1]]}, "a second time"),
    ],
)
def test_what_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        chosen(Scenes(count=12), **options)  # type: ignore[arg-type]


@pytest.mark.full
def test_a_run_takes_the_part_and_says_so(tmp_path: Path) -> None:
    asked = ["dataset.count=12", "limit=3", "seed=0", "method=[center_box]", "evaluator=[localization]"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        config = compose("run", [*asked, f"paths.results={tmp_path}", "workers=0", "device=cpu"])
    [result] = run(config, say=lambda _: None).results.values()
    assert result.summary
    assert result.summary.n == 3
    assert list(result.rows()["image"]) == chosen(Scenes(count=12), limit=3, seed=0).ids
    assert result.identity["dataset"]["n"] == 3


def test_faults_of_the_part_stop_a_run_before_it_begins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "limit=500", "method=[center_box]", "workers=0", "device=cpu"]) == 2
    assert "limit=500; allowed are 1 to 400" in capsys.readouterr().err
