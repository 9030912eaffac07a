"""Results of an `Explainer`: what notebooks show, arrays, overlays and their options."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from eigencam.evaluation.maps import ScoreMap
from eigencam.reporting.explained import Explained, Explanation

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
VALUES = np.array([[0.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 4.0, 2.0]], np.float32)


def found(values: np.ndarray = VALUES) -> Explained:
    return Explained(IMAGE, ScoreMap(values, IMAGE.shape[:2]), 3, "gradcam", "<tabby>")


def explanation() -> Explanation:
    return Explanation(IMAGE, np.zeros(5, np.float32), 3, {"gradcam": found()}, {"lrp": "no rule"}, "a & b", "<tabby>")


def test_a_repr_fits_a_line() -> None:
    one, whole = found(), explanation()
    assert repr(one) == "<gradcam for <tabby>: 2 x 4 map of an image 20 x 40, -1 to 4>"
    assert repr(found(np.zeros((1, 1), np.float32))).endswith("0 to 0, constant>")
    assert repr(whole) == "<a & b 20 x 40 for <tabby>: maps by gradcam, refused: lrp>"
    assert repr({"x": one, "y": whole}).count("\n") == 0


def test_what_a_notebook_shows() -> None:
    for shown in (found(), explanation()):
        with Image.open(io.BytesIO(shown._repr_png_())) as figure:
            assert figure.format == "PNG"
    page = explanation()._repr_html_()
    assert page.count("data:image/png;base64,") == 2
    assert "a &amp; b" in page
    assert "&lt;tabby&gt;" in page
    assert "lrp: no rule" in page
    assert "<tabby>" not in page


def test_arrays() -> None:
    one = found()
    np.testing.assert_array_equal(one.raw, VALUES)
    assert one.map.shape == one.normalised.shape == (20, 40)
    assert (one.normalised.min(), one.normalised.max()) == (0, 1)
    np.testing.assert_allclose(one.normalised, np.clip(one.map / one.map.max(), 0, 1))
    assert found(np.full((2, 2), -1, np.float32)).normalised.max() == 0


def test_options_of_an_overlay() -> None:
    one = found()
    plain = np.asarray(one.overlay(box=False))
    assert (np.asarray(one.overlay()) != plain).any()
    np.testing.assert_array_equal(np.asarray(one.overlay(alpha=0, box=False)), IMAGE)
    heat = np.asarray(one.heatmap(colormap="viridis"))
    np.testing.assert_array_equal(np.asarray(one.overlay(alpha=1, colormap="viridis", box=False)), heat)
    np.testing.assert_array_equal(heat, colormaps["viridis"](one.normalised, bytes=True)[..., :3])
    assert one.overlay(size=400).size == (400, 200)
    assert one.overlay(size=(33, 44)).size == one.heatmap(size=(33, 44)).size == (33, 44)
    big = np.asarray(one.overlay(size=400, threshold=0.5)).astype(int)
    blue = (big == (70, 200, 255)).all(2)  # the box's size, enlarged ten times
    x1, y1, x2, y2 = (round(v * 10) for v in one.box(0.5) or ())
    rows, columns = np.flatnonzero(blue.any(1)), np.flatnonzero(blue.any(0))
    assert (columns[0], rows[0]) == (x1, y1)
    assert (columns[-1], rows[-1]) == (x2 + 9, y2 + 9)
    assert np.asarray(one.overlay(threshold=0.15)).tolist() != np.asarray(one.overlay(threshold=0.9)).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colormap": "viridi"}, "colormap='viridi'; allowed are matplotlib's, such as viridis"),
        ({"alpha": 1.5}, "alpha=1.5; allowed: 0"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"threshold": 15}, "threshold=15; allowed: 0 to 1"),
        ({"size": 0}, "size=0; allowed: the longer side"),
        ({"size": (10, 2.5)}, "size="),
        ({"size": (1, 2, 3)}, "size="),
        ({"size": True}, "size=True"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found().overlay(**options)


def test_saving(tmp_path: Path) -> None:
    for name in ("a.png", "b c/d.v2.jpg", "k=1.png", "-e.jpeg"):
        assert found().save(tmp_path / name, size=80).is_file()
        with Image.open(tmp_path / name) as figure:
            assert figure.size == (80, 40)
    assert explanation().save(tmp_path / "grid.png").is_file()
    for name in ("a", "a.xyz", "a.txt"):
        with pytest.raises(ValueError, match=r"a.*; allowed: \.png, \.jpg"):
            found().save(tmp_path / name)


def test_a_method_that_is_not_there() -> None:
    with pytest.raises(KeyError, match="lrp: no rule"):
        explanation()["lrp"]
    with pytest.raises(KeyError, match="there are gradcam"):
        explanation()["gradcan"]
    assert "gradcan" not in explanation()
    assert explanation().get("lrp") is None
