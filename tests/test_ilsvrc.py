import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ilsvrc_files import (
    IDS,
    SHARED,
    SIZES,
    WNIDS,
    WRITERS,
    expected,
    needs_shared,
    write_csv,
    write_images,
    write_text,
    write_xml,
)
from PIL import Image

from eigencam.datasets.base import BadImageError, Dataset
from eigencam.datasets.ilsvrc import Ilsvrc
from eigencam.datasets.ilsvrc_truth import check_agree, read_truth


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_xml(tmp_path)
    write_images(tmp_path / "ILSVRC/Data/CLS-LOC/val")
    return tmp_path


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
    write_images(other / below, class_folders)
    data = Ilsvrc(other)
    assert data.ids == IDS
    assert data.identity() == Ilsvrc(root).identity()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".jpeg"])
def test_other_suffixes_and_a_folder_of_images_elsewhere_are_read(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "truth").mkdir()
    write_text(tmp_path / "truth")
    write_images(tmp_path / "pictures", suffix=suffix)
    data = Ilsvrc(tmp_path / "truth", images=tmp_path / "pictures")
    assert data.image(5).shape == (64, 64, 3)
    assert data.classes[7] == "7"


def test_truth_alone_can_be_had_without_images(tmp_path: Path) -> None:
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


def test_lists_with_unknown_images_or_none_left_are_errors(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("ILSVRC2012_val_00000007\n")
    with pytest.raises(ValueError, match=r"list\.txt: 1 of 1 ids have no truth"):
        Ilsvrc(root, subset=file)
    file.write_text("0\n")
    with pytest.raises(ValueError, match=r"image number 0; allowed are 1\.\.50000"):
        Ilsvrc(root, blacklist=file)
    file.write_text("1\n2\n3\n4\n5\n6\n")
    with pytest.raises(ValueError, match="no image is left of 6"):
        Ilsvrc(root, blacklist=file)
    with pytest.raises(FileNotFoundError, match="no such file; expected: a list of images"):
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


def test_missing_images_are_counted_and_can_be_left_out(root: Path) -> None:
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


def test_images_without_truth_are_not_left_out_silently(root: Path) -> None:
    (root / "ILSVRC/Annotations/CLS-LOC/val" / f"{IDS[3]}.xml").unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of 6 ILSVRC images have no truth \(xml\), e\.g\. {IDS[3]}"):
        Ilsvrc(root)
    assert len(Ilsvrc(root, allow_missing=True).ids) == 5


def test_two_files_for_an_image_are_an_error(root: Path) -> None:
    write_images(root / "ILSVRC/Data/CLS-LOC/val", class_folders=True)
    with pytest.raises(ValueError, match="two files for ILSVRC2012_val_0000000"):
        Ilsvrc(root)


def test_several_roots_are_joined_by_id(tmp_path: Path) -> None:
    (tmp_path / "b/a").mkdir(parents=True)  # one inside the other
    for place, names in (("b", IDS[:3]), ("b/a", IDS[3:])):
        write_xml(tmp_path / place)
        write_images(tmp_path / place / "val")
        for name in set(IDS) - set(names):
            (tmp_path / place / "ILSVRC/Annotations/CLS-LOC/val" / f"{name}.xml").unlink()
            (tmp_path / place / "val" / f"{name}.JPEG").unlink()
    data = Ilsvrc(f"{tmp_path / 'b/a'}:{tmp_path / 'b'}")
    assert data.ids == IDS
    expected(data.annotation)
    assert [data.truth(i).size for i in range(6)] == SIZES
    assert data.identity() == Ilsvrc([tmp_path / "b", tmp_path / "b/a"]).identity()
    with pytest.raises(ValueError, match=r"3 images are in two of the roots"):
        Ilsvrc([tmp_path / "b", tmp_path / "b"])


@pytest.mark.parametrize("source", ["xml", "csv"])
def test_resized_images_with_boxes_of_the_originals_are_found_at_once(root: Path, source: str) -> None:
    write_csv(root)
    for path in (root / "ILSVRC/Data/CLS-LOC/val").iterdir():
        Image.new("RGB", (28, 28)).save(path)
    with pytest.raises(ValueError, match=r"28 x 28 pixels, its truth .* use the original images"):
        Ilsvrc(root, source=source)  # type: ignore[arg-type]


def test_an_image_in_another_class_s_folder_is_an_error(root: Path) -> None:
    folder = root / "ILSVRC/Data/CLS-LOC/val"
    (folder / WNIDS[3]).mkdir()
    (folder / f"{IDS[0]}.JPEG").rename(folder / WNIDS[3] / f"{IDS[0]}.JPEG")
    with pytest.raises(ValueError, match=f"another class's folder: its truth says {WNIDS[65]}"):
        Ilsvrc(root)


def test_a_broken_image_is_left_to_the_run(root: Path) -> None:
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
@pytest.mark.parametrize(("roots", "n"), [([""], 99), (["val227"], 980), (["", "val227"], 1079)])
def test_the_real_images_are_read(roots: list[str], n: int) -> None:
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
