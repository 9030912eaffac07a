"""Images of every form: files, Pillow images, arrays, tensors, batches, folders, frames."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eigencam import Explainer
from eigencam.datasets.base import BadImageError
from eigencam.datasets.decoding import read_rgb
from eigencam.networks.image_inputs import pixels_of
from eigencam.networks.network import Preprocess
from eigencam.running.named_methods import as_methods

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
GREY = RGB[..., 0]
ALPHA = RGB[..., 1]
RGBA = np.dstack([RGB, ALPHA])
REPEATED = np.repeat(GREY[..., None], 3, 2)
WIDE = GREY.astype(np.uint16) << 8 | 77
CHW = torch.from_numpy(RGB).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (RGB, RGB),
        (RGB[:, ::-1], RGB[:, ::-1]),  # a view with negative steps
        (RGB / np.float32(255), RGB),
        ((RGB / 255).astype(np.float16).astype(np.float64), RGB),
        (RGB.astype(np.uint16) << 8 | 255, RGB),
        (RGBA, RGB),
        (RGBA / 255, RGB),
        (GREY, REPEATED),
        (GREY[..., None], REPEATED),
        (WIDE, REPEATED),
        (WIDE[..., None], REPEATED),
        (WIDE.astype(">u2"), REPEATED),
        (GREY / 255, REPEATED),
        (GREY > 127, np.where(REPEATED > 127, 255, 0)),
        (CHW, RGB),
        (CHW[None], RGB),
        (CHW / 255, RGB),
        ((CHW / 255).double(), RGB),
        (torch.from_numpy(RGBA).permute(2, 0, 1), RGB),
        (torch.from_numpy(GREY), REPEATED),
        (torch.from_numpy(GREY)[None], REPEATED),
        (torch.from_numpy(WIDE.astype(np.uint16))[None], REPEATED),
        (CHW.to(memory_format=torch.contiguous_format).requires_grad_(False), RGB),
    ],
)
def test_arrays_and_tensors(form: Any, expected: np.ndarray) -> None:
    found = pixels_of(form)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous


def floats(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.float32))


@pytest.mark.parametrize(
    ("suffix", "image"),
    [
        (".png", Image.fromarray(RGB)),
        (".png", Image.fromarray(RGBA)),
        (".png", Image.fromarray(GREY)),
        (".png", Image.fromarray(np.dstack([GREY, ALPHA]))),
        (".png", Image.fromarray(GREY > 127)),
        (".png", Image.fromarray(RGB).quantize(16)),
        (".png", Image.fromarray(WIDE)),
        (".tif", Image.fromarray(WIDE)),
        (".tif", Image.fromarray(WIDE.astype(np.int32))),
        (".tif", floats(GREY / 255)),
        (".tif", Image.fromarray(RGB).convert("CMYK")),
        (".tif", Image.fromarray(RGB).convert("YCbCr")),
    ],
    ids=lambda value: getattr(value, "mode", value),
)
def test_an_object_gives_what_its_file_gives(tmp_path: Path, suffix: str, image: Image.Image) -> None:
    path = tmp_path / f"a{suffix}"
    image.save(path)
    np.testing.assert_array_equal(pixels_of(image), read_rgb(path))
    np.testing.assert_array_equal(pixels_of(str(path)), read_rgb(path))
    assert read_rgb(path).std() > 30  # neither black nor white


@pytest.mark.parametrize("mode", ["HSV", "RGBa", "RGBX", "La", "PA", "I;16", "I;16B"])
def test_modes_that_no_file_has(mode: str) -> None:
    steps = {"La": "LA", "RGBa": "RGBA", "PA": "P"}
    image = Image.fromarray(WIDE) if mode == "I;16" else Image.fromarray(RGB)
    image = Image.new(mode, (3, 2), 77 << 8) if mode == "I;16B" else image.convert(steps.get(mode, mode)).convert(mode)
    assert pixels_of(image).shape == (*image.size[::-1], 3)
    assert pixels_of(image).max() > 0


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (CHW.float(), r"values from 0 to 255; allowed are 8 bits"),
        ((CHW / 255 - 0.5) * 4, r"values from -\d.* allowed are 8 bits"),
        (np.full((4, 4), np.nan), "values from nan"),
        (np.full((4, 4), 1.0000001), r"values from 1\.0000001 to 1\.0000001; "),
        (GREY.astype(np.uint16), "of type uint16: 8 bits or 16"),
        (np.ma.masked_greater(RGB, 9), "masked array"),
        (CHW.to_sparse(), "a sparse tensor"),
        (CHW.to("meta"), "a meta tensor"),
        (RGB.astype(np.int64), "of type int64: 8 bits or 16"),
        (Image.fromarray(GREY).convert("I"), "of type int32: 8 bits or 16"),
        (floats(GREY), "floating-point values from 0 to 255"),
        (RGB.astype(object), "type object"),
        (RGB.astype(complex), "type complex"),
        (np.zeros((0, 4, 3), np.uint8), "allowed: a file"),
        (np.zeros((4, 4, 2), np.uint8), "2 channels for a network of 3"),
        (np.moveaxis(RGB, 2, 0), r"30 channels .* an array \(H, W, C\)"),
        (torch.from_numpy(RGB), r"20 channels .* a tensor is \(C, H, W\)"),
        (torch.zeros(2, 3, 4, 4), r"a batch of 2 images .*explain.each"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"a batch of 2 images .*explain.each"),
        (torch.zeros(2, 2, 3, 4, 4), "allowed: a file"),
        ([RGB], "an image as list"),
        (None, "an image as NoneType"),
    ],
)
def test_what_is_no_image_is_told(form: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixels_of(form)


@pytest.mark.parametrize("state", ["truncated", "closed"])
def test_an_opened_image_that_cannot_be_decoded(tmp_path: Path, state: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    if state == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    with Image.open(path) as image:
        if state == "closed":
            image.close()
        with pytest.raises(BadImageError, match=r"^image: "):
            pixels_of(image)


@pytest.mark.parametrize("form", [RGB, RGBA, GREY, Image.fromarray(RGB), Image.fromarray(RGBA), CHW / 255])
def test_networks_of_one_and_four_channels(form: Any) -> None:
    grey, four = pixels_of(form, 1), pixels_of(form, 4)
    assert (grey.shape, four.shape) == ((20, 30, 1), (20, 30, 4))
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(pixels_of(form)).convert("L")))
    np.testing.assert_array_equal(four[..., :3], pixels_of(form))
    has_alpha = np.shape(form)[-1] == 4
    np.testing.assert_array_equal(four[..., 3], ALPHA if has_alpha else np.full((20, 30), 255))


def test_a_network_of_another_number_of_channels() -> None:
    six = np.dstack([RGB, RGB])
    np.testing.assert_array_equal(pixels_of(six, 6), six)
    with pytest.raises(ValueError, match="3 channels for a network of 6"):
        pixels_of(RGB, 6)


def small() -> Explainer:
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    return Explainer(nn.Sequential(*parts), "1", preprocess=Preprocess(size=16))


def turned(path: Path, tag: int) -> Path:
    exif = Image.Exif()
    exif[274] = tag
    Image.fromarray(RGB).save(path, exif=exif)
    return path


@pytest.mark.parametrize("tag", range(1, 9))
def test_exif_orientation_by_option(tmp_path: Path, tag: int) -> None:
    from PIL import ImageOps

    path = turned(tmp_path / "a.png", tag)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(pixels_of(image, turn=True), expected)
    np.testing.assert_array_equal(pixels_of(path, turn=True), expected)
    np.testing.assert_array_equal(pixels_of(path), RGB)


def test_an_orientation_that_is_not_followed_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    explain, upright = small(), small()
    upright._upright = True
    with caplog.at_level(logging.WARNING):
        explain(turned(tmp_path / "plain.png", 1), "eigencam")
        assert not caplog.messages
        for name in ("a.png", "b.png"):
            explain(turned(tmp_path / name, 6), "eigencam")
            assert upright(tmp_path / name, "eigencam").image.shape == (30, 20, 3)
    assert len(caplog.messages) == 1
    assert "a.png: used as stored" in caplog.messages[0]


def test_several_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    explain = small()
    alone = explain(RGB, "eigencam")["eigencam"].raw
    names = ("b 1.png", "a.v2.jpg", "c=1.png", "-d.png")
    for name in names:
        Image.fromarray(RGB).save(tmp_path / name, quality=100, subsampling=0)
    (tmp_path / ".hidden.png").write_text("")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "broken.png").write_text("no image")
    forms: list[Any] = [
        [RGB, CHW, Image.fromarray(RGB), tmp_path / "b 1.png"],
        np.stack([RGB, RGB]),
        torch.stack([CHW, CHW, CHW]),
        (frame for frame in [RGB, RGB]),
        RGB,
        CHW,
        Image.fromarray(RGB),
        tmp_path / "c=1.png",
    ]
    counts = []
    for form in forms:
        found = list(explain.each(form, "eigencam"))
        counts.append(len(found))
        for one in found:
            np.testing.assert_allclose(one["eigencam"].raw, alone, atol=1e-5)
    assert counts == [4, 2, 3, 2, 1, 1, 1, 1]
    with caplog.at_level(logging.WARNING):
        assert [one.name for one in explain.each(tmp_path, "eigencam")] == ["-d", "a.v2", "b 1", "c=1"]
    assert "broken.png" in caplog.text
    with pytest.raises(BadImageError, match=r"broken\.png"):
        list(explain.each([tmp_path / "broken.png"], "eigencam"))
    for other in (3, {"a": RGB}, b"image"):
        with pytest.raises(ValueError, match=rf"images as {type(other).__name__}; allowed: a folder"):
            list(explain.each(other))  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image files"):
        list(explain.each(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError):
        list(explain.each(tmp_path / "none"))


def test_images_that_share_a_pass_have_the_maps_that_they_have_alone(tmp_path: Path) -> None:
    explain, random = small(), np.random.default_rng(5)
    shapes = ((60, 40, 3), (33, 80, 3), (64, 64, 3), (20, 30, 3))
    images, passes = [random.integers(0, 256, shape, np.uint8) for shape in shapes], list[int]()

    def shaped(forward: Any, _targets: torch.Tensor) -> torch.Tensor:
        passes.append(len(forward))
        areas = [forward.original(n).shape[0] * forward.original(n).shape[1] for n in range(len(forward))]
        return torch.tensor(areas)[:, None, None].expand(-1, 2, 2).float()

    methods = as_methods(["eigencam", "gradcam", "random"]) | {"shaped": shaped}
    for target in (None, 1):
        alone = [explain(image, methods, target=target) for image in images]
        passes.clear()
        together = list(explain.each(images, methods, target=target, batch_size=3))
        assert passes == [3, 1]
        for one, other, image in zip(alone, together, images, strict=True):
            assert (one.target, one.label) == (other.target, other.label)
            assert other["shaped"].raw[0, 0] == image.shape[0] * image.shape[1]
            assert other["gradcam"].map.shape == image.shape[:2]
            np.testing.assert_allclose(other.logits, one.logits, atol=1e-5)
            for name in methods:
                np.testing.assert_allclose(other[name].raw, one[name].raw, atol=1e-5)
    read, passes[:] = iter(images), []
    frames = explain.each((image for image in read), methods, batch_size=2)
    next(frames)
    assert (len(list(read)), passes) == (2, [2])
    ofs = [one.score for one in explain.each(images, "gradcam", target=lambda logits: logits[:, 1], batch_size=3)]
    np.testing.assert_allclose(ofs, [one.logits[1] for one in alone], atol=1e-5)
    with pytest.raises(ValueError, match="batch_size=0; allowed: 1, 2"):
        list(explain.each(images, batch_size=0))
