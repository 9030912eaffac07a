"""The objects of the generated scenes: one short drawing function per class (`eigencam.datasets.scenes_drawing`).

Colours are drawn at random for every class, so that colour does not identify a class; the outline, the local texture
and the parts (a head, a handle, teeth) do.
"""

import numpy as np

from eigencam.datasets.scenes_drawing import Drawing, Kinds, Palette, Sketch, wave

PI = np.pi


def _fish(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    fin = c.second if rng.random() < 0.6 else c.dark
    across = np.abs(s.v)
    s.part(np.maximum.reduce([across - (s.u - 0.3) * 0.9, s.u - 0.92 + 0.35 * (0.45 - across), 0.36 - s.u]), fin)
    s.part(np.maximum(s.ellipse(-0.08, -0.3, 0.4, 0.26), s.u * 0.4 - 0.1), fin)
    s.part(s.ellipse(0.02, 0.34, 0.17, 0.17), fin)
    s.paint(np.maximum(0.18 - wave(s.v * 5 + s.u) - 0.1, 0.42 - s.u), c.light, 0.5)
    body = s.part(s.ellipse(-0.2, 0, 0.72, 0.4), c.base)
    size = 0.17
    row = np.floor(s.v / size)
    a, b = (s.u / size + 0.5 * (row % 2)) % 1 - 0.5, s.v / size - row - 0.5
    scales = np.abs(np.sqrt((a + 0.25) ** 2 + b * b) - 0.5) * size - 0.022
    s.paint(np.maximum.reduce([scales, body + 0.05, -0.42 - s.u]), c.second)
    s.paint(np.maximum(body, s.u + 0.5 - 0.4 * s.v * s.v), c.second)
    s.paint(np.abs(s.u + 0.48 - 0.4 * s.v * s.v) - 0.025 + np.maximum(body, 0), c.dark)
    s.paint(s.ellipse(-0.66, -0.09, 0.1, 0.1), c.light)
    s.paint(s.ellipse(-0.68, -0.09, 0.055, 0.055), c.dark)


def _umbrella(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    s.part(s.line(0, -0.85, 0, 0.66, 0.035), c.dark)
    s.part(np.maximum(np.abs(s.ellipse(0.13, 0.66, 0.13, 0.15)) - 0.035, 0.64 - s.v), c.dark)
    half = np.sqrt(np.clip(1 - ((s.v - 0.1) / 0.85) ** 2, 0.02, 1)) * 0.95
    turn = np.arcsin(np.clip(s.u / half, -1, 1)) / PI
    panels = int(rng.integers(5, 8))
    edge = s.v - 0.1 + 0.16 * (0.5 - wave(panels * (turn + 0.5)))
    dome = s.part(np.maximum(s.ellipse(0, 0.1, 0.95, 0.85), edge), c.base)
    stripe = 0.25 - wave(panels * 0.5 * (turn + 0.5))
    s.paint(np.maximum(stripe * 0.8, dome), c.second)
    s.paint(np.maximum(0.03 - wave(panels * (turn + 0.5)) * 0.5 - 0.01, dome), c.dark, 0.7)
    s.paint(np.maximum(np.abs(edge + 0.13) - 0.02, dome), c.light, 0.8)


def _mug(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    s.part(np.abs(s.ellipse(0.44, 0.08, 0.3, 0.36)) - 0.075, c.base)
    body = s.part(s.box(-0.15, 0.08, 0.56, 0.68, 0.14), c.base)
    zigzag = np.abs(s.v - 0.12 - 0.5 * (wave(s.u * 3.1 + 0.2) - 0.25)) - 0.08
    s.paint(np.maximum(zigzag, body), c.second)
    s.paint(np.maximum(np.abs(np.abs(s.v - 0.12) - 0.34) - 0.035, body), c.second)
    if rng.random() < 0.5:
        dots = np.sqrt(((wave(s.u * 3.1 + 0.2)) / 3.1) ** 2 + (s.v - 0.3) ** 2) - 0.05
        s.paint(np.maximum(dots, body), c.light)
    s.paint(body + 0.75 - np.abs(s.u + 0.4) - 0.62, c.light, 0.3)
    s.part(s.ellipse(-0.15, -0.55, 0.56, 0.17), c.light)
    s.paint(s.ellipse(-0.15, -0.54, 0.47, 0.115), c.dark)


def _key(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    s.part(s.line(-0.3, 0, 0.9, 0, 0.105), c.base)
    for x in (0.5, 0.68, 0.86):
        length = 0.16 + 0.16 * rng.random()
        s.part(s.box(x, 0.08 + length / 2, 0.06, length / 2 + 0.05), c.base)
    s.part(s.box(-0.08, 0, 0.055, 0.19, 0.04), c.second)
    s.part(s.box(0.08, 0, 0.035, 0.16, 0.03), c.second)
    bow = s.part(s.ellipse(-0.58, 0, 0.4, 0.46), c.base)
    s.paint(np.abs(bow + 0.1) - 0.035, c.second)
    for angle in (0.0, 2.1, 4.2):
        s.cut(s.ellipse(-0.58 + 0.15 * np.cos(angle), 0.17 * np.sin(angle), 0.105, 0.11))
    s.paint(np.maximum(np.abs(s.v + 0.03) - 0.025, -0.15 - s.u), c.light, 0.75)


def _gear(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    r, angle = s.polar()
    teeth = int(rng.integers(9, 13))
    body = s.part((r - 0.82 - 0.12 * np.clip(2.5 * np.cos(teeth * angle), -1, 1)) * 0.8, c.base)
    s.paint(np.maximum(0.12 - wave(r * 11), body + 0.05), c.second, 0.4)
    s.paint(np.abs(r - 0.62) - 0.035, c.dark)
    spokes = int(rng.integers(4, 7))
    s.paint(np.hypot(r - 0.43, 0.5 * wave(spokes * angle / (2 * PI))) - 0.115, c.dark)
    s.paint(np.abs(r - 0.25) - 0.05, c.second)
    s.cut(r - 0.16)


def _leaf(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    s.part(s.line(0.7, 0, 1.0, 0.1, 0.035), c.dark)
    depth = 0.5 + 0.12 * rng.random()
    radius = (0.95**2 + depth**2) / (2 * depth)
    teeth = 0.055 * (0.5 - 2 * wave(s.u * 7 - np.abs(s.v) * 2))
    side = np.abs(s.v) + radius - depth
    blade = s.part(np.sqrt((s.u + 0.1) ** 2 + side * side) - radius + teeth, c.base)
    s.paint(np.maximum(s.v, blade), c.second, 0.4)
    veins = (wave(s.u * 3.6 - np.abs(s.v) * 2.6) - 0.12) * 0.25
    s.paint(np.maximum(veins, blade + 0.06), c.dark, 0.75)
    s.paint(np.maximum(np.abs(s.v) - 0.03, blade), c.light, 0.9)


def _star(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    r, angle = s.polar()
    sector = 2 * PI / 5
    a = np.abs((angle + PI / 2) % sector - sector / 2)
    inner = 0.44 + 0.1 * rng.random()
    x, y = inner * np.cos(sector / 2), inner * np.sin(sector / 2)
    length = np.hypot(y, 0.98 - x)
    # a = 0 is the direction of an inner corner; the edge goes from there to a tip
    fold = sector / 2 - a
    body = s.part(((r * np.cos(fold) - 0.98) * y + r * np.sin(fold) * (0.98 - x)) / length - 0.02, c.base)
    tilt = 0.6 * rng.random()
    stripes = (wave((s.u + tilt * s.v) * 3.2) - 0.25) / 3.2
    s.paint(np.maximum(stripes, body + 0.09), c.second)
    s.paint(np.abs(body + 0.09) - 0.025, c.dark)


def _balloon(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    for x in (-0.13, 0.13):
        s.part(s.line(x * 1.4, 0.4, x, 0.76, 0.018), c.dark)
    basket = s.part(s.box(0, 0.85, 0.17, 0.12, 0.03), c.dark)
    s.paint(np.maximum(basket + 0.02, wave(s.v * 12) * 0.1 - 0.022), c.light, 0.6)
    cone = np.maximum.reduce([(np.abs(s.u) - 0.62 + 0.72 * (s.v - 0.02)) * 0.81, s.v - 0.5, -0.1 - s.v])
    envelope = s.part(np.minimum(s.ellipse(0, -0.27, 0.72, 0.7), cone), c.base)
    dome = np.sqrt(np.clip(1 - ((s.v + 0.27) / 0.7) ** 2, 0.02, 1)) * 0.72
    half = np.where(s.v < -0.1, dome, 0.7 - 0.72 * (s.v + 0.1))
    turn = np.arcsin(np.clip(s.u / np.maximum(half, 0.1), -1, 1)) / PI
    gores = int(rng.integers(3, 5))
    checks = (wave(gores * (turn + 0.5)) - 0.25) * (wave(s.v * 1.9 + 0.1) - 0.25)
    s.paint(np.maximum(checks * 2, envelope), c.second)
    s.paint(np.maximum(np.abs(s.v - 0.42) - 0.04, envelope), c.light)


def _mushroom(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    stem = s.part(np.minimum(s.line(0, 0.0, 0, 0.72, 0.17, 0.25), s.ellipse(0, 0.8, 0.32, 0.16)), c.light)
    s.paint(np.maximum(stem + 0.04, wave(s.u * 9) * 0.1 - 0.015), c.dark, 0.35)
    s.paint(np.maximum(stem, s.ellipse(0, 0.28, 0.4, 0.09)), c.second, 0.8)
    gills = s.part(s.ellipse(0, 0.08, 0.84, 0.17), c.second)
    s.paint(np.maximum(gills, wave(s.u / (0.4 + 0.6 * np.abs(s.v - 0.9)) * 7) * 0.1 - 0.02), c.dark)
    cap = s.part(np.maximum(s.ellipse(0, 0.08, 0.95, 0.92), s.v - 0.1 + 0.22 * (1 - s.u * s.u)), c.base)
    spots = [s.ellipse(x + 0.1 * rng.random(), y, r, r * 0.8) for x, y, r in _SPOTS]
    s.paint(np.maximum(np.minimum.reduce(spots), cap), c.light)


_SPOTS = (
    (-0.1, -0.42, 0.17),
    (-0.6, -0.22, 0.12),
    (0.38, -0.3, 0.13),
    (-0.32, -0.68, 0.08),
    (0.15, -0.73, 0.07),
    (0.72, -0.1, 0.08),
)


def _butterfly(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    mirrored = s.u
    s.u = np.abs(s.u)
    s.part(s.line(0.02, -0.4, 0.25, -0.85, 0.022), c.dark)
    s.part(s.ellipse(0.25, -0.87, 0.045, 0.045), c.dark)
    spread = 0.08 * rng.random()
    lower = s.part(s.ellipse(0.4, 0.4 + spread, 0.46, 0.33, 0.8), c.second)
    s.paint(np.abs(lower + 0.05) - 0.04, c.dark)
    upper = s.part(s.ellipse(0.5, -0.26 - spread, 0.56, 0.36, -0.6), c.base)
    s.paint(np.abs(upper + 0.05) - 0.045, c.dark)
    rays = wave(np.arctan2(s.v, s.u + 0.1) * 4) * 0.4 * (0.1 + s.u) - 0.02
    s.paint(np.maximum(rays, np.minimum(upper, lower) + 0.08), c.dark, 0.8)
    for x, y, r in ((0.62, -0.36 - spread, 0.18), (0.44, 0.46 + spread, 0.14)):
        eye = s.ellipse(x, y, r, r)
        for shrink, colour in ((0, c.light), (0.4, c.second if y < 0 else c.base), (0.7, c.dark)):
            s.paint(eye + shrink * r, colour)
    s.u = mirrored
    s.part(s.line(0, -0.42, 0, 0.5, 0.1, 0.05), c.dark)


def _snail(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    for x in (-0.94, -0.7):
        s.part(s.line(-0.8, 0.25, x, -0.12, 0.03), c.second)
        s.part(s.ellipse(x, -0.15, 0.06, 0.06), c.dark)
    body = s.part(s.line(-0.66, 0.62, 0.9, 0.72, 0.17, 0.05), c.second)
    body = np.minimum(body, s.part(s.line(-0.66, 0.62, -0.8, 0.28, 0.16, 0.13), c.second))
    s.paint(np.maximum(body + 0.03, wave(s.u * 6) * 0.16 - 0.03), c.dark, 0.4)
    s.paint(np.maximum(s.line(-0.92, 0.36, -0.8, 0.4, 0.018), body), c.dark)
    shell = s.part(s.ellipse(0.14, -0.02, 0.64, 0.6), c.base)
    r, angle = s.polar(0.14, 0.02)
    coil = wave(r * (2.2 + 0.6 * rng.random()) - angle / (2 * PI))
    s.paint(np.maximum((coil - 0.16) * 0.4, shell), c.dark)
    s.paint(np.maximum((np.abs(coil - 0.36) - 0.05) * 0.4, shell), c.light, 0.8)


def _ladybird(s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    mirrored = s.u
    s.u = np.abs(s.u)
    for y, end in ((-0.2, -0.45), (0.15, 0.15), (0.45, 0.7)):
        s.part(s.line(0.5, y, 0.86, end, 0.04), c.dark)
    s.part(s.line(0.12, -0.75, 0.3, -0.95, 0.025), c.dark)
    s.part(s.ellipse(0, -0.6, 0.42, 0.32), c.dark)
    s.paint(s.ellipse(0.2, -0.68, 0.1, 0.09), c.light)
    shell = s.part(s.ellipse(0, 0.13, 0.72, 0.76), c.base)
    grow = 0.03 * rng.random()
    places = ((0.32, -0.18, 0.14), (0.42, 0.28, 0.13), (0.2, 0.58, 0.11))
    spots = [s.ellipse(x, y, r + grow, r + grow) for x, y, r in places]
    s.paint(np.maximum(np.minimum.reduce(spots), shell), c.dark)
    s.paint(np.maximum(s.ellipse(0, -0.46, 0.16, 0.13), shell), c.dark)
    s.u = mirrored
    s.paint(np.maximum(np.abs(s.u) - 0.03, shell), c.dark)


_DRAWINGS: dict[str, Drawing] = {
    "balloon": _balloon,
    "butterfly": _butterfly,
    "fish": _fish,
    "gear": _gear,
    "key": _key,
    "ladybird": _ladybird,
    "leaf": _leaf,
    "mug": _mug,
    "mushroom": _mushroom,
    "snail": _snail,
    "star": _star,
    "umbrella": _umbrella,
}
OBJECTS = Kinds(_DRAWINGS, frozenset(("balloon", "mug", "mushroom", "snail", "umbrella")))
CLASSES = OBJECTS.classes
