"""The rehearsal of large runs: four images of each set, and one experiment killed twice."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import rehearsal
from PIL import Image
from rehearsal_data import Jpegs, Listed, chosen, listed, make_ilsvrc, make_voc

from eigencam.datasets.ilsvrc import Ilsvrc
from eigencam.datasets.voc import Voc

SIZES = [(50, 40), (50, 40), (1300, 60), (50, 40)]
BOXES = [(3, 4, 30, 39), (0, 0, 49, 39), (100, 5, 1299, 59), (1, 2, 3, 4)]


def write_truth(folder: Path) -> Path:
    """wsolevaluation's files, of four images."""
    names = [f"val/ILSVRC2012_val_{k:08d}.JPEG" for k in range(1, 5)]
    rows = {
        "class_labels.txt": [f"{name},{7 * k}" for k, name in enumerate(names)],
        "image_sizes.txt": [f"{name},{w},{h}" for name, (w, h) in zip(names, SIZES, strict=True)],
        "localization.txt": [f"{name},{','.join(map(str, box))}" for name, box in zip(names, BOXES, strict=True)],
    }
    folder.mkdir()
    for file, lines in rows.items():
        (folder / file).write_text("\n".join(lines) + "\n")
    return folder


def test_ilsvrc_has_the_names_sizes_and_boxes_of_the_lists(tmp_path: Path) -> None:
    assert make_ilsvrc(tmp_path / "made", write_truth(tmp_path / "truth"), Jpegs(), None) == 4
    made = Ilsvrc(tmp_path / "made")
    assert [made.image(i).shape[:2] for i in range(4)] == [(h, w) for w, h in SIZES]
    assert [made.truth(i).boxes.tolist()[0] for i in range(4)] == [list(box) for box in BOXES]
    assert [made.truth(i).label for i in range(4)] == [0, 7, 14, 21]
    assert made.image(0).std() > 20
    assert make_ilsvrc(tmp_path / "part", tmp_path / "truth", Jpegs(), 2) == 2
    assert len(Ilsvrc(tmp_path / "part").ids) == 2


def test_images_of_one_size_share_files(tmp_path: Path) -> None:
    jpegs = Jpegs()
    for k in range(6):
        jpegs.write(tmp_path / f"{k}.jpg", (40, 30))
    assert len({path.stat().st_ino for path in tmp_path.iterdir()}) == 4
    first, second = (np.asarray(Image.open(tmp_path / f"{k}.jpg")) for k in range(2))
    assert not np.array_equal(first, second)


def test_voc_has_objects_and_masks(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 5, "file_name": "000005.jpg", "width": 60, "height": 50}],
        "annotations": [{"image_id": 5, "category_id": 1, "bbox": [10, 5, 29, 40]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "list.json").write_text(json.dumps(content))
    (tmp_path / "ids.txt").write_text("000005\n2007_000001\n")
    known = listed([tmp_path / "list.json"])
    assert known == {"000005": Listed("000005", (60, 50), (("cat", (10, 5, 29, 40)),))}
    images, unknown = chosen(known, tmp_path / "ids.txt")
    assert (unknown, images[1]) == (1, Listed("2007_000001", (60, 50)))
    assert make_voc(tmp_path, 2012, "Segmentation", "val", images, Jpegs()) == 2
    made = Voc(tmp_path, task="Segmentation")
    truth = made.truth(0)
    assert truth.boxes.tolist() == [[10, 5, 39, 45]]
    assert truth.mask is not None
    assert set(np.unique(truth.mask)) == {0, made.classes.index("cat") + 1, 255}
    assert made.truth(1).mask is not None
    content["categories"] = [{"id": 1, "name": "zebra"}]
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="zebra"):
        listed([tmp_path / "list.json"])


@pytest.mark.full
def test_an_experiment_is_killed_twice_and_ends_in_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "at", tmp_path / "rehearsal.csv"
    words = [str(root), "--ilsvrc", str(write_truth(tmp_path / "truth")), "--only", "cam2016", "--anyway"]
    words += ["--out", str(out), "--set", "model=googlenet_bvlc", "method=[cam,center_box]", "workers=0"]
    monkeypatch.setattr(sys, "argv", ["rehearsal.py", *words, "--minutes", "0"])
    for name in ("TORCH_HOME", "EIGENCAM_WEIGHTS", "EIGENCAM_RESULTS"):
        monkeypatch.setenv(name, "")  # set by the script, and restored
    rehearsal.main()
    assert not out.exists()  # its time was over before it began
    monkeypatch.setattr(sys, "argv", ["rehearsal.py", *words])
    rehearsal.main()
    (row,) = csv.DictReader(line for line in out.read_text().splitlines() if not line.startswith("#"))
    assert (row["results"], row["done"], row["broke"]) == ("2", "2", "")
    assert int(row["kills"]) >= 1  # a job of four images may end between two checks
    assert float(row["peak_mib"]) > 100
    assert (root / "tables/cam2016.md").is_file()
    monkeypatch.setattr(sys, "argv", ["rehearsal.py", *words, "--images", "3"])
    with pytest.raises(ValueError, match="another folder"):
        rehearsal.main()
