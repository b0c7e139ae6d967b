"""The rasteriser: anti-aliased tubes and blobs in painter's order, image and label map from the same distances.

Only additions, products, divisions, square roots and look-ups touch pixels: IEEE 754 fixes their results, so a pixel
does not depend on the processor's vector unit or on the C library. Coordinates arrive rounded to 1e-6 for that reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.draws import Array, Colour

KEEP = 255  # a label that leaves the map as it is: shadows, motifs on top of cloth


@dataclass(frozen=True, slots=True)
class Light:
    """Direction towards the light on the screen (x right, y down, z to the viewer) and its shares."""

    x: float
    y: float
    z: float
    ambient: float
    diffuse: float


@dataclass(frozen=True, slots=True)
class Cloth:
    """A texture wound round a tube. `pixels` float32 [3, rows, 2·columns]: front half, then back half.

    `yaw` turns it with the body; rows `top`..`bottom` (0..1) lie along the tube.
    """

    pixels: Array
    yaw: float = 0.0
    top: float = 0.0
    bottom: float = 1.0


class Canvas:
    """Image float32 [3, H, W] (0..1) and label map uint8 [H, W], painted back to front."""

    def __init__(self, image: Array, light: Light) -> None:
        self.image = image
        self.light = light
        self.height, self.width = image.shape[1:]
        self.labels = np.zeros((self.height, self.width), np.uint8)
        self.x = np.arange(self.width, dtype=np.float32) + np.float32(0.5)
        self.y = (np.arange(self.height, dtype=np.float32) + np.float32(0.5))[:, None]

    def window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice] | None:
        """Rows and columns of a box in pixels, cut to the canvas; None where nothing is left."""
        x0, x1 = max(0, int(left) - 1), min(self.width, int(right) + 2)
        y0, y1 = max(0, int(top) - 1), min(self.height, int(bottom) + 2)
        return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None

    def put(
        self, rows: slice, columns: slice, distance: Array, colour: Array, label: int, dusk: Array | None = None
    ) -> None:
        """Lay `colour` [3, h, w] where `distance` [h, w] (pixels, negative inside) covers; label where it is below 0.

        `dusk` [h, w] darkens what of the figure lies underneath: it keeps arms apart from the trunk.
        """
        region, labels = self.image[:, rows, columns], self.labels[rows, columns]
        if dusk is not None:
            region *= 1 - dusk * (labels > 0)
        cover = np.clip(np.float32(0.5) - distance, 0, 1)
        region += cover * (colour - region)
        if label != KEEP:
            labels[distance < 0] = label


def _r(value: float) -> np.float32:
    return np.float32(round(value, 6))


def shade(light: Light, x: Array | float, y: Array | float, z: Array) -> Array:
    """Lambert's law with a floor: brightness of a surface whose normal is (x, y, z)."""
    lit = x * _r(light.x) + y * _r(light.y) + z * _r(light.z)
    return np.maximum(lit, 0) * _r(light.diffuse) + _r(light.ambient)


def wind(cloth: Cloth, along: Array, across: Array, depth: Array) -> Array:
    """Look the texture up: `along` 0..1, `across` −1..1 and `depth` 0..1 on the unit circle seen from the front."""
    rows, columns = cloth.pixels.shape[1], cloth.pixels.shape[2] // 2
    turn, away = _r(cos(cloth.yaw)), _r(sin(cloth.yaw))
    front_x, front_z = across * turn - depth * away, across * away + depth * turn
    row = ((along * _r(cloth.bottom - cloth.top) + _r(cloth.top)) * np.float32(rows)).astype(np.int32)
    column = ((front_x + 1) * np.float32(columns * 0.5)).astype(np.int32)
    np.clip(column, 0, columns - 1, out=column)
    column += (front_z < 0) * np.int32(columns)
    np.clip(row, 0, rows - 1, out=row)
    row *= 2 * columns
    row += column
    return np.take(cloth.pixels.reshape(3, -1), row, axis=1)


def plane(colour: Colour) -> Array:
    """A colour as float32 [3, 1, 1]."""
    return np.array(colour, np.float32)[:, None, None]


def tube(
    canvas: Canvas,
    start: tuple[float, float],
    end: tuple[float, float],
    radii: Sequence[float],
    surface: Colour | Cloth,
    label: int,
    *,
    flat: tuple[bool, bool] = (False, False),
    halo: float = 0.0,
) -> None:
    """A limb: radii (pixels, equidistant knots) along a straight axis, round ends unless `flat`."""
    reach = max(radii) + halo
    box = canvas.window(
        min(start[0], end[0]) - reach,
        min(start[1], end[1]) - reach,
        max(start[0], end[0]) + reach,
        max(start[1], end[1]) + reach,
    )
    if box is None:
        return
    length = max(1e-3, sqrt((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2))
    ux, uy = _r((end[0] - start[0]) / length), _r((end[1] - start[1]) / length)
    dx, dy = canvas.x[box[1]] - _r(start[0]), canvas.y[box[0]] - _r(start[1])
    along, side = dx * ux + dy * uy, dx * uy - dy * ux
    inside = np.clip(along, 0, _r(length))
    radius = _profile(inside * _r(1 / length), radii)
    over = along - inside
    distance = np.sqrt(side * side + over * over) - radius
    if flat[0]:
        distance = np.maximum(distance, -along)
    if flat[1]:
        distance = np.maximum(distance, along - _r(length))
    across: Array = np.clip(side / radius, -1, 1)
    depth: Array = np.sqrt(1 - across * across)
    light = shade(canvas.light, across * uy, across * -ux, depth)
    if isinstance(surface, Cloth):
        colour = wind(surface, inside * _r(1 / length), across, depth)
        colour *= light
    else:
        colour = plane(surface) * light
    dusk = _dusk(distance, halo) * (1 - inside * _r(1 / length)) if halo else None  # none at the far joint
    canvas.put(*box, distance, colour, label, dusk)


def _dusk(distance: Array, halo: float) -> Array:
    return np.clip((np.float32(halo) - distance) * np.float32(0.35 / halo), 0, 0.35)


def _profile(t: Array, radii: Sequence[float]) -> Array:
    knots = np.array([max(0.05, round(r, 6)) for r in radii], np.float32)
    if len(radii) == 2:
        return knots[0] + t * (knots[1] - knots[0])
    place = t * np.float32(len(radii) - 1)
    index = np.minimum(place.astype(np.int32), len(radii) - 2)
    return np.take(knots, index) + (place - index) * np.take(knots[1:] - knots[:-1], index)


@dataclass(frozen=True, slots=True)
class Dome:
    """An ellipsoid's visible half on a canvas: where, how far, and the unit normal at each pixel."""

    box: tuple[slice, slice]
    distance: Array
    x: Array
    y: Array
    z: Array


def dome(
    canvas: Canvas, centre: tuple[float, float], width: float, height: float, tilt: float = 0.0, taper: float = 0.0
) -> Dome | None:
    """An ellipsoid of half axes `width`, `height` (pixels), tilted (radians), narrower below by `taper`."""
    reach = max(width, height)
    box = canvas.window(centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach)
    if box is None:
        return None
    c, s = _r(cos(tilt)), _r(sin(tilt))
    dx, dy = canvas.x[box[1]] - _r(centre[0]), canvas.y[box[0]] - _r(centre[1])
    x, y = (dx * c + dy * s) * _r(1 / width), (dy * c - dx * s) * _r(1 / height)
    if taper:
        x = x / (1 - _r(taper) * np.clip(y, 0, 1))
    square = x * x + y * y
    root = np.sqrt(square)
    distance = (root - 1) * _r(min(width, height))
    return Dome(box, distance, x, y, np.sqrt(np.maximum(1 - square, 0)))


def blob(
    canvas: Canvas,
    centre: tuple[float, float],
    width: float,
    height: float,
    colour: Colour,
    label: int,
    *,
    tilt: float = 0.0,
    halo: float = 0.0,
) -> None:
    """An ellipsoid of one colour."""
    shape = dome(canvas, centre, max(0.3, width), max(0.3, height), tilt)
    if shape is not None:
        light = shade(canvas.light, np.clip(shape.x, -1, 1), np.clip(shape.y, -1, 1), shape.z)
        canvas.put(
            *shape.box, shape.distance, plane(colour) * light, label, _dusk(shape.distance, halo) if halo else None
        )


def shadow(canvas: Canvas, centre: tuple[float, float], width: float, height: float, strength: float) -> None:
    """Darken an ellipse softly."""
    shape = dome(canvas, centre, max(1.0, width), max(1.0, height))
    if shape is not None:
        fade = np.clip(1 - shape.x * shape.x - shape.y * shape.y, 0, 1) * _r(strength)
        canvas.image[:, shape.box[0], shape.box[1]] *= 1 - fade


def rectangle(
    canvas: Canvas, left: float, top: float, right: float, bottom: float, colour: Colour | Array, label: int = KEEP
) -> None:
    """An axis-aligned box with soft edges, flat colour; [3, h, w] textures are cut to it by the caller."""
    box = canvas.window(left, top, right, bottom)
    if box is None:
        return
    x, y = canvas.x[box[1]], canvas.y[box[0]]
    distance = np.maximum(np.maximum(_r(left) - x, x - _r(right)), np.maximum(_r(top) - y, y - _r(bottom)))
    canvas.put(*box, distance, plane(colour) if isinstance(colour, tuple) else colour, label)


def to_bytes(image: Array) -> NDArray[np.uint8]:
    """float32 [3, H, W] in 0..1 to uint8 [H, W, 3]."""
    return (np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0)
