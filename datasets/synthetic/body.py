"""The inputs of painting a person's parts: the canvas, person and outfit, and the camera's view."""

from dataclasses import dataclass
from math import cos, sin, sqrt

from datasets.synthetic import fabric
from datasets.synthetic.draws import Array, Colour
from datasets.synthetic.outfits import Outfit
from datasets.synthetic.people import Person
from datasets.synthetic.pose import Point, Pose
from datasets.synthetic.raster import Canvas

Spot = tuple[float, float]


@dataclass(frozen=True, slots=True)
class View:
    """Where a person stands in the crop and how the camera sees them."""

    x: float  # column of the pelvis
    y: float  # row of the ground below it
    scale: float  # pixels per stature
    yaw: float  # 0 faces the camera, π/2 walks to the right
    pitch: float  # the camera looks down by this angle
    distance: float  # in statures: the smaller, the larger the head looks from above

    def see(self, point: Point) -> tuple[float, float, float]:
        """Column, row and depth (towards the viewer, in statures)."""
        c, s = cos(self.yaw), sin(self.yaw)
        right, towards = point[0] * c + point[1] * s, point[1] * c - point[0] * s
        up = point[2] * cos(self.pitch) - towards * sin(self.pitch)
        near = towards * cos(self.pitch) + (point[2] - 0.5) * sin(self.pitch)
        zoom = 1 / (1 - near / self.distance)
        foot = 0.5 * cos(self.pitch)
        return self.x + self.scale * zoom * right, self.y - self.scale * (foot + zoom * (up - foot)), towards

    def spot(self, point: Point) -> Spot:
        """Column and row."""
        x, y, _ = self.see(point)
        return x, y

    def width(self, lateral: float, sagittal: float) -> float:
        """Half width in pixels of an elliptic trunk section seen at this yaw."""
        return self.scale * sqrt((lateral * cos(self.yaw)) ** 2 + (sagittal * sin(self.yaw)) ** 2)


@dataclass(frozen=True, slots=True)
class Textures:
    """The textures of a walk's garments, float32 RGB."""

    trunk: Array
    sleeve: Array
    lower: Array


def textures(outfit: Outfit, walk: tuple[int, ...], size: int) -> Textures:
    """Textures of `size` rows for one walk (its key seeds the folds)."""
    return Textures(
        fabric.trunk(outfit, walk, size), fabric.sleeve(outfit, walk, size), fabric.lower(outfit, walk, size)
    )


@dataclass(frozen=True, slots=True)
class Body:
    """All inputs of painting one person."""

    canvas: Canvas
    person: Person
    outfit: Outfit
    cloth: Textures
    pose: Pose
    view: View

    @property
    def halo(self) -> float:
        """Reach of the soft shade under limbs, pixels."""
        return max(0.8, 0.012 * self.view.scale)

    def girth(self, base: float, heavy: float) -> float:
        """A limb's half width in pixels."""
        return self.view.scale * base * (1 + heavy * self.person.build)


def between_spots(a: Spot, b: Spot, share: float) -> Spot:
    """The point `share` of the way from `a` to `b`."""
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


def dim(colour: Colour, share: float) -> Colour:
    return colour[0] * share, colour[1] * share, colour[2] * share
