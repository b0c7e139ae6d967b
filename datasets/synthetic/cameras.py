"""Cameras: where they hang, how they see, and what changes there from walk to walk."""

from dataclasses import dataclass
from math import pi

from datasets.synthetic.draws import CAMERA, WALK, Colour, between, draws, spread

SCENES = ("street", "park", "station", "car park", "plaza", "shop")


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera. Angles in radians, lengths in crop heights, light as factors."""

    number: int
    scene: str
    heading: float  # direction in which most people walk: 0 towards the camera, π/2 to the right
    pitch: float
    distance: float
    base: float  # row where the ground meets what stands behind it, in crop heights
    light: tuple[float, float]  # from the left (−) or right (+), and how much from the front
    contrast: float
    cast: Colour
    softness: float  # blur, pixels at a crop height of 96
    noise: float
    quality: int  # of the JPEGs


@dataclass(frozen=True, slots=True)
class Walk:
    """What stays during one walk past a camera."""

    yaw: float
    turn: float  # yaw per frame
    pace: float
    phase: float
    step: float  # phase per frame
    place: float  # column in the scene, 0..1
    drift: float  # columns per frame, crop widths
    gain: float
    ambient: float
    cast: Colour
    softness: float
    noise: float
    sharp_shadow: float


def camera(seed: int, number: int) -> Camera:
    """Camera `number` of the world `seed`: kinds of scene in turn, so that neighbours differ."""
    rng = draws(seed, CAMERA, number)
    pitch = between(rng, 0.06, 0.36)
    return Camera(
        number=number,
        scene=SCENES[number % len(SCENES)],
        heading=(0.0, pi / 2, 0.6, pi / 4, 1.2, 0.2)[number % 6] + spread(rng, 0.15),
        pitch=pitch,
        distance=between(rng, 3.2, 7.0),
        base=max(0.06, 0.62 - 1.5 * pitch + between(rng, -0.06, 0.06)),
        light=(between(rng, -0.7, 0.7), between(rng, 0.5, 0.9)),
        contrast=between(rng, 0.88, 1.10),
        cast=(1 + spread(rng, 0.025), 1 + spread(rng, 0.015), 1 + spread(rng, 0.03)),
        softness=between(rng, 0.25, 0.75),
        noise=between(rng, 0.004, 0.016),
        quality=int(between(rng, 80, 93)),
    )


def walk(seed: int, person: int, outfit: int, camera: Camera, number: int) -> Walk:
    """Walk `number` of a person in an outfit past a camera."""
    rng = draws(seed, WALK, person, outfit, camera.number, number)
    away = rng.random() < 0.42
    yaw = camera.heading + (pi if away else 0.0) + spread(rng, 0.30)
    if rng.random() < 0.12:
        yaw = between(rng, 0.0, 2 * pi)
    stands = rng.random() < 0.10
    warm = spread(rng, 0.028)
    return Walk(
        yaw=yaw,
        turn=spread(rng, 0.10),
        pace=between(rng, 0.0, 0.15) if stands else between(rng, 0.75, 1.1),
        phase=between(rng, 0.0, 2 * pi),
        step=between(rng, 1.0, 2.2),
        place=float(rng.random()),
        drift=(0.02 if stands else between(rng, 0.15, 0.5)) * (1 if rng.random() < 0.5 else -1),
        gain=1 + spread(rng, 0.05),
        ambient=between(rng, 0.42, 0.68),
        cast=(1 + warm + spread(rng, 0.016), 1 + spread(rng, 0.014), 1 - warm + spread(rng, 0.016)),
        softness=camera.softness * between(rng, 0.7, 1.5),
        noise=camera.noise * between(rng, 0.7, 1.6),
        sharp_shadow=between(rng, 0.15, 0.6),
    )
