"""One frame: a person in an outfit on a walk past a camera, as an image and its exact LIP-20 parsing."""

from dataclasses import dataclass
from functools import lru_cache
from math import pi, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic import optics, scenes
from datasets.synthetic.body import Body, Textures, View, textures
from datasets.synthetic.cameras import Camera, Walk, camera, walk
from datasets.synthetic.draws import FRAME, Array, between, draws, jitter, spread
from datasets.synthetic.figure import paint
from datasets.synthetic.outfits import Outfit, outfit
from datasets.synthetic.people import Person, person
from datasets.synthetic.pose import pose
from datasets.synthetic.raster import Canvas, Light, blob, rectangle, shadow, tube

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Passage:
    """All that one walk's frames share."""

    seed: int
    key: tuple[int, ...]
    person: Person
    outfit: Outfit
    camera: Camera
    walk: Walk
    cloth: Textures


def passage(
    seed: int, who: Person, wears: Outfit, outfit_number: int, camera_number: int, walk_number: int, height: int
) -> Passage:
    """One person in one outfit walking past one camera; textures are as fine as images of `height` need."""
    eye = camera(seed, camera_number)
    key = (seed, who.number, outfit_number, camera_number, walk_number)
    size = 32 if height <= 160 else 64
    return Passage(
        seed, key, who, wears, eye, walk(seed, who.number, outfit_number, eye, walk_number), textures(wears, key, size)
    )


def render_person(past: Passage, frame: int, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Frame `frame` of a walk.

    Returns: image uint8 [H, W, 3] and LIP-20 parsing uint8 [H, W], where the label is that of the topmost part
    at the pixel's centre.
    """
    height, width = size
    rng = draws(*past.key, FRAME, frame)
    moves, eye = past.walk, past.camera
    scene = scenes.panorama(past.seed, eye, height, width)
    backdrop = scenes.cut(scene, moves.place + frame * moves.drift / scenes.LENGTH, spread(rng, 0.35), height, width)
    canvas = Canvas(backdrop, _light(eye, moves))
    view = _view(past, frame, rng, size)
    if rng.random() < 0.30:
        _passers_by(canvas, past, rng, view)
    _cast_shadow(canvas, past, view)
    phase = moves.phase + frame * moves.step
    paint(Body(canvas, past.person, past.outfit, past.cloth, pose(past.person, phase, moves.pace), view))
    if rng.random() < 0.14:
        _occluder(canvas, rng)
    return _develop(canvas.image, past, rng, view), canvas.labels


def _light(eye: Camera, moves: Walk) -> Light:
    x, z = eye.light
    length = sqrt(x * x + 0.3 + z * z)
    diffuse = (0.94 - moves.ambient) / (0.8 * z / length)  # cameras expose: what faces them is about as bright anywhere
    return Light(x / length, -0.55 / length, z / length, moves.ambient, diffuse)


def _view(past: Passage, frame: int, rng: np.random.Generator, size: tuple[int, int]) -> View:
    height, width = size
    stature = 0.87 * (past.person.stature / 1.72) * (1 + spread(rng, 0.018))
    foot = min(0.975, 0.5 + stature * 0.5 + spread(rng, 0.02))
    return View(
        x=width * (0.5 + spread(rng, 0.045)),
        y=height * foot,
        scale=height * stature,
        yaw=past.walk.yaw + past.walk.turn * frame + spread(rng, 0.06),
        pitch=past.camera.pitch,
        distance=past.camera.distance,
    )


def _cast_shadow(canvas: Canvas, past: Passage, view: View) -> None:
    strength = past.walk.sharp_shadow
    shadow(canvas, (view.x, view.y), view.scale * 0.17, view.scale * 0.05, 0.65)
    lean = -past.camera.light[0]
    far = (view.x + lean * view.scale * 0.35, view.y - view.scale * 0.05)
    shadow(canvas, far, view.scale * (0.18 + 0.25 * abs(lean)), view.scale * 0.045, strength)


@lru_cache(maxsize=64)
def _stranger(seed: int, number: int, size: int) -> tuple[Person, Outfit, Textures]:
    who = person(seed, 900_000 + number)
    wears = outfit(seed, who.number, 0, who.female)
    return who, wears, textures(wears, (seed, number), size)


def _passers_by(canvas: Canvas, past: Passage, rng: np.random.Generator, view: View) -> None:
    """Somebody or a car further away: in the image, not in the map."""
    behind = Canvas(canvas.image, canvas.light)
    ground = canvas.height * (past.camera.base + between(rng, 0.06, 0.22))
    if past.camera.scene in ("street", "car park", "plaza") and rng.random() < 0.35:
        scenes.car(behind, between(rng, -1.2, 0.8) * canvas.width, ground, canvas.height * 0.6, rng)
        return
    who, wears, cloth = _stranger(past.seed, int(rng.integers(40)), past.cloth.trunk.shape[1])
    small = 0.45 + 0.4 * max(0.0, ground / canvas.height - 0.3)
    at = View(
        canvas.width * between(rng, -0.05, 1.05),
        ground,
        view.scale * small,
        between(rng, 0, 2 * pi),
        view.pitch,
        view.distance * 2,
    )
    paint(Body(behind, who, wears, cloth, pose(who, between(rng, 0, 2 * pi)), at))


def _occluder(canvas: Canvas, rng: np.random.Generator) -> None:
    """Something between camera and person: a post, a hedge or box below, somebody's shoulder at the edge."""
    height, width = canvas.height, canvas.width
    colour = jitter(rng, (0.35, 0.34, 0.33), 0.22)
    kind = rng.random()
    if kind < 0.35:
        x = width * (between(rng, 0.08, 0.32) if rng.random() < 0.5 else between(rng, 0.68, 0.92))
        tube(canvas, (x, -9.0), (x, height + 9.0), (width * 0.05, width * 0.05), colour, 0)
    elif kind < 0.7:
        top = height * between(rng, 0.70, 0.88)
        left = width * between(rng, -0.6, 0.4)
        rectangle(canvas, left, top, left + width * between(rng, 0.6, 1.0), height + 4.0, colour, 0)
        rectangle(canvas, left, top, left + width * 0.5, top + height * 0.02, (0.6, 0.6, 0.58), 0)
    else:
        side = -1 if rng.random() < 0.5 else 1
        x = width * (0.5 + side * between(rng, 0.50, 0.62))
        top = height * between(rng, 0.28, 0.5)
        tube(
            canvas,
            (x, top),
            (x, height + 9.0),
            (width * 0.16, width * 0.22, width * 0.2),
            jitter(rng, (0.4, 0.4, 0.42), 0.3),
            0,
        )
        blob(canvas, (x, top - height * 0.10), width * 0.12, height * 0.075, jitter(rng, (0.3, 0.24, 0.2), 0.15), 0)


def _develop(image: Array, past: Passage, rng: np.random.Generator, view: View) -> Pixels:
    moves, eye = past.walk, past.camera
    pixels = image.shape[1] / 96
    motion = abs(sin(view.yaw)) * moves.pace * pixels * 0.9
    image = optics.smear(image, motion) if motion >= 0.9 else image
    image = optics.blur(image, moves.softness * moves.softness * pixels * sqrt(pixels))
    cast = (moves.cast[0] * eye.cast[0], moves.cast[1] * eye.cast[1], moves.cast[2] * eye.cast[2])
    image = optics.expose(image, moves.gain * (1 + spread(rng, 0.02)), cast, eye.contrast)
    image = optics.grain(image, rng, moves.noise)
    return np.ascontiguousarray(
        (np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0)
    )
