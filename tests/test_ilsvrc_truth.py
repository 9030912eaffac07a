import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ilsvrc_files import (
    BOXES,
    DEVKIT_IDS,
    IDS,
    LABELS,
    SHARED,
    SIZES,
    WNIDS,
    WRITERS,
    expected,
    needs_shared,
    write_cache,
    write_csv,
    write_devkit,
    write_list,
    write_mapping,
    write_meta,
    write_text,
    write_xml,
)

from eigencam.datasets import ilsvrc_sources, ilsvrc_truth
from eigencam.datasets.devkit import find_synsets
from eigencam.datasets.ilsvrc import Ilsvrc
from eigencam.datasets.ilsvrc_truth import check_agree, read_truth


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
        expected(read_truth(tmp_path / below))  # the list of classes is in the folder above


def test_many_xml_files_are_read_once_until_one_changes_comes_or_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, parsed = tmp_path / "ILSVRC/Annotations/CLS-LOC/val", list[int]()
    read = ilsvrc_sources.read
    monkeypatch.setenv("EIGENCAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ilsvrc_truth, "_MANY", 1)
    monkeypatch.setattr(ilsvrc_sources, "read", lambda *args: parsed.append(len(args[1])) or read(*args))
    write_xml(tmp_path)
    for _ in range(3):
        expected(read_truth(tmp_path))
    assert parsed == [6]
    path = folder / f"{IDS[4]}.xml"
    path.write_text(path.read_text().replace("<xmin>5<", "<xmin>4<"))
    assert read_truth(tmp_path).boxes_of(4).tolist() == [[4, 5, 5, 5]]
    path.rename(folder / f"{IDS[4]}0.xml")
    assert read_truth(tmp_path).ids == [*IDS[:4], f"{IDS[4]}0", IDS[5]]
    path.write_text("<annotation/>")
    for _ in range(2):
        truth = read_truth(tmp_path, keep_faults=True)
        assert set(truth.faults) == {IDS[4]}
        assert truth.labels.tolist() == [*LABELS[:4], -1, LABELS[4], LABELS[5]]
        assert truth.boxes_of(4).tolist() == []
        assert truth.boxes_of(6).tolist() == [list(map(float, box)) for box in BOXES[5]]
    assert parsed == [6, 6, 6, 7]


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
    with pytest.raises(ValueError, match=r"the list that numbers all 1000 .*LOC_synset_mapping\.txt"):
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
    write_mapping(tmp_path)  # WordNet ids alone do not determine the devkit's ids
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
    with pytest.raises(ValueError, match=r"expected: a list of the devkit ids 1\.\.1000"):
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
    with pytest.raises(ValueError, match=rf"6 of 6 images have a label but no box \(devkit\), e\.g\. {IDS[0]}"):
        Ilsvrc(tmp_path, images=False)


def test_a_file_that_is_not_matlab_is_named(tmp_path: Path) -> None:
    (write_devkit(tmp_path) / "cache_groundtruth.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 500)
    with pytest.raises(ValueError, match=r"cache_groundtruth\.mat: .*expected: a MATLAB file"):
        read_truth(tmp_path)


# --- files that are not what they should be ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "file", "content", "match"),
    [
        ("text", "localization.txt", f"{IDS[0]},1,2,3\n", r"localization\.txt, line 1.*image,x0,y0,x1,y1"),
        ("text", "class_labels.txt", f"{IDS[0]},one\n", r"class_labels\.txt, line 1.*image,index"),
        ("text", "class_labels.txt", f"{IDS[0]},1\n", "5 images have boxes but no label"),
        ("csv", "LOC_val_solution.csv", "ImageId,PredictionString\n\na,n1 2 3\n", r"solution\.csv, line 3"),
        ("csv", "LOC_val_solution.csv", f"a,{WNIDS[0]} 1 2 3 4\n", "header"),
        (
            "csv",
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n" + 2 * f"a,{WNIDS[0]} 1 2 3 4\n",
            "line 3: a occurs here a second time, after line 2",
        ),
        (
            "csv",
            "LOC_val_solution.csv",
            f"ImageId,PredictionString\na,{WNIDS[0]} 1 2 3 4 {WNIDS[1]} 1 2 3 4\n",
            "exactly one",
        ),
        (
            "xml",
            f"ILSVRC/Annotations/CLS-LOC/val/{IDS[0]}.xml",
            "<annotation>",
            r"_00000001\.xml: no element found.*expected: an annotation",
        ),
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
    with pytest.raises(ValueError, match=rf"1 boxes are impossible, .* of {IDS[0]}, an image of 40 x 50"):
        read_truth(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "match"),
    [
        ("class_labels.txt", ",999", ",998", f"the label of 1 images, e.g. {IDS[1]}"),
        ("image_sizes.txt", "40,50", "41,50", f"the size of 1 images, e.g. {IDS[0]}"),
        ("localization.txt", "5,5,5,5", "5,5,5,6", f"1 boxes, e.g. {IDS[4]}"),
        ("localization.txt", "5,5,5,5", f"5,5,5,5\nval/{IDS[4]}.JPEG,5,5,5,5", f"number of boxes of 1 .* {IDS[4]}"),
    ],
)
def test_sources_that_differ_are_told_with_the_image(tmp_path: Path, file: str, old: str, new: str, match: str) -> None:
    write_text(tmp_path)
    before = read_truth(tmp_path)
    (tmp_path / file).write_text((tmp_path / file).read_text().replace(old, new))
    with pytest.raises(ValueError, match=match):
        check_agree(before, read_truth(tmp_path))
    with pytest.raises(ValueError, match="different images: 1"):
        check_agree(before, before.select(range(5)))


# --- images ------------------------------------------------------------------------------------------------------


@needs_shared
def test_the_reference_numbers_classes_as_the_published_boxes_do() -> None:
    reference = Path(SHARED) / "reference"
    truth = read_truth(reference / "ilsvrc_val")
    assert (len(truth.ids), len(truth.boxes)) == (50_000, 80_477)
    assert (truth.ids[0], truth.labels[0]) == ("ILSVRC2012_val_00000001", 65)
    assert truth.synsets.devkit_ids is not None
    labels = truth.synsets.devkit_ids[truth.labels]
    assert labels[0] == 490
    with gzip.open(reference / "cnn_fixations/alexNet.txt.gz", "rt") as lines:
        predicted = np.array([int(line.split()[0]) for line in lines])
    assert round(100 * float(np.mean(predicted != labels)), 2) == 41.64
