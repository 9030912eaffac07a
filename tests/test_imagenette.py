"""Imagenette: ten ImageNet classes, each in its folder."""

from pathlib import Path

import pytest
from dataset_files import write_image

from eigencam.datasets.imagenette import CLASSES, read_imagenette


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for k, name in enumerate(CLASSES.values()):
        write_image(tmp_path / f"imagenette2/val/{name.split()[0]}/{name.split()[0]}_{k}.JPEG", (20, 30), k)
    return tmp_path


def test_labels_are_those_of_imagenet(root: Path) -> None:
    for place in (root, root / "imagenette2"):
        data = read_imagenette(place)
        assert (data.name, data.class_space, len(data.classes)) == ("imagenette", "imagenet", 1000)
        assert [data.truth(i).label for i in range(10)] == sorted(CLASSES)
        assert data.ids[0] == "n01440764/n01440764_0"
        assert data.classes[701] == "n03888257 parachute"
        assert not data.faults


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"split": "test"}, ValueError, "split=test; allowed: val, train"),
        ({"size": "200px"}, ValueError, "size=200px; allowed: full, 320px, 160px"),
        ({"size": "160px"}, FileNotFoundError, "no .*imagenette2-160/val.*imagenette2.tgz"),
        ({"expect": "full"}, ValueError, "10 images, where a full copy has 3925"),
    ],
)
def test_what_is_refused(root: Path, options: dict[str, str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_imagenette(root, **options)  # type: ignore[arg-type]


def test_offline_the_archive_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(pytest.importorskip("torchvision.datasets"), "Imagenette", offline)
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded to .*no network.*imagenette2\.tgz"):
        read_imagenette(tmp_path, download=True)
