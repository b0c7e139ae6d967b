"""Backgrounds: one procedural panorama per camera, of which each frame shows a moving crop."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.cameras import Camera
from datasets.synthetic.draws import SCENE, Array, Colour, between, draws, jitter, smooth_noise, tint
from datasets.synthetic.raster import Canvas, Light, blob, rectangle, shadow, to_bytes, tube

MARGIN = 0.16  # how far the panorama reaches above and below the crop, in crop heights
LENGTH = 14  # width of the panorama in crop widths
FLAT = Light(-0.3, -0.5, 0.7, 0.7, 0.4)


@lru_cache(maxsize=16)
def panorama(seed: int, camera: Camera, height: int, width: int) -> NDArray[np.uint8]:
    """The scene of a camera, uint8 [3, (1 + 2·MARGIN)·height, LENGTH·width]."""
    rng = draws(seed, SCENE, camera.number)
    rows, columns = round(height * (1 + 2 * MARGIN)), width * LENGTH
    canvas = Canvas(np.zeros((3, rows, columns), np.float32), FLAT)
    base = int((camera.base + MARGIN) * height)
    unit = height * 0.9  # pixels of a stature at the person's distance
    PAINTERS[camera.scene](canvas, rng, base, unit)
    grain = smooth_noise(rng, rows, columns, 40, 180) - 0.5
    patches = smooth_noise(rng, rows, columns, 5, 30) - 0.5
    fine = rng.random((rows, columns), dtype=np.float32) - np.float32(0.5)
    canvas.image *= 1 + np.float32(0.16) * grain + np.float32(0.30) * patches + np.float32(0.10) * fine
    return np.ascontiguousarray(to_bytes(canvas.image).transpose(2, 0, 1))


def _fill(canvas: Canvas, top: int, bottom: int, colour: Colour, fade: float = 0.0) -> None:
    rows = np.arange(max(0, bottom - top), dtype=np.float32)[:, None] / np.float32(max(1, bottom - top))
    canvas.image[:, top:bottom] = np.array(colour, np.float32)[:, None, None] * (1 + np.float32(fade) * (rows - 0.5))


def _tiles(canvas: Canvas, top: int, size: float, dark: float, rng: np.random.Generator) -> None:
    """Joints between slabs on the ground: rows draw together towards the distance."""
    y, step = float(canvas.height), size
    rows = canvas.height - top
    while y > top and step > 1.5:
        line = slice(int(y), int(y) + max(1, int(step * 0.06)))
        canvas.image[:, line] *= np.float32(dark)
        y -= step
        step *= 0.86
    shift = between(rng, 0, size)
    for x in np.arange(shift, canvas.width * 1.3, size * 1.3).tolist():
        lean = between(rng, -0.5, 0.5)
        for row in range(rows):
            column = int(x - 0.35 * size * (rows - row) / max(1, rows) + lean)
            if 0 <= column < canvas.width:
                canvas.image[:, top + row, column] *= np.float32(dark)


def _bricks(canvas: Canvas, base: int, unit: float, dark: float) -> None:
    step = max(3, int(unit * 0.045))
    for number, y in enumerate(range(0, base, step)):
        canvas.image[:, y] *= np.float32(dark)
        start = (number % 2) * step
        canvas.image[:, y : min(base, y + step), start :: 2 * step] *= np.float32(dark)


def _window(canvas: Canvas, x: float, y: float, w: float, h: float, rng: np.random.Generator) -> None:
    glass = tint(rng, (0.22, 0.27, 0.32), 0.14)
    rectangle(canvas, x - 1, y - 1, x + w + 1, y + h + 1, tint(rng, (0.7, 0.68, 0.64), 0.2))
    rectangle(canvas, x, y, x + w, y + h, glass)
    rectangle(canvas, x, y, x + w * between(rng, 0.2, 0.6), y + h * 0.5, tint(rng, (0.55, 0.62, 0.70), 0.15))
    rectangle(canvas, x + w * 0.48, y, x + w * 0.52, y + h, (0.6, 0.6, 0.58))


def _person_high(unit: float) -> float:
    return 0.75 * unit


def _tree(canvas: Canvas, x: float, base: float, unit: float, rng: np.random.Generator) -> None:
    bark = tint(rng, (0.27, 0.20, 0.15), 0.06)
    tube(canvas, (x, base - unit), (x, base), (unit * 0.05, unit * 0.07), bark, 0, flat=(True, True))
    for _ in range(14):
        leaf = tint(rng, (0.20, 0.32, 0.14), 0.10)
        blob(
            canvas,
            (x + between(rng, -0.4, 0.4) * unit, base - unit * between(rng, 0.6, 1.3)),
            unit * 0.2,
            unit * 0.15,
            leaf,
            0,
        )


def car(canvas: Canvas, x: float, base: float, unit: float, rng: np.random.Generator) -> None:
    """A car from the side; `base` is the row of its wheels' ground."""
    colour = tint(rng, (0.45, 0.45, 0.47), 0.4) if rng.random() < 0.6 else jitter(rng, (0.42, 0.22, 0.18), 0.2)
    long, high = unit * 1.9, unit * 0.5
    shadow(canvas, (x + long / 2, base), long * 0.55, high * 0.25, 0.6)
    tube(
        canvas,
        (x + high * 0.3, base - high * 0.45),
        (x + long - high * 0.3, base - high * 0.45),
        (high * 0.36, high * 0.38),
        colour,
        0,
    )
    tube(
        canvas,
        (x + long * 0.3, base - high * 0.9),
        (x + long * 0.72, base - high * 0.9),
        (high * 0.28, high * 0.28),
        colour,
        0,
    )
    glass = (0.14, 0.17, 0.20)
    rectangle(canvas, x + long * 0.29, base - high * 1.08, x + long * 0.49, base - high * 0.78, glass)
    rectangle(canvas, x + long * 0.53, base - high * 1.08, x + long * 0.75, base - high * 0.78, glass)
    for wheel in (0.2, 0.8):
        blob(canvas, (x + long * wheel, base - high * 0.12), high * 0.26, high * 0.26, (0.08, 0.08, 0.08), 0)
        blob(canvas, (x + long * wheel, base - high * 0.12), high * 0.13, high * 0.13, (0.5, 0.5, 0.5), 0)


def _street(canvas: Canvas, rng: np.random.Generator, base: int, unit: float) -> None:
    x = 0.0
    while x < canvas.width:
        wide = unit * between(rng, 1.0, 2.2)
        wall = tint(rng, (0.55, 0.46, 0.38) if rng.random() < 0.5 else (0.62, 0.60, 0.56), 0.14)
        rectangle(canvas, x, -5, x + wide, base, wall)
        place = x + unit * 0.12
        while place < x + wide - 0.35 * unit:
            if rng.random() < 0.3:
                rectangle(
                    canvas,
                    place,
                    base - _person_high(unit),
                    place + 0.3 * unit,
                    base,
                    tint(rng, (0.3, 0.22, 0.18), 0.15),
                )
            else:
                _window(canvas, place, base - 0.72 * unit, 0.34 * unit, 0.46 * unit, rng)
            _window(canvas, place, base - 1.5 * unit, 0.3 * unit, 0.42 * unit, rng)
            place += unit * between(rng, 0.42, 0.6)
        x += wide
    _bricks(canvas, base, unit, 0.93)
    _fill(canvas, base, canvas.height, tint(rng, (0.52, 0.51, 0.49), 0.06), 0.15)
    _tiles(canvas, base, unit * 0.22, 0.86, rng)
    canvas.image[:, base : base + max(1, int(unit * 0.02))] *= np.float32(0.55)
    for _ in range(6):
        pole = between(rng, 0, canvas.width)
        tube(canvas, (pole, -5.0), (pole, base + unit * 0.05), (unit * 0.02, unit * 0.025), (0.22, 0.23, 0.24), 0)


def _park(canvas: Canvas, rng: np.random.Generator, base: int, unit: float) -> None:
    _fill(canvas, 0, base, (0.36, 0.44, 0.32), -0.5)
    leaves = smooth_noise(rng, base, canvas.width, 12, 160)
    canvas.image[:, :base] *= 0.55 + 0.8 * leaves
    for _ in range(16):
        _tree(canvas, between(rng, 0, canvas.width), base + between(rng, -0.1, 0.05) * unit, unit, rng)
    _fill(canvas, base, canvas.height, tint(rng, (0.33, 0.42, 0.20), 0.04), 0.2)
    blades = smooth_noise(rng, canvas.height - base, canvas.width, 30, 500)
    canvas.image[:, base:] *= 0.8 + 0.4 * blades
    path = base + int((canvas.height - base) * 0.45)
    _fill(canvas, path, canvas.height, tint(rng, (0.58, 0.52, 0.43), 0.05), 0.1)
    edge = smooth_noise(rng, 1, canvas.width, 1, 60)[0]
    for column in range(canvas.width):  # grass grows over the path's edge
        grown = int(edge[column] * unit * 0.08)
        canvas.image[:, path : path + grown, column] = canvas.image[:, path - grown - 1 : path - 1, column]
    for _ in range(3):
        bench = between(rng, 0, canvas.width)
        rectangle(canvas, bench, base + 0.02 * unit, bench + 0.6 * unit, base + 0.08 * unit, (0.35, 0.24, 0.15))
        rectangle(canvas, bench, base - 0.12 * unit, bench + 0.6 * unit, base - 0.05 * unit, (0.38, 0.26, 0.16))


def _station(canvas: Canvas, rng: np.random.Generator, base: int, unit: float) -> None:
    wall = tint(rng, (0.68, 0.70, 0.68), 0.08)
    _fill(canvas, 0, base, wall, 0.1)
    canvas.image[:, :, :: max(4, int(unit * 0.42))] *= np.float32(0.85)
    canvas.image[:, max(0, base - int(unit * 0.12)) : base] *= np.float32(0.6)
    for _ in range(14):
        left = between(rng, 0, canvas.width)
        wide, high = unit * between(rng, 0.3, 0.9), unit * between(rng, 0.3, 0.6)
        low = base - unit * between(rng, 0.2, 0.6)
        rectangle(canvas, left, low - high, left + wide, low, jitter(rng, (0.5, 0.47, 0.5), 0.25))
        rectangle(
            canvas,
            left + wide * 0.1,
            low - high * 0.9,
            left + wide * 0.9,
            low - high * 0.45,
            tint(rng, (0.6, 0.6, 0.5), 0.3),
        )
    _fill(canvas, base, canvas.height, tint(rng, (0.60, 0.58, 0.54), 0.06), 0.25)
    _tiles(canvas, base, unit * 0.30, 0.9, rng)
    yellow = base + int((canvas.height - base) * 0.25)
    canvas.image[:, yellow : yellow + max(1, int(unit * 0.03))] = np.array((0.75, 0.62, 0.15), np.float32)[
        :, None, None
    ]
    for _ in range(5):
        pillar = between(rng, 0, canvas.width)
        tube(
            canvas,
            (pillar, -5.0),
            (pillar, base + unit * 0.1),
            (unit * 0.13, unit * 0.13),
            tint(rng, (0.55, 0.56, 0.6), 0.1),
            0,
        )


def _car_park(canvas: Canvas, rng: np.random.Generator, base: int, unit: float) -> None:
    _fill(canvas, 0, base, (0.62, 0.66, 0.70), -0.15)
    hedge = smooth_noise(rng, base, canvas.width, 9, 150)
    top = max(0, base - int(unit * 0.7))
    canvas.image[:, top:base] = np.array((0.24, 0.32, 0.20), np.float32)[:, None, None] * (0.5 + 0.9 * hedge[top:base])
    _fill(canvas, base, canvas.height, tint(rng, (0.36, 0.36, 0.37), 0.06), 0.25)
    x = 0.0
    while x < canvas.width:
        if rng.random() < 0.6:
            car(canvas, x, base + unit * 0.12, unit * between(rng, 0.75, 0.95), rng)
        x += unit * between(rng, 1.3, 2.0)
    for line in np.arange(0, canvas.width, unit * 0.9).tolist():
        tube(
            canvas,
            (line, base + unit * 0.15),
            (line - unit * 0.25, float(canvas.height)),
            (unit * 0.012, unit * 0.022),
            (0.75, 0.75, 0.72),
            0,
        )


def _plaza(canvas: Canvas, rng: np.random.Generator, base: int, unit: float) -> None:
    _fill(canvas, 0, base, tint(rng, (0.50, 0.52, 0.55), 0.08), -0.3)
    step = max(6, int(unit * 0.5))
    for pane in range(0, canvas.width, step):  # a glass front
        rectangle(canvas, pane + 1, -2, pane + step - 1, base - unit * 0.06, tint(rng, (0.30, 0.38, 0.45), 0.14))
    _fill(canvas, base, canvas.height, tint(rng, (0.64, 0.60, 0.56), 0.06), 0.12)
    _tiles(canvas, base, unit * 0.42, 0.84, rng)
    for _ in range(8):
        x, y = between(rng, 0, canvas.width), between(rng, base + 0.1 * unit, canvas.height)
        shadow(canvas, (x, y), unit * between(rng, 0.4, 1.6), unit * between(rng, 0.08, 0.3), 0.4)
    for stripe in np.arange(unit, unit * 5, unit * 0.35).tolist():
        rectangle(canvas, stripe, base + 0.35 * unit, stripe + 0.17 * unit, canvas.height + 2.0, (0.85, 0.85, 0.82))


def _shop(canvas: Canvas, rng: np.random.Generator, base: int, unit: float) -> None:
    _fill(canvas, 0, base, tint(rng, (0.5, 0.47, 0.42), 0.08))
    shelf = unit * 0.26
    y = float(base)
    while y > -shelf:
        x = between(rng, -0.2, 0) * unit
        while x < canvas.width:
            wide = unit * between(rng, 0.05, 0.16)
            rectangle(
                canvas, x, y - shelf * between(rng, 0.5, 0.85), x + wide, y - 1, jitter(rng, (0.5, 0.46, 0.42), 0.32)
            )
            x += wide
        rectangle(canvas, -2, y - 1.5, canvas.width + 2, y + unit * 0.012, (0.72, 0.70, 0.66))
        y -= shelf
    _fill(canvas, base, canvas.height, tint(rng, (0.70, 0.68, 0.64), 0.05), 0.2)
    _tiles(canvas, base, unit * 0.35, 0.93, rng)
    canvas.image[:, base : base + max(1, int(unit * 0.03))] *= np.float32(0.4)


PAINTERS = {
    "street": _street,
    "park": _park,
    "station": _station,
    "car park": _car_park,
    "plaza": _plaza,
    "shop": _shop,
}


def cut(scene: NDArray[np.uint8], place: float, rise: float, height: int, width: int) -> Array:
    """A crop of the panorama as float32 [3, height, width]; `place` wraps round 0..1, `rise` is −1..1."""
    free = scene.shape[2] - width
    column = int(free * (place % 1.0))
    margin = (scene.shape[1] - height) // 2
    row = min(scene.shape[1] - height, max(0, margin + int(margin * rise)))
    return scene[:, row : row + height, column : column + width].astype(np.float32) * np.float32(1 / 255)
