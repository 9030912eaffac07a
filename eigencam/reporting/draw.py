"""Figures of maps: heat maps, overlays and grids (image, truth, one column per method)."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eigencam.datasets.base import VOID, Truth
from eigencam.datasets.names import JPEG, PNG
from eigencam.evaluation.maps import ScoreMap, box_of
from eigencam.files import replacing

RGB = NDArray[np.uint8]
GREEN, BLUE, VIOLET = (40, 220, 90), (70, 200, 255), (190, 90, 255)
INK, PAPER = (25, 25, 30), (255, 255, 255)
THRESHOLD = 0.15
"""Share of the maximum above which a map's box is drawn, unless another is given; as in Grad-CAM."""
COLORMAP = "inferno"
"""The colours of maps everywhere, unless another name is given."""


def heat(score_map: ScoreMap, colormap: str = COLORMAP) -> RGB:
    """(H, W, 3) uint8 RGB: the map in colours, from 0 to its maximum.

    Args:
        score_map: shown as a fraction of its maximum, negative values as zero.
        colormap: a name of a matplotlib colour map.

    Raises:
        ValueError: there is no such colour map; similar names are listed.
    """
    if colormap not in colormaps:
        near = difflib.get_close_matches(str(colormap), list(colormaps)) or [COLORMAP, "viridis", "jet", "turbo"]
        raise ValueError(f"colormap={colormap!r}; allowed are matplotlib's, such as {', '.join(near)}")
    return colormaps[colormap](fraction(score_map), bytes=True)[..., :3]


def fraction(score_map: ScoreMap) -> NDArray[np.float32]:
    """(H, W) float32 in 0..1: the map at the image's size as a fraction of its maximum, negative values as zero."""
    return np.clip(score_map.full / max(score_map.peak, np.finfo(np.float32).tiny), 0, 1)


def overlay(image: RGB, score_map: ScoreMap, *, alpha: float = 0.55, colormap: str = COLORMAP) -> RGB:
    """Return the image with the map's heat over it.

    Args:
        image: (H, W, 3) uint8 RGB.
        score_map: of this image; see `heat`.
        alpha: opacity of the heat, 0..1.
        colormap: see `heat`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: an invalid `alpha` or `colormap`.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha!r}; allowed: 0 (the image alone) to 1 (the heat alone)")
    colour = heat(score_map, colormap).astype(np.float64)
    grey = min(alpha, 0.5)  # the image's own colours are dimmed to make the heat visible
    base = image.mean(2, keepdims=True) * grey + image * (1 - grey)
    return (base * (1 - alpha) + colour * alpha).round().astype(np.uint8)


def resized(image: RGB, score_map: ScoreMap, size: int | tuple[int, int]) -> tuple[RGB, ScoreMap]:
    """Return an image and its map at another size.

    Args:
        image: (H, W, 3) uint8 RGB.
        score_map: of this image.
        size: the longer side, or (width, height), in pixels.
    """
    height, width = image.shape[:2]
    if isinstance(size, int):
        scale = size / max(height, width)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
    x, y = size[0] / width, size[1] / height
    x0, y0, x1, y1 = score_map.region or (0.0, 0.0, float(width), float(height))
    region = x0 * x, y0 * y, x1 * x, y1 * y
    shown = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(shown), ScoreMap(score_map.values, (size[1], size[0]), region)


def with_boxes(image: RGB, boxes: NDArray[np.float64], colour: tuple[int, int, int]) -> RGB:
    """The image with (B, 4) inclusive boxes drawn in; NaN boxes are skipped."""
    drawn = Image.fromarray(image)
    draw = ImageDraw.Draw(drawn)
    width = max(1, round(max(image.shape) / 90))
    for box in np.atleast_2d(boxes):
        if np.isfinite(box).all():
            draw.rectangle(tuple(box), outline=colour, width=width)
    return np.asarray(drawn)


def with_truth(image: RGB, truth: Truth) -> RGB:
    """The image with everything but the target objects' mask dimmed, and their boxes drawn."""
    if truth.mask is not None:
        bright = Image.fromarray(truth.sought_pixels()).resize(image.shape[1::-1], Image.Resampling.NEAREST)
        image = np.where(np.asarray(bright)[..., None], image, (image * 0.35).astype(np.uint8))
    return with_boxes(image, truth.boxes[truth.sought()], GREEN)


def with_all_truth(image: RGB, truth: Truth) -> RGB:
    """The image as `with_truth` shows it, void pixels in violet, and the boxes of the other objects in blue."""
    shown = with_truth(image, truth)
    if truth.mask is not None and truth.mask.shape == shown.shape[:2]:
        shown = np.where((truth.mask == VOID)[..., None], (shown // 2 + np.array(VIOLET) // 2).astype(np.uint8), shown)
    return with_boxes(shown, truth.boxes[~truth.sought()], BLUE)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a grid: an image, its ground truth (or None), one map per method, a caption, an explained box."""

    image: RGB
    truth: Truth | None
    maps: Mapping[str, ScoreMap]
    caption: str
    box: tuple[float, float, float, float] | None = None


def grid(lines: Sequence[Line], *, height: int = 150, gap: int = 6) -> Image.Image:
    """Image, truth, then one column per method: map, its box (15 % of the maximum) in blue, the truth's in green.

    The box of an explained detection is green, too.

    Args:
        lines: with the same methods.
        height: of each image in the grid, pixels.
        gap: between images, pixels.
    """
    methods = list(lines[0].maps)
    columns = ["image", *(["truth"] if any(line.truth for line in lines) else []), *methods]
    width = round(height * 1.25)
    font = ImageFont.load_default(size=13)
    top, left = 24, 8
    size = (left + len(columns) * (width + gap), top + len(lines) * (height + gap + 18))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, name in enumerate(columns):
        draw.text((left + c * (width + gap) + width / 2, 5), name, INK, font, anchor="ma")
    for r, line in enumerate(lines):
        y = top + r * (height + gap + 18)
        asked = np.reshape(np.array(line.box or (), np.float64), (-1, 4))
        cells = {"image": with_boxes(line.image, asked, GREEN)}
        if line.truth:
            cells["truth"] = with_truth(line.image, line.truth)
        for name in methods:
            score_map = line.maps[name]
            shown = with_boxes(overlay(line.image, score_map), asked, GREEN)
            if line.truth:
                shown = with_boxes(shown, line.truth.boxes[line.truth.sought()], GREEN)
            cells[name] = with_boxes(shown, box_of(score_map, "max", THRESHOLD), BLUE)
        for c, name in enumerate(columns):
            if name in cells:
                cell = Image.fromarray(cells[name])
                cell.thumbnail((width, height), Image.Resampling.LANCZOS)
                cell = cell if cell.height == height or cell.width == width else _enlarged(cell, width, height)
                x = left + c * (width + gap) + (width - cell.width) // 2
                sheet.paste(cell, (x, y + (height - cell.height) // 2))
        draw.text((left, y + height + 3), line.caption, INK, font)
    return sheet


def sheet(cells: Sequence[tuple[RGB, str]], *, columns: int = 4, height: int = 200, gap: int = 8) -> Image.Image:
    """Images side by side with a caption below each.

    Args:
        cells: images (H, W, 3) uint8, and their captions.
        columns: number of images in a row.
        height: of each, pixels.
        gap: between images, pixels.
    """
    width, words = round(height * 1.25), 18
    font = ImageFont.load_default(size=12)
    rows = -(-len(cells) // columns)
    made = Image.new("RGB", (gap + columns * (width + gap), gap + rows * (height + words + gap)), PAPER)
    draw = ImageDraw.Draw(made)
    for k, (image, caption) in enumerate(cells):
        x, y = gap + k % columns * (width + gap), gap + k // columns * (height + words + gap)
        cell = Image.fromarray(image)
        cell.thumbnail((width, height), Image.Resampling.LANCZOS)
        cell = cell if cell.height == height or cell.width == width else _enlarged(cell, width, height)
        made.paste(cell, (x + (width - cell.width) // 2, y + (height - cell.height) // 2))
        while caption and draw.textlength(caption, font) > width:
            caption = caption.removesuffix("…")[:-1] + "…"
        draw.text((x, y + height + 2), caption, INK, font)
    return made


def _enlarged(cell: Image.Image, width: int, height: int) -> Image.Image:
    scale = min(width / cell.width, height / cell.height)
    return cell.resize((round(cell.width * scale), round(cell.height * scale)), Image.Resampling.BICUBIC)


def save(image: Image.Image | RGB, path: Path) -> Path:
    """Write a PNG or JPEG, by the suffix; the folder is made if necessary."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if path.suffix.lower() not in (*JPEG, *PNG):
        raise ValueError(f"{path}: a figure is written as PNG or JPEG; allowed: {', '.join((*PNG, *JPEG))}")
    with replacing(path) as beside:
        image.save(beside, quality=92, subsampling=0)  # Pillow ignores options that a format does not use
    return path
