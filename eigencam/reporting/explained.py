"""Results of an `Explainer`: the maps of one image, to view, save and read as arrays."""

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eigencam.datasets.base import Truth
from eigencam.datasets.reading import expand
from eigencam.evaluation.maps import ScoreMap, box_of
from eigencam.reporting import draw
from eigencam.targets import Prediction, Target

LAST_PIXEL = np.array([0, 0, 1, 1])
"""Offset from inclusive corners to half-open ones."""


@dataclass(frozen=True, slots=True, repr=False)
class Explained:
    """One method's map of one image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        score_map: the raw map, and the part of the image that it covers.
        target: the class, or the function of the network's output, that it is for; None for class-agnostic maps.
        method: its name.
        label: the target in words.
    """

    image: NDArray[np.uint8]
    score_map: ScoreMap
    target: int | Target | None
    method: str = "map"
    label: str = ""

    @property
    def raw(self) -> NDArray[np.float32]:
        """(h, w), as the method returned it."""
        return np.asarray(self.score_map.values, np.float32)

    @property
    def map(self) -> NDArray[np.float32]:
        """(H, W) float32 at the image's size, any range."""
        return self.score_map.full

    @property
    def normalised(self) -> NDArray[np.float32]:
        """(H, W) float32 in 0..1 at the image's size: the fraction of the maximum, negative values as zero."""
        return draw.fraction(self.score_map)

    def box(self, threshold: float = draw.THRESHOLD) -> tuple[float, float, float, float] | None:
        """`x1 y1 x2 y2`, inclusive pixels, of the largest component above a share of the maximum; None without one."""
        x1, y1, x2, y2 = self._box(threshold).tolist()
        return None if x1 != x1 else (x1, y1, x2, y2)

    def _box(self, threshold: float) -> NDArray[np.float64]:
        if not isinstance(threshold, int | float | np.number) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold!r}; allowed: 0 to 1, a share of the map's maximum")
        return box_of(self.score_map, "max", threshold)

    def overlay(
        self,
        *,
        colormap: str = draw.COLORMAP,
        alpha: float = 0.55,
        box: bool = True,
        threshold: float = draw.THRESHOLD,
        size: int | tuple[int, int] | None = None,
    ) -> Image.Image:
        """Return the image with the map's heat over it.

        Args:
            colormap: a name of a matplotlib colour map.
            alpha: opacity of the heat, 0..1.
            box: whether to draw the map's box.
            threshold: share of the map's maximum for the box.
            size: the longer side, or (width, height), in pixels; None: the image's own size.

        Raises:
            ValueError: an invalid value.
        """
        image, score_map = self._at(size)
        shown = draw.overlay(image, score_map, alpha=alpha, colormap=colormap)
        if box:
            height, width = self.score_map.size
            scale = np.array([shown.shape[1] / width, shown.shape[0] / height] * 2)
            corners = (self._box(threshold) + LAST_PIXEL) * scale - LAST_PIXEL
            corners[2:] = np.maximum(corners[2:], corners[:2])  # for a box that is smaller than a pixel at this size
            shown = draw.with_boxes(shown, corners, draw.BLUE)
        return Image.fromarray(shown)

    def heatmap(self, *, colormap: str = draw.COLORMAP, size: int | tuple[int, int] | None = None) -> Image.Image:
        """The map's colours alone; the arguments are those of `overlay`."""
        return Image.fromarray(draw.heat(self._at(size)[1], colormap))

    def _at(self, size: int | tuple[int, int] | None) -> tuple[draw.RGB, ScoreMap]:
        if size is None:
            return self.image, self.score_map
        sides = (size,) if isinstance(size, int) else tuple(size)
        if len(sides) > 2 or not all(type(side) is int and side > 0 for side in sides):
            raise ValueError(f"size={size!r}; allowed: the longer side, or (width, height), in pixels")
        return draw.resized(self.image, self.score_map, size)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the overlay as PNG or JPEG, by the suffix; the options are those of `overlay`."""
        return draw.save(self.overlay(**options), expand(path))

    def __repr__(self) -> str:
        h, w = self.score_map.values.shape
        height, width = self.score_map.size
        values = self.score_map.values
        state = "" if self.score_map.state == "ok" else f", {self.score_map.state}"
        suffix = f" for {self.label}" if self.label else ""
        return (
            f"<{self.method}{suffix}: {h} x {w} map of an image {height} x {width}, "
            f"{values.min():.3g} to {values.max():.3g}{state}>"
        )

    def _repr_png_(self) -> bytes:
        return _png(self.overlay())


@dataclass(frozen=True, slots=True, repr=False)
class Explanation(Mapping[str, Explained]):
    """The maps of one image, by method.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        logits: (K,) float32; K = 0 without a classifier.
        target: the class, or the function of the network's output, that the maps are for; None if there is none.
        by_method: the maps.
        refused: why the other requested methods cannot run on the network.
        name: of the image.
        label: the target in words.
        score: the network's value for the target.
        prediction: the detection or segment that the target points at; None for other targets.
    """

    image: NDArray[np.uint8]
    logits: NDArray[np.float32]
    target: int | Target | None
    by_method: Mapping[str, Explained]
    refused: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    label: str = ""
    score: float = float("nan")
    prediction: Prediction | None = None

    def __getitem__(self, method: str) -> Explained:
        if method in self.refused:
            raise KeyError(f"method {method}: {self.refused[method]}")
        if method not in self.by_method:
            raise KeyError(f"method {method!r}; there are {', '.join(self.by_method)}")
        return self.by_method[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_method)

    def __len__(self) -> int:
        return len(self.by_method)

    def line(self, caption: str = "", truth: Truth | None = None) -> draw.Line:
        """Return this explanation as one line of a grid of several images."""
        box = self.prediction.box if self.prediction else None
        return draw.Line(self.image, truth, {name: found.score_map for name, found in self.items()}, caption, box)

    def grid(self, caption: str = "") -> Image.Image:
        """Return the image and every method's map, side by side."""
        return draw.grid([self.line(caption)])

    def save(self, path: str | Path, caption: str = "") -> Path:
        """Write the grid as PNG or JPEG, by the suffix."""
        return draw.save(self.grid(caption), expand(path))

    def __repr__(self) -> str:
        suffix = f" for {self.label}" if self.label else ""
        left_out = f", refused: {', '.join(self.refused)}" if self.refused else ""
        height, width = self.image.shape[:2]
        return (
            f"<{self.name or 'image'} {height} x {width}{suffix}: maps by {', '.join(self) or 'no method'}{left_out}>"
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in ("image", *self))
        figures = [Image.fromarray(self.image), *(found.overlay() for found in self.values())]
        cells = "".join(f'<td><img width="224" src="{_source(figure)}"></td>' for figure in figures)
        reasons = "".join(f"<br>{escape(name)}: {escape(reason)}" for name, reason in self.refused.items())
        caption = escape(" ".join(filter(None, (self.name, self.label and f"for {self.label}"))))
        return f"<table><caption>{caption}{reasons}</caption><tr>{head}</tr><tr>{cells}</tr></table>"

    def _repr_png_(self) -> bytes:
        return _png(self.grid())


def _png(figure: Image.Image) -> bytes:
    buffer = io.BytesIO()
    figure.save(buffer, "PNG")
    return buffer.getvalue()


def _source(figure: Image.Image) -> str:
    """A data URI of an image, at most 448 pixels on a side: twice the width at which it is shown."""
    small = figure.copy()
    small.thumbnail((448, 448), Image.Resampling.LANCZOS)
    return f"data:image/png;base64,{base64.b64encode(_png(small)).decode()}"
