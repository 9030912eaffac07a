"""What a run does with an invalid truth: it stops before the first batch, or leaves the image out."""

from pathlib import Path

import dataset_files as files
import numpy as np
import pytest
from damage import paint, swap
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image

from eigencam.datasets.base import BadTruthError
from eigencam.reporting.collect import collect
from eigencam.running.run import run

CHOSEN = [
    "model=scenes_resnet",
    "method=[center_gaussian]",
    "target=predicted",
    "device=cpu",
    "workers=0",
    "timing=false",
]

KEYS = {"graz02": "ig02"}
"""The key of `paths`, if it is not the dataset's name."""


def config(root: Path, dataset: str, *overrides: str) -> DictConfig:
    paths = [f"paths.{KEYS.get(dataset, dataset)}={root}", f"paths.results={root / 'results'}"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose("run", [*CHOSEN, f"dataset={dataset}", "evaluator=[localization]", *paths, *overrides])


def cub(root: Path) -> Path:
    files.write_cub(root)
    swap("**/bounding_boxes.txt", "1 6.0 2.0", "1 nan 2.0")(root)
    return root


def results(root: Path) -> list[Path]:
    return list((root / "results").glob("*/metrics.json"))


def test_what_a_list_shows_is_refused_before_the_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eigencam.running.run._compute", None)
    words = r"bounding_boxes\.txt: 001\.Black_foot.*/Black_Foot.*box 1 of 1 is \[nan.*allowed.*1 of 2 images have.*on_"
    with pytest.raises(ValueError, match=words):
        run(config(cub(tmp_path), "cub"))
    assert not results(tmp_path)


@pytest.mark.full
def test_an_image_whose_truth_is_wrong_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = run(config(cub(tmp_path), "cub", "on_bad_truth=skip"))
    (result,) = job.results.values()
    assert result.summary is not None
    assert (result.summary.n, result.summary.bad_images) == (1, {})
    assert list(result.summary.bad_truths) == ["001.Black_footed_Albatross/Black_Footed_Albatross_0046_18"]
    assert (
        "box 1 of 1 is [nan" in result.summary.bad_truths["001.Black_footed_Albatross/Black_Footed_Albatross_0046_18"]
    )
    assert "left out: " in capsys.readouterr().out
    assert set(collect(tmp_path / "results")["bad_truths"]) == {1}
    with pytest.raises(ValueError, match=r"bounding_boxes\.txt"):
        run(config(tmp_path, "cub"))
    assert "nothing to compute" not in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.parametrize("policy", ["fail", "skip"])
@pytest.mark.parametrize("what", ["void", "corrupt", "size"])
def test_a_mask_that_is_wrong_is_found_when_it_is_read(tmp_path: Path, policy: str, what: str) -> None:
    files.write_ig02(tmp_path)
    mask = tmp_path / "bikes/bike_002.mask.0.png"
    if what == "corrupt":
        mask.write_bytes(mask.read_bytes()[:60])
    elif what == "size":
        Image.new("RGB", (3, 3)).save(mask)
    else:
        paint("bikes/bike_002.mask.*.png", np.full((24, 32, 3), 255, np.uint8))(tmp_path)
    composed = config(tmp_path, "graz02", f"on_bad_truth={policy}", "on_bad_image=fail")
    if policy == "fail":
        with pytest.raises(BadTruthError, match=r"bike_002\.mask"):
            run(composed)
        assert not results(tmp_path)
    else:
        (result,) = run(composed).results.values()
        assert result.summary is not None
        assert (result.summary.n, list(result.summary.bad_truths)) == (1, ["bikes/bike_002"])
        with pytest.raises(ValueError, match=r"images with an invalid truth:\n.*bike_002\.mask.*\non_bad_truth=skip"):
            run(config(tmp_path, "graz02"))


@pytest.mark.full
def test_a_dataset_without_a_right_truth_is_refused_whatever_the_policy(tmp_path: Path) -> None:
    files.write_cub(tmp_path)
    path = next(tmp_path.glob("**/bounding_boxes.txt"))
    path.write_text("".join(f"{k} 1 2 -3 4\n" for k in (1, 2, 3)))
    with pytest.raises(ValueError, match="for all 2 images looked at: none has a valid truth"):
        run(config(tmp_path, "cub", "on_bad_truth=skip"))
    files.write_ig02(tmp_path / "g")
    for name in (tmp_path / "g/bikes").glob("*.mask.*.png"):
        Image.new("RGB", (32, 24), "white").save(name)
    with pytest.raises(ValueError, match=r"the colour \(255, 255, 255\)(.|\n)*all 2 images looked at"):
        run(config(tmp_path / "g", "graz02", "on_bad_truth=skip"))


@pytest.mark.full
def test_masks_of_another_kind_are_refused_before_the_first_batch(tmp_path: Path) -> None:
    files.write_openimages(tmp_path)
    with pytest.raises(ValueError, match="on_bad_truth=maybe; allowed: fail, skip"):
        run(config(tmp_path, "openimages30k", "on_bad_truth=maybe"))
