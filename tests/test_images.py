import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eigencam.datasets.base import BadImageError
from eigencam.datasets.decoding import image_size, read_mask, read_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_rgb_is_read_exactly_and_writable(tmp_path: Path) -> None:
    pixels = read_rgb(save(tmp_path / "a.png", Image.fromarray(PIXELS)))
    np.testing.assert_array_equal(pixels, PIXELS)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable


def test_a_png_named_jpeg_is_read_by_its_content(tmp_path: Path) -> None:
    path = save(tmp_path / "a.JPEG", Image.fromarray(PIXELS), format="PNG")
    np.testing.assert_array_equal(read_rgb(path), PIXELS)
    assert image_size(path) == (12, 20)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_not_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    plain = save(tmp_path / "plain.jpg", Image.fromarray(PIXELS))
    turned = save(tmp_path / "turned.jpg", Image.fromarray(PIXELS), exif=exif)
    np.testing.assert_array_equal(read_rgb(turned), read_rgb(plain))
    assert image_size(turned) == (12, 20)


def test_grey_is_repeated(tmp_path: Path) -> None:
    grey = PIXELS[..., 0]
    pixels = read_rgb(save(tmp_path / "a.png", Image.fromarray(grey)))
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    pixels = read_rgb(save(tmp_path / "a.png", Image.fromarray(PIXELS[..., 0] > 127)))
    np.testing.assert_array_equal(pixels[..., 1], np.where(PIXELS[..., 0] > 127, 255, 0))


def test_of_16_bits_the_upper_eight_are_kept(tmp_path: Path) -> None:
    wide = np.arange(240, dtype=np.uint16).reshape(12, 20) * 273
    pixels = read_rgb(save(tmp_path / "a.png", Image.fromarray(wide)))
    np.testing.assert_array_equal(pixels[..., 2], wide // 256)


def test_cmyk_jpeg_has_the_colours_of_its_rgb_original(tmp_path: Path) -> None:
    colours = np.zeros((16, 48, 3), np.uint8)
    colours[:, :16, 0] = colours[:, 16:32, 1] = colours[:, 32:, 2] = 255
    path = save(tmp_path / "a.jpg", Image.fromarray(colours).convert("CMYK"), quality=100)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    assert np.abs(read_rgb(path).astype(int) - colours).mean() < 4


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_not_blended(tmp_path: Path, mode: str) -> None:
    opaque = Image.fromarray(PIXELS).convert(mode[:-1])
    clear = opaque.copy()
    clear.putalpha(0)
    np.testing.assert_array_equal(read_rgb(save(tmp_path / "a.png", clear)), np.array(opaque.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes(range(16))])
def test_a_palette_gives_its_colours_and_transparency_no_warning(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.fromarray(PIXELS).quantize(16)
    path = save(tmp_path / "a.png", image, transparency=transparency)
    np.testing.assert_array_equal(read_rgb(path), np.array(image.convert("RGB")))


def test_damaged_exif_is_no_fault_of_the_image_and_no_warning(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x1a\x01\x05\0\x01\0\0\0\xff\xff\xff\x7f"
    path = save(tmp_path / "a.jpg", Image.fromarray(PIXELS), exif=exif)
    assert read_rgb(path).shape == (12, 20, 3)


def jpeg(size: tuple[int, int] = (200, 300)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "not an image"),
        (jpeg()[: len(jpeg()) // 2], "truncated"),
        (jpeg()[:100], "Truncated"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "not an image"),
    ],
    ids=["empty", "text", "half", "header only", "broken PNG"],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.JPEG"
    path.write_bytes(content)
    with pytest.raises(BadImageError, match=reason) as caught:
        read_rgb(path)
    assert caught.value.path == path
    assert str(path) in str(caught.value)


def test_a_truncated_image_still_tells_its_size(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(jpeg()[:20_000])
    assert image_size(path) == (200, 300)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    for limit in (150, 10):  # Pillow warns up to twice its limit, and raises beyond that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(BadImageError, match="bomb"):
            read_rgb(path)


def test_a_missing_file_is_not_a_bad_image(tmp_path: Path) -> None:
    for read in (read_rgb, read_mask, image_size):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.jpg")


def test_reading_leaves_the_warning_filters_alone(tmp_path: Path) -> None:
    path, before = save(tmp_path / "a.png", Image.fromarray(PIXELS)), list(warnings.filters)
    read_rgb(path)
    assert list(warnings.filters) == before


def test_a_mask_is_read_as_indices_from_palette_and_grey_alike(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette([value for k in range(256) for value in (k, 255 - k, 7)])
    for name, image in (("p.png", palette), ("l.png", Image.fromarray(indices))):
        mask = read_mask(save(tmp_path / name, image))
        np.testing.assert_array_equal(mask, indices)
        assert mask.dtype == np.uint8


def test_a_mask_painted_in_rgb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode 'RGB'"):
        read_mask(save(tmp_path / "a.png", Image.fromarray(PIXELS)))
