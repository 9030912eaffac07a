"""`eigencam score` on maps: it finds files, and checks truth and options."""

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scored_files import ilsvrc, run, voc

from eigencam.commands import score
from eigencam.evaluation.predictions import (
    find_maps,
    maps_of,
    read_map,
)


def test_maps_with_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, maps = voc(tmp_path), tmp_path / "maps"
    maps.mkdir()
    values = np.zeros((3, 4))
    values[0, :2] = 1
    np.save(maps / "2008_000001.jpg.npy", values[None])
    Image.fromarray((np.kron(values, np.ones((10, 10))) * 200).astype(np.uint8)).save(maps / "2008_000002.png")
    np.save(maps / "unrelated.npy", values)
    options = ("--format", "maps", "--truth", truth, "--set", "2012/Segmentation/val")
    out = run(capsys, maps, *options)
    assert out["n"] == 2
    assert out["metrics"]["box_error"] == 0
    assert out["protocol"]["maps of no image"] == "1, not used: unrelated"
    assert 50 < out["metrics"]["fg_iou"] < 100
    assert out["metrics"]["abo"] > 50
    assert out["thresholds"]["box_error"] == "0.15 max"
    other = run(capsys, maps, *options, "--threshold", 0.9, "--mask-threshold", 0.5, "--component", "all")
    assert (other["thresholds"]["box_error"], other["thresholds"]["fg_iou"]) == ("0.9 max", "0.5 max")
    assert other["protocol"]["localization"]["component"] == "all"
    (maps / "2008_000002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images .* e.g. 2008_000002; .*--allow-missing"):
        run(capsys, maps, *options)
    assert run(capsys, maps, *options, "--allow-missing")["n"] == 1


def test_maps_of_ilsvrc_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, maps = ilsvrc(tmp_path / "truth"), tmp_path / "maps" / "val"
    maps.mkdir(parents=True)
    for k, values in enumerate((np.full((30, 40), np.nan), np.ones((1, 1)), np.eye(2)), 1):
        np.save(maps / f"ILSVRC2012_val_{k:08d}.JPEG.npy", values)
    out = run(capsys, maps.parent, "--format", "maps", "--truth", truth)
    assert out["metrics"]["box_error"] == 100
    assert out["notes"]["box_error"] == "1 constant, 1 nonfinite of 3 maps"
    assert "fg_iou" not in out["metrics"]
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    score.main(parser.parse_args([str(maps), "--format", "maps", "--truth", str(truth)]))
    text = capsys.readouterr().out
    assert "box_error" in text
    assert "nan" not in text
    assert "3 of the 3 of ilsvrc" in text


def test_map_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_maps(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no \.npy or \.png"):
        find_maps(tmp_path)
    wide = np.array([[0, 65535], [256, 1]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_map(tmp_path / "a.png"), wide)
    np.save(tmp_path / "b.npy", np.ones((1, 1, 1)))
    assert read_map(tmp_path / "b.npy").shape == (1, 1)
    np.save(tmp_path / "c.npy", np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match=r"c.npy: an array of \(2, 3, 4\)"):
        read_map(tmp_path / "c.npy")
    Image.new("RGB", (2, 2)).save(tmp_path / "d.png")
    with pytest.raises(ValueError, match=r"d.png: an image of mode RGB"):
        read_map(tmp_path / "d.png")
    (tmp_path / "e.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"e.npy"):
        read_map(tmp_path / "e.npy")
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "a.npy", wide)
    with pytest.raises(ValueError, match=r"two maps for a: .*/a\.png and .*/sub/a\.npy"):
        maps_of(["a"], find_maps(tmp_path))


@pytest.mark.parametrize("threshold", ["5", "nan", "-1", "1"])
def test_a_threshold_of_maps_is_a_share(tmp_path: Path, capsys: pytest.CaptureFixture[str], threshold: str) -> None:
    for option in ("--threshold", "--mask-threshold"):
        with pytest.raises(ValueError, match=r"threshold .*allowed is 0 <= t < 1"):
            run(capsys, maps_in(tmp_path / "maps"), "--format", "maps", "--truth", voc(tmp_path / option), "--set",
                "2012/Segmentation/val", option, threshold)  # fmt: skip


def maps_in(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("2008_000001", "2008_000002"):
        np.save(folder / f"{name}.npy", np.eye(5))
    return folder


def test_a_truth_that_cannot_be_right_is_refused_before_one_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, chosen = voc(tmp_path), ("--set", "2012/Segmentation/val")
    for path in truth.glob("**/SegmentationClass/*.png"):
        Image.fromarray((np.eye(30, 40) * 255).astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"none of the 2 masks looked at .* they have 0, 255"):
        run(capsys, maps_in(tmp_path / "maps"), "--format", "maps", "--truth", truth, *chosen)
    path = next(truth.glob("**/Annotations/2008_000002.xml"))
    path.write_text(path.read_text().replace("<xmax>20", "<xmax>41"))
    with pytest.raises(ValueError, match=r"2008_000002\.xml: impossible box"):
        run(capsys, maps_in(tmp_path / "maps"), "--format", "maps", "--truth", truth, *chosen)
