"""`eigencam explain`: a user's own images and network, and a dataset's images."""

import re
from pathlib import Path
from typing import Any

import detectors
import numpy as np
import pytest
from PIL import Image

from eigencam import Explainer
from eigencam.commands.main import main
from eigencam.datasets.scenes_objects import CLASSES
from eigencam.networks.network import Preprocess
from eigencam.networks.weights import weight_file
from eigencam.reporting.explained_dataset import spread

OWN = """from torch import nn
import torch

def build():
    torch.manual_seed(3)
    parts = nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*parts)
"""


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").convert("RGB").save("photo.png")
    Path("empty").mkdir()
    return "photo.png"


def explain(*arguments: str) -> int:
    return main(["explain", *arguments, "device=cpu"])


def made(folder: str = "explained") -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


@pytest.mark.full
def test_a_persons_own_images(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "scenes_resnet", "--method", "eigencam,gradcam,cam"]
    assert explain(photo, *options, "--class", "2", "model.preprocess.size=96") == 0
    assert made() == {f"photo-scenes_resnet{end}" for end in (".jpg", "-eigencam.png", "-gradcam.png", "-cam.png")}
    with Image.open("explained/photo-scenes_resnet-cam.png") as overlay:
        assert overlay.size == (256, 256)
    assert "photo-scenes_resnet-cam.png  photo, " in capsys.readouterr().out
    assert explain(photo, photo, *options, "--out", "two") == 0
    assert "grid-scenes_resnet.jpg" in made("two")


@pytest.mark.full
def test_a_datasets_images(photo: str) -> None:
    assert explain("--model", "scenes_resnet", "--images", "2", "dataset.count=5") == 0
    assert made() == {"scenes-scenes_resnet.jpg"}
    assert [spread(n, 3) for n in (0, 2, 6)] == [[], [0, 1], [1, 3, 5]]


@pytest.mark.full
def test_weights_of_a_file(photo: str) -> None:
    file = weight_file("eigencam:scenes_vgg.safetensors")
    shown = []
    for given in (["--weights", str(file)], [f"model.weights={file}"], ["model.weights=null"], []):
        assert explain(photo, "--model", "scenes_vgg", "--method", "eigencam", *given) == 0
        shown.append(Path("explained/photo-scenes_vgg-eigencam.png").read_bytes())
    assert shown[0] == shown[1] == shown[3] != shown[2]


@pytest.mark.full
def test_a_network_and_a_method_of_ones_own(photo: str) -> None:
    Path("explain_own.py").write_text(OWN)
    Path("explain_norm.py").write_text("def explain_norm(f, targets):\n    return f.activations().square().sum(1)\n")
    own = ["--model", "explain_own.build", "model.layer=1", "model.preprocess.size=32"]
    assert explain(photo, *own, "--method", "eigencam,explain_norm.py") == 0
    assert made() == {"photo-build.jpg", "photo-build-eigencam.png", "photo-build-explain_norm.png"}
    from explain_own import build  # pyright: ignore[reportMissingImports]

    found = Explainer(build(), "1", preprocess=Preprocess(size=32))(photo, ["eigencam"])
    with Image.open("explained/photo-build-eigencam.png") as shown:
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(found["eigencam"].overlay()))


NAMES = ("a=1.png", "-dash.png", "two words.png", "dots.v2.jpeg", "ümlaut.png")


@pytest.mark.full
def test_files_of_any_name_and_a_folder(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos").mkdir()
    Path("photos/broken.png").write_text("no image")
    Path("photos/.hidden.png").write_text("no image")
    for name in NAMES:
        for folder in (".", "photos"):
            Image.radial_gradient("L").resize((40, 30)).save(Path(folder) / name)
    options = ["--model", "scenes_resnet", "--method", "eigencam"]
    expected = {f"{Path(name).stem}-scenes_resnet-eigencam.png" for name in NAMES}
    assert explain(*NAMES, *options) == 0
    assert made() == {*expected, "grid-scenes_resnet.jpg"}
    assert explain("photos", *options, "--out", "of folder") == 0
    assert made("of folder") == {*expected, "grid-scenes_resnet.jpg"}
    assert "left out: photos/broken.png" in capsys.readouterr().out


@pytest.mark.full
def test_a_class_by_its_name_and_an_upright_image(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.radial_gradient("L").crop((0, 0, 200, 100)).convert("RGB").save("turned.png", exif=exif)
    options = ["turned.png", "--model", "scenes_resnet", "--method", "gradcam", "model.preprocess.size=64"]
    assert explain(*options, "--class", CLASSES[2].title(), "--out", "by name") == 0
    number = 2
    assert explain(*options, "--class", str(number), "--upright", "--out", "by number") == 0
    sizes = []
    for folder in ("by name", "by number"):
        with Image.open(f"{folder}/turned-scenes_resnet-gradcam.png") as figure:
            sizes.append(figure.size)
    assert sizes == [(200, 100), (100, 200)]


@pytest.mark.full
@pytest.mark.parametrize(
    ("network", "target", "label", "found"),
    [
        ("faster_rcnn", "box:0", "box_0", r"label \d \(\w+\) at \d+\.\d \d+\.\d \d+\.\d \d+\.\d"),
        ("ssd", "box:1", "box_1", r"label \d \(\w+\) at \d+\.\d \d+\.\d \d+\.\d \d+\.\d"),
        ("deeplab", "segment:3", "segment_3", r"label 3 \(deer\) at \d+\.\d% of the pixels"),
    ],
)
def test_a_target_of_a_detector(photo: str, network: str, target: str, label: str, found: str, capsys: Any) -> None:
    build = f"def {network}():\n    made = detectors.{network}()\n    made.categories = ['ant', 'bee', 'cat', 'deer']\n"
    Path(f"named_{network}.py").write_text(f"import detectors\n\n{build}    return made\n")
    common = ["--model", f"named_{network}.{network}", f"model.layer={detectors.LAYERS[network]}", "--method"]
    shape = ["model.preprocess.size=64"]
    assert explain(photo, *common, "eigencam,gradcam", *shape, "--target", target) == 0
    name = f"photo-{network}"
    assert made() == {f"{name}.jpg", *(f"{name}-{method}-{label}.png" for method in ("eigencam", "gradcam"))}
    assert re.search(rf"{label.replace('_', ' ')}: [\d.e-]+, {found}, box of the map", capsys.readouterr().out)
    assert explain(photo, *common, "eigencam,gradcam", *shape, "--out", "without") == 0
    assert made("without") == {f"{name}.jpg", f"{name}-eigencam.png"}
    assert "gradcam left out: the network returns" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["photo.png", "--model", "scenes_resnet", "--class", "12"],
            "class 12 was requested of scenes_resnet; it has 0 to",
        ),
        (["none.jpg"], "no such image: none.jpg"),
        (["--model", "scenes_resnet", "--images", "0"], "--images 0; allowed: 1 or more"),
        (["photo.png", "--model", "resnet5"], "model is one of: acol, alexnet,"),
        (
            ["photo.png", "--model", "scenes_vgg", "--weights", "it's not, there.pth"],
            "it's not, there.pth: no such file",
        ),
        (["photo.png", "--model", "scenes_vgg", "--method", "center_windows"], "returns boxes"),
        (["photo.png", "--model", "scenes_resnet", "--class", "baloon"], "no class of this name; near: balloon"),
        (["photo.png", "--model", "scenes_resnet", "--class", "2.0"], "target='2.0': no class of this name"),
        (["photo.png", "a=b.jpg"], "no such image: a=b.jpg"),
        (["photo.png", "--target", "box:-1"], "--target box:-1; allowed: class:K, box:NUMBER, box:x1,y1,x2,y2"),
        (["photo.png", "--target", "box:1,2"], "--target box:1,2; allowed: "),
        (["photo.png", "--target", "box:3,3,1,1"], "x1 y1 x2 y2 with x1<x2"),
        (
            ["photo.png", "--model", "scenes_vgg", "--target", "box:0"],
            "the target is a box, and the network returns Tensor",
        ),
        (["empty"], "empty: no image files; looked for .jpg"),
    ],
)
def test_faults_are_told(photo: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert explain(*arguments) == 2
    assert message in capsys.readouterr().err
