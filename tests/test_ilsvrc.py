import gzip
import json
import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from eigencam.datasets.base import BadImageError, Dataset
from eigencam.datasets.devkit import find_synsets
from eigencam.datasets.ilsvrc import Ilsvrc
from eigencam.datasets.ilsvrc_truth import IlsvrcTruth, check_agree, read_truth

SHARED = os.environ.get("EIGENCAM_SHARED", "")
needs_shared = pytest.mark.skipif(
    not SHARED, reason="EIGENCAM_SHARED is not set: real pictures and reference files are not here"
)

RNG = np.random.default_rng(0)
WNIDS = [f"n{1_000_000 + 7 * k:08d}" for k in range(1000)]
DEVKIT_IDS = [int(i) for i in RNG.permutation(1000) + 1]
IDS = [f"ILSVRC2012_val_{k:08d}" for k in range(1, 7)]
LABELS = [65, 999, 0, 5, 65, 500]
SIZES = [(50, 40), (30, 60), (40, 40), (40, 40), (25, 35), (64, 64)]  # height, width
BOXES = [
    [(3, 4, 30, 49)],
    [(10, 0, 59, 20), (0, 5, 9, 29)],
    [(0, 0, 39, 39)],
    [(1, 2, 3, 4), (1, 2, 3, 3), (0, 7, 12, 12)],
    [(5, 5, 5, 5)],
    [(20, 10, 50, 63)],
]


def write_mapping(root: Path) -> None:
    names = [f"{wnid} word{k % 999}, synonym" for k, wnid in enumerate(WNIDS)]
    (root / "LOC_synset_mapping.txt").write_text("\n".join(names) + "\n")


def write_text(root: Path, zipped: bool = False) -> None:
    rows = {
        "class_labels.txt": [f"val/{name}.JPEG,{label}" for name, label in zip(IDS, LABELS, strict=True)],
        "image_sizes.txt": [f"val/{name}.JPEG,{w},{h}" for name, (h, w) in zip(IDS, SIZES, strict=True)],
        "localization.txt": [
            f"val/{name}.JPEG,{','.join(map(str, box))}" for name, of in zip(IDS, BOXES, strict=True) for box in of
        ],
    }
    for name, lines in rows.items():
        content = "\n".join(lines) + "\n"
        if zipped:
            (root / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        else:
            (root / name).write_text(content)


def xml(label: int, size: tuple[int, int], boxes: list[tuple[int, int, int, int]]) -> str:
    objects = "".join(
        f"<object><name>{WNIDS[label]}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for x1, y1, x2, y2 in boxes
    )
    return f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>{objects}</annotation>"


def write_xml(root: Path, below: str = "ILSVRC/Annotations/CLS-LOC/val", class_folders: bool = False) -> None:
    write_mapping(root)
    for name, label, size, boxes in zip(IDS, LABELS, SIZES, BOXES, strict=True):
        folder = root / below / (WNIDS[label] if class_folders else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.xml").write_text(xml(label, size, boxes))


def write_csv(root: Path) -> None:
    write_mapping(root)
    rows = [
        f"{name}," + "".join(f"{WNIDS[label]} {x1} {y1} {x2} {y2} " for x1, y1, x2, y2 in boxes)
        for name, label, boxes in zip(IDS, LABELS, BOXES, strict=True)
    ]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")


def struct(rows: Sequence[Mapping[str, object]]) -> np.ndarray:
    array = np.empty((len(rows), 1), [(name, object) for name in rows[0]])
    for k, row in enumerate(rows):
        array[k, 0] = tuple(row.values())
    return array


def write_meta(folder: Path, field: str = "ILSVRC2012_ID", wnids: list[str] = WNIDS) -> None:
    inner = [(1001, "n09999999", "entity"), (1002, "n09999998", "object")]
    leaves = [(i, wnid, f"word{k % 999}, synonym") for k, (i, wnid) in enumerate(zip(DEVKIT_IDS, wnids, strict=True))]
    rows = [{field: i, "WNID": wnid, "words": words} for i, wnid, words in sorted(leaves) + inner]
    savemat(folder / "meta.mat", {"synsets": struct(rows)})


def write_cache(folder: Path, labels: list[int]) -> None:
    records = [
        {"objects": struct([{"label": label, "bbox": np.array(box, float)} for box in boxes])}
        for label, boxes in zip(labels, BOXES, strict=True)
    ]
    savemat(folder / "cache_groundtruth.mat", {"rec": struct(records)}, do_compression=True)


def write_list(folder: Path, labels: list[int]) -> None:
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, labels)) + "\n")


def write_devkit(root: Path) -> Path:
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    labels = [DEVKIT_IDS[label] for label in LABELS]
    write_meta(folder)
    write_cache(folder, labels)
    write_list(folder, labels)
    return folder


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": write_text,
    "xml": write_xml,
    "csv": write_csv,
    "devkit": write_devkit,
}


def write_pictures(folder: Path, class_folders: bool = False, suffix: str = ".JPEG") -> None:
    for name, label, (height, width) in zip(IDS, LABELS, SIZES, strict=True):
        path = folder / (WNIDS[label] if class_folders else "") / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), "green").save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_xml(tmp_path)
    write_pictures(tmp_path / "ILSVRC/Data/CLS-LOC/val")
    return tmp_path


def expected(truth: IlsvrcTruth) -> None:
    assert truth.ids == IDS
    assert truth.labels.tolist() == LABELS
    assert [truth.boxes_of(i).tolist() for i in range(6)] == [sorted(map(list, boxes)) for boxes in BOXES]
    np.testing.assert_array_equal(truth.owner(), [0, 1, 1, 2, 3, 3, 3, 4, 5])
    assert (truth.labels.dtype, truth.boxes.dtype, truth.offsets.dtype) == (np.int64, np.float64, np.int64)


# --- truth ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", WRITERS)
def test_every_source_gives_the_same_truth(tmp_path: Path, source: str) -> None:
    (tmp_path / "a").mkdir()
    WRITERS[source](tmp_path / "a")
    truth = read_truth(tmp_path / "a")
    assert truth.source == source
    expected(truth)
    (tmp_path / "b").mkdir()
    write_text(tmp_path / "b", zipped=True)
    check_agree(truth, read_truth(tmp_path / "b"))
    sizes = SIZES if source in ("text", "xml") else [(0, 0)] * 6
    assert truth.sizes.tolist() == [list(size) for size in sizes]


@pytest.mark.parametrize("below", ["", "val", "bbox/val", "Annotations/CLS-LOC/val", "CLS-LOC/val"])
@pytest.mark.parametrize("class_folders", [False, True])
def test_xml_files_are_found_in_the_usual_places(tmp_path: Path, below: str, class_folders: bool) -> None:
    write_xml(tmp_path, below, class_folders)
    expected(read_truth(tmp_path))
    if below:
        expected(read_truth(tmp_path / below))  # the list of classes lies above


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("text", "localization.txt"),
        ("text", "class_labels.txt"),
        ("csv", "LOC_val_solution.csv"),
        ("devkit", "ILSVRC2012_devkit_t12/data/cache_groundtruth.mat"),
    ],
)
def test_a_single_file_can_be_named(tmp_path: Path, source: str, file: str) -> None:
    WRITERS[source](tmp_path)
    expected(read_truth(tmp_path / file))


def test_of_several_sources_those_with_sizes_come_first_and_any_can_be_chosen(tmp_path: Path) -> None:
    for source in reversed(WRITERS):
        WRITERS[source](tmp_path)
        assert read_truth(tmp_path).source == source
    for source in WRITERS:
        assert read_truth(tmp_path, source).source == source  # type: ignore[arg-type]


def test_no_truth_tells_where_it_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no ILSVRC truth in .*looked in .*image-net\.org"):
        read_truth(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"does not exist.*image-net\.org"):
        read_truth(tmp_path / "nowhere")
    write_text(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"of source 'csv' .*there is: text"):
        read_truth(tmp_path, "csv")
    with pytest.raises(ValueError, match=r"source='mat': allowed are text, xml, csv, devkit"):
        read_truth(tmp_path, "mat")  # type: ignore[arg-type]


def test_wordnet_ids_without_the_list_of_all_classes_are_an_error(tmp_path: Path) -> None:
    write_csv(tmp_path)
    (tmp_path / "LOC_synset_mapping.txt").unlink()
    with pytest.raises(ValueError, match=r"list of all 1000 .*LOC_synset_mapping\.txt"):
        read_truth(tmp_path)


def test_the_list_of_classes_may_come_from_meta_mat_or_from_class_folders(tmp_path: Path) -> None:
    write_csv(tmp_path)
    (tmp_path / "LOC_synset_mapping.txt").unlink()
    write_meta(tmp_path, "ILSVRC2015_CLSLOC_ID")
    expected(read_truth(tmp_path))
    (tmp_path / "meta.mat").unlink()
    for wnid in WNIDS:
        (tmp_path / "train" / wnid).mkdir(parents=True)
    expected(read_truth(tmp_path))


def test_an_unknown_wordnet_id_is_named_with_its_file(tmp_path: Path) -> None:
    write_xml(tmp_path)
    path = tmp_path / "ILSVRC/Annotations/CLS-LOC/val" / f"{IDS[2]}.xml"
    path.write_text(path.read_text().replace(WNIDS[0], "n99999999"))
    with pytest.raises(ValueError, match=rf"{IDS[2]}\.xml: 'n99999999' is none of the 1000"):
        read_truth(tmp_path)


def test_equal_names_of_classes_are_told_apart(tmp_path: Path) -> None:
    write_mapping(tmp_path)
    words = find_synsets([tmp_path]).words
    assert words is not None
    assert (words[0], words[1], words[999]) == (f"word0 ({WNIDS[0]})", "word1", f"word0 ({WNIDS[999]})")
    assert len(set(words)) == 1000


# --- devkit ids ----------------------------------------------------------------------------------------------------


def test_devkit_ids_need_the_permutation_and_meta_mat_or_json_give_it(tmp_path: Path) -> None:
    folder = write_devkit(tmp_path)
    (folder / "meta.mat").unlink()
    with pytest.raises(ValueError, match=r"meta\.mat or a devkit_id_by_sorted_index\.json"):
        read_truth(tmp_path)
    write_mapping(tmp_path)  # the ids alone do not order the devkit's
    with pytest.raises(ValueError, match=r"meta\.mat"):
        read_truth(tmp_path)
    (tmp_path / "devkit_id_by_sorted_index.json").write_text(json.dumps(DEVKIT_IDS))
    expected(read_truth(tmp_path))


@pytest.mark.parametrize("wrong", [0, 1001, -5])
@pytest.mark.parametrize("write", [write_list, write_cache])
def test_a_label_that_is_no_devkit_id_is_an_error(tmp_path: Path, wrong: int, write: Callable[..., None]) -> None:
    folder = write_devkit(tmp_path)
    write(folder, [1, 2, wrong, 4, 5, 6])
    with pytest.raises(ValueError, match=rf"image 3 has the label {wrong}; devkit ids are 1\.\.1000"):
        read_truth(tmp_path)


def test_a_label_that_is_no_index_is_an_error(tmp_path: Path) -> None:
    write_text(tmp_path)
    path = tmp_path / "class_labels.txt"
    path.write_text(path.read_text().replace(",999", ",1000"))
    with pytest.raises(ValueError, match=rf"{IDS[1]} has the label 1000; .* 0\.\.999"):
        read_truth(tmp_path)


def test_devkit_files_that_contradict_each_other_are_an_error(tmp_path: Path) -> None:
    folder = write_devkit(tmp_path)
    write_list(folder, [1, 2, 3, 4, 5, 6])
    with pytest.raises(ValueError, match="contradict"):
        read_truth(tmp_path)
    write_list(folder, [DEVKIT_IDS[label] for label in LABELS])
    (folder / "devkit_id_by_sorted_index.json").write_text(json.dumps(sorted(DEVKIT_IDS)))
    with pytest.raises(ValueError, match="order the devkit ids differently"):
        read_truth(tmp_path)
    (folder / "devkit_id_by_sorted_index.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"not a list of the devkit ids 1\.\.1000"):
        read_truth(tmp_path)
    (folder / "devkit_id_by_sorted_index.json").unlink()
    (tmp_path / "synset_words.txt").write_text("\n".join([f"{wnid} x" for wnid in WNIDS[1:]] + ["n08888888 x"]))
    with pytest.raises(ValueError, match="different classes"):
        read_truth(tmp_path)


def test_a_list_of_labels_alone_has_no_boxes(tmp_path: Path) -> None:
    folder = write_devkit(tmp_path)
    (folder / "cache_groundtruth.mat").unlink()
    truth = read_truth(tmp_path)
    assert truth.labels.tolist() == LABELS
    assert truth.boxes.shape == (0, 4)
    with pytest.raises(ValueError, match=rf"6 of 6 pictures have a label but no box \(devkit\), e\.g\. {IDS[0]}"):
        Ilsvrc(tmp_path, images=False)


def test_a_file_that_is_not_matlab_is_named(tmp_path: Path) -> None:
    (write_devkit(tmp_path) / "cache_groundtruth.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 500)
    with pytest.raises(ValueError, match=r"cache_groundtruth\.mat: not a readable MATLAB file"):
        read_truth(tmp_path)


# --- files that are not what they should be ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "file", "content", "match"),
    [
        ("text", "localization.txt", f"{IDS[0]},1,2,3\n", r"localization\.txt line 1.*image,x0,y0,x1,y1"),
        ("text", "class_labels.txt", f"{IDS[0]},one\n", r"class_labels\.txt line 1.*image,index"),
        ("text", "class_labels.txt", f"{IDS[0]},1\n", "5 pictures have boxes but no label"),
        ("csv", "LOC_val_solution.csv", "ImageId,PredictionString\n\na,n1 2 3\n", r"solution\.csv line 3"),
        ("csv", "LOC_val_solution.csv", f"a,{WNIDS[0]} 1 2 3 4\n", "header"),
        (
            "csv",
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n" + 2 * f"a,{WNIDS[0]} 1 2 3 4\n",
            "second row for a",
        ),
        (
            "csv",
            "LOC_val_solution.csv",
            f"ImageId,PredictionString\na,{WNIDS[0]} 1 2 3 4 {WNIDS[1]} 1 2 3 4\n",
            "exactly one",
        ),
        ("xml", f"ILSVRC/Annotations/CLS-LOC/val/{IDS[0]}.xml", "<annotation>", "not a readable"),
        ("xml", f"ILSVRC/Annotations/CLS-LOC/val/{IDS[0]}.xml", "<annotation/>", "exactly one"),
        ("csv", "LOC_synset_mapping.txt", "n01440764 tench\n", r"mapping\.txt: 1 classes, .* 1000 expected"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, source: str, file: str, content: str, match: str) -> None:
    WRITERS[source](tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=match):
        read_truth(tmp_path)


@pytest.mark.parametrize("box", ["5,5,4,9", "-1,0,5,5", "0,0,42,10", "0,0,10,nan"])
def test_an_impossible_box_is_an_error(tmp_path: Path, box: str) -> None:
    write_text(tmp_path)
    path = tmp_path / "localization.txt"
    path.write_text(path.read_text().replace("3,4,30,49", box))
    with pytest.raises(ValueError, match=rf"1 boxes are impossible, .* of {IDS[0]}, a picture of 40 x 50"):
        read_truth(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "match"),
    [
        ("class_labels.txt", ",999", ",998", f"the label of 1 pictures, e.g. {IDS[1]}"),
        ("image_sizes.txt", "40,50", "41,50", f"the size of 1 pictures, e.g. {IDS[0]}"),
        ("localization.txt", "5,5,5,5", "5,5,5,6", f"1 boxes, e.g. {IDS[4]}"),
        ("localization.txt", "5,5,5,5", f"5,5,5,5\nval/{IDS[4]}.JPEG,5,5,5,5", f"number of boxes of 1 .* {IDS[4]}"),
    ],
)
def test_sources_that_differ_are_told_with_the_picture(
    tmp_path: Path, file: str, old: str, new: str, match: str
) -> None:
    write_text(tmp_path)
    before = read_truth(tmp_path)
    (tmp_path / file).write_text((tmp_path / file).read_text().replace(old, new))
    with pytest.raises(ValueError, match=match):
        check_agree(before, read_truth(tmp_path))
    with pytest.raises(ValueError, match="different pictures: 1"):
        check_agree(before, before.select(range(5)))


# --- pictures ------------------------------------------------------------------------------------------------------


def test_it_is_a_dataset(root: Path) -> None:
    data: Dataset = Ilsvrc(root)
    assert isinstance(data, Dataset)
    assert (data.name, data.class_space, len(data.classes), data.ids) == ("ilsvrc", "imagenet", 1000, IDS)
    truth = data.truth(1)
    assert (truth.size, truth.label, truth.foreground) == ((30, 60), 999, "label")
    assert truth.sought().all()
    assert data.image(1).shape == (30, 60, 3)
    assert pickle.loads(pickle.dumps(data)).identity() == data.identity()


@pytest.mark.parametrize("below", ["val", "", "ILSVRC/Data/CLS-LOC/val", "ILSVRC2012_img_val"])
@pytest.mark.parametrize("class_folders", [False, True])
@pytest.mark.parametrize("source", WRITERS)
def test_ids_and_identity_do_not_depend_on_layout_or_source(
    root: Path, tmp_path_factory: pytest.TempPathFactory, below: str, class_folders: bool, source: str
) -> None:
    other = tmp_path_factory.mktemp("other")
    WRITERS[source](other)
    write_pictures(other / below, class_folders)
    data = Ilsvrc(other)
    assert data.ids == IDS
    assert data.identity() == Ilsvrc(root).identity()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".jpeg"])
def test_other_suffixes_and_a_folder_of_pictures_elsewhere_are_read(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "truth").mkdir()
    write_text(tmp_path / "truth")
    write_pictures(tmp_path / "pictures", suffix=suffix)
    data = Ilsvrc(tmp_path / "truth", images=tmp_path / "pictures")
    assert data.image(5).shape == (64, 64, 3)
    assert data.classes[7] == "7"


def test_truth_alone_can_be_had_without_pictures(tmp_path: Path) -> None:
    write_csv(tmp_path)
    data = Ilsvrc(tmp_path, images=False)
    assert data.truth(1).size == (0, 0)
    with pytest.raises(FileNotFoundError, match="images=False"):
        data.image(0)


def test_subset_and_blacklist_choose_by_id_or_number(root: Path, tmp_path: Path) -> None:
    (tmp_path / "subset.txt").write_text(f"val/{IDS[4]}.JPEG,65\n{IDS[1]} 3\n\n{IDS[0]}\n")
    (tmp_path / "blacklist.txt").write_text(f"2\n49999\n{IDS[5]}\n")
    assert Ilsvrc(root, subset=tmp_path / "subset.txt").ids == [IDS[0], IDS[1], IDS[4]]
    assert Ilsvrc(root, blacklist=tmp_path / "blacklist.txt").ids == [IDS[0], *IDS[2:5]]
    both = Ilsvrc(root, subset=tmp_path / "subset.txt", blacklist=tmp_path / "blacklist.txt")
    assert both.ids == [IDS[0], IDS[4]]
    assert both.truth(1).boxes.tolist() == [[5, 5, 5, 5]]
    assert both.identity() != Ilsvrc(root).identity()


def test_lists_with_unknown_pictures_or_none_left_are_errors(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("ILSVRC2012_val_00000007\n")
    with pytest.raises(ValueError, match=r"list\.txt: 1 of 1 ids have no truth"):
        Ilsvrc(root, subset=file)
    file.write_text("0\n")
    with pytest.raises(ValueError, match=r"picture number 0; allowed are 1\.\.50000"):
        Ilsvrc(root, blacklist=file)
    file.write_text("1\n2\n3\n4\n5\n6\n")
    with pytest.raises(ValueError, match="no picture is left of 6"):
        Ilsvrc(root, blacklist=file)
    with pytest.raises(FileNotFoundError, match="no such list"):
        Ilsvrc(root, subset=tmp_path / "none.txt")


def test_a_count_is_part_of_every_larger_count_and_depends_on_the_seed(root: Path) -> None:
    chosen = [Ilsvrc(root, count=n).ids for n in range(1, 7)]
    assert all(set(small) < set(large) for small, large in pairwise(chosen))
    assert all(ids == sorted(ids) for ids in chosen)
    assert chosen[-1] == IDS
    assert len({tuple(Ilsvrc(root, count=3, seed=seed).ids) for seed in range(5)}) > 1
    for wrong in (0, 7):
        with pytest.raises(ValueError, match=rf"count={wrong}: allowed are 1\.\.6"):
            Ilsvrc(root, count=wrong)


def test_missing_pictures_are_counted_and_can_be_left_out(root: Path) -> None:
    folder = root / "ILSVRC/Data/CLS-LOC/val"
    for name in IDS[1:5]:
        (folder / f"{name}.JPEG").unlink()
    message = (
        rf"4 of 6 .* missing, e\.g\. {IDS[1]}, {IDS[2]}, {IDS[3]}; looked in .*img_val\.tar.*allow_missing=true.* 2 "
    )
    with pytest.raises(FileNotFoundError, match=message):
        Ilsvrc(root)
    assert Ilsvrc(root, allow_missing=True).ids == [IDS[0], IDS[5]]
    for name in (IDS[0], IDS[5]):
        (folder / f"{name}.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match="none of the 6"):
        Ilsvrc(root, allow_missing=True)


def test_pictures_without_truth_are_not_left_out_silently(root: Path) -> None:
    (root / "ILSVRC/Annotations/CLS-LOC/val" / f"{IDS[3]}.xml").unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of 6 ILSVRC pictures have no truth \(xml\), e\.g\. {IDS[3]}"):
        Ilsvrc(root)
    assert len(Ilsvrc(root, allow_missing=True).ids) == 5


def test_two_files_for_a_picture_are_an_error(root: Path) -> None:
    write_pictures(root / "ILSVRC/Data/CLS-LOC/val", class_folders=True)
    with pytest.raises(ValueError, match="two files for ILSVRC2012_val_0000000"):
        Ilsvrc(root)


def test_several_roots_are_joined_by_id(tmp_path: Path) -> None:
    (tmp_path / "b/a").mkdir(parents=True)  # one inside the other
    for place, names in (("b", IDS[:3]), ("b/a", IDS[3:])):
        write_xml(tmp_path / place)
        write_pictures(tmp_path / place / "val")
        for name in set(IDS) - set(names):
            (tmp_path / place / "ILSVRC/Annotations/CLS-LOC/val" / f"{name}.xml").unlink()
            (tmp_path / place / "val" / f"{name}.JPEG").unlink()
    data = Ilsvrc(f"{tmp_path / 'b/a'}:{tmp_path / 'b'}")
    assert data.ids == IDS
    expected(data.annotation)
    assert [data.truth(i).size for i in range(6)] == SIZES
    assert data.identity() == Ilsvrc([tmp_path / "b", tmp_path / "b/a"]).identity()
    with pytest.raises(ValueError, match=r"3 pictures are in two of the roots"):
        Ilsvrc([tmp_path / "b", tmp_path / "b"])


@pytest.mark.parametrize("source", ["xml", "csv"])
def test_resized_pictures_with_boxes_of_the_originals_are_found_at_once(root: Path, source: str) -> None:
    write_csv(root)
    for path in (root / "ILSVRC/Data/CLS-LOC/val").iterdir():
        Image.new("RGB", (28, 28)).save(path)
    with pytest.raises(ValueError, match=r"28 x 28 pixels, its truth .* use the original pictures"):
        Ilsvrc(root, source=source)  # type: ignore[arg-type]


def test_a_picture_in_another_class_s_folder_is_an_error(root: Path) -> None:
    folder = root / "ILSVRC/Data/CLS-LOC/val"
    (folder / WNIDS[3]).mkdir()
    (folder / f"{IDS[0]}.JPEG").rename(folder / WNIDS[3] / f"{IDS[0]}.JPEG")
    with pytest.raises(ValueError, match=f"another class's folder: its truth says {WNIDS[65]}"):
        Ilsvrc(root)


def test_a_broken_picture_is_left_to_the_run(root: Path) -> None:
    (root / "ILSVRC/Data/CLS-LOC/val" / f"{IDS[0]}.JPEG").write_bytes(b"")
    data = Ilsvrc(root)
    assert data.truth(0).size == SIZES[0]
    with pytest.raises(BadImageError, match=IDS[0]):
        data.image(0)


def test_only_the_validation_split_has_truth(root: Path) -> None:
    with pytest.raises(ValueError, match="split='train': allowed is 'val'"):
        Ilsvrc(root, split="train")


# --- real files ----------------------------------------------------------------------------------------------------


@needs_shared
def test_the_reference_is_read_in_three_seconds_and_numbers_classes_as_the_published_boxes_do() -> None:
    reference = Path(SHARED) / "reference"
    start = time.perf_counter()
    truth = read_truth(reference / "ilsvrc_val")
    assert time.perf_counter() - start < 3
    assert (len(truth.ids), len(truth.boxes)) == (50_000, 80_477)
    assert (truth.ids[0], truth.labels[0]) == ("ILSVRC2012_val_00000001", 65)
    assert truth.synsets.devkit_ids is not None
    labels = truth.synsets.devkit_ids[truth.labels]
    assert labels[0] == 490
    with gzip.open(reference / "cnn_fixations/alexNet.txt.gz", "rt") as lines:
        predicted = np.array([int(line.split()[0]) for line in lines])
    assert round(100 * float(np.mean(predicted != labels)), 2) == 41.64


@needs_shared
@pytest.mark.parametrize(("roots", "n"), [([""], 99), (["val227"], 980), (["", "val227"], 1079)])
def test_the_real_pictures_are_read(roots: list[str], n: int) -> None:
    folders = [Path(SHARED) / "realdata" / root for root in roots]
    data, table = Ilsvrc(folders), Ilsvrc(folders, source="csv")
    assert len(data.ids) == n
    assert data.identity() == table.identity()
    check_agree(data.annotation, table.annotation)
    assert [data.truth(i).size for i in range(n)] == [table.truth(i).size for i in range(n)]
    assert all(data.image(i).shape[:2] == data.truth(i).size for i in range(0, n, 25))


@needs_shared
def test_the_real_annotations_agree_with_the_reference() -> None:
    data = Ilsvrc(Path(SHARED) / "realdata")
    reference = read_truth(Path(SHARED) / "reference/ilsvrc_val")
    check_agree(data.annotation, reference.select(np.searchsorted(reference.ids, data.ids)))
    assert data.classes[:3] == ("tench", "goldfish", "great white shark")
