"""The head: skull, hair, face, beard, glasses and hats, in coordinates that turn with it."""

from dataclasses import dataclass
from math import cos, sin

import numpy as np

from datasets.synthetic.draws import Array, Colour
from datasets.synthetic.labels import FACE, HAIR, HAT, SUNGLASSES
from datasets.synthetic.outfits import Outfit
from datasets.synthetic.people import Person
from datasets.synthetic.raster import Canvas, blob, dome, plane, shade, tube

# Where hair ends on the skull (−1 crown … 1 chin) at the front, the sides and the back.
HAIRLINES = {
    "bald": (-2.0, -1.6, -1.2),
    "buzz": (-0.62, -0.12, 0.40),
    "short": (-0.55, 0.00, 0.52),
    "quiff": (-0.62, -0.05, 0.42),
    "curly": (-0.50, 0.22, 0.75),
    "bob": (-0.45, 0.70, 1.10),
    "long": (-0.50, 0.75, 1.20),
    "ponytail": (-0.60, -0.05, 0.50),
    "bun": (-0.62, -0.05, 0.50),
}
# Extra hair around the skull: how much wider and higher at full volume, how far it hangs (head heights).
VOLUMES = {
    "buzz": (0.04, 0.04, 0.0),
    "short": (0.20, 0.20, 0.0),
    "quiff": (0.08, 0.46, 0.0),
    "curly": (0.62, 0.55, 0.0),
    "bob": (0.42, 0.18, 0.95),
    "long": (0.26, 0.14, 1.75),
    "ponytail": (0.06, 0.08, 0.0),
    "bun": (0.06, 0.08, 0.0),
}


@dataclass(frozen=True, slots=True)
class Skull:
    """Where the head is on the screen: centre, half axes (pixels), turn towards the viewer, tilt."""

    x: float
    y: float
    width: float
    height: float
    yaw: float
    tilt: float

    def at(self, right: float, down: float, front: float = 0.0) -> tuple[float, float]:
        """A place in half axes: to the screen's right, down, and towards the face."""
        return self.x + (right + front * sin(self.yaw)) * self.width, self.y + down * self.height


def hair_behind(canvas: Canvas, person: Person, skull: Skull) -> None:
    """Hair around the skull, as far as the skull does not cover it."""
    if person.hair_style == "bald":
        return
    wide, high, _ = VOLUMES[person.hair_style]
    volume = 0.35 + 0.65 * person.hair_volume
    blob(
        canvas,
        skull.at(0, -0.10 - 0.5 * high * volume, -0.10),
        skull.width * (1.03 + wide * volume),
        skull.height * (0.94 + 0.5 * high * volume),
        person.hair,
        HAIR,
    )


def hair_lengths(canvas: Canvas, person: Person, skull: Skull) -> None:
    """What hangs down: over the back when seen from behind, behind the neck when seen from the front."""
    wide, _, hang = VOLUMES.get(person.hair_style, (0.0, 0.0, 0.0))
    if hang:
        reach = hang * (0.75 + 0.5 * person.hair_length) * 2 - 1
        width = skull.width * (0.95 + wide * (0.35 + 0.65 * person.hair_volume)) * (1 - 0.25 * abs(sin(skull.yaw)))
        tube(
            canvas,
            skull.at(0, -0.2, -0.30),
            skull.at(0, reach, -0.55),
            (width * 0.9, width, width * 0.95, width * 0.7),
            person.hair,
            HAIR,
        )
    elif person.hair_style == "ponytail":
        width = skull.width * (0.22 + 0.22 * person.hair_volume)
        tube(
            canvas,
            skull.at(0, -0.25, -0.98),
            skull.at(0, 0.7 + 1.4 * person.hair_length, -1.25),
            (width, width * 1.3, width * 0.6),
            person.hair,
            HAIR,
        )
    elif person.hair_style == "bun":
        size = skull.width * (0.32 + 0.22 * person.hair_volume)
        blob(canvas, skull.at(0, -0.75 if person.hair_length > 0.5 else -0.15, -0.95), size, size, person.hair, HAIR)


def _soft(value: Array, sharpness: float) -> Array:
    return np.clip(value * np.float32(sharpness) + np.float32(0.5), 0, 1)


def head(canvas: Canvas, person: Person, outfit: Outfit, skull: Skull) -> None:
    """Skull with face and the hair that grows on it."""
    shape = dome(canvas, (skull.x, skull.y), skull.width, skull.height, skull.tilt, 0.10 + 0.30 * person.jaw)
    if shape is None:
        return
    turn, away = np.float32(round(cos(skull.yaw), 6)), np.float32(round(sin(skull.yaw), 6))
    across = shape.x * turn - shape.z * away  # towards the left ear
    front = shape.x * away + shape.z * turn  # towards the nose
    sharp = max(3.0, 0.9 * skull.height)  # one pixel of softness
    colour = _face(person, outfit, across, shape.y, front, sharp)
    hairy = _hairline(person, shape.y, front, sharp)
    colour = colour + hairy * (plane(person.hair) - colour)
    colour *= shade(canvas.light, np.clip(shape.x, -1, 1), np.clip(shape.y, -1, 1), shape.z)
    canvas.put(*shape.box, shape.distance, colour, FACE)
    labels = canvas.labels[shape.box]
    labels[(shape.distance < 0) & (hairy > 0.5)] = HAIR
    if outfit.sunglasses:
        dark = (
            (np.abs(shape.y + 0.05) < 0.17)
            & (front > 0.1)
            & (np.abs(across) < 0.75)
            & (shape.distance < 0)
            & (hairy <= 0.5)
        )
        labels[dark] = SUNGLASSES


def _hairline(person: Person, down: Array, front: Array, sharp: float) -> Array:
    fore, side, back = HAIRLINES[person.hair_style]
    fore += 0.28 * person.fringe if person.hair_style != "bald" else 0.0
    limit = np.float32(side) + np.where(front > 0, front * np.float32(fore - side), front * np.float32(side - back))
    return _soft(limit - down, sharp)


def _face(person: Person, outfit: Outfit, across: Array, down: Array, front: Array, sharp: float) -> Array:
    """Colour of the skin's side of the head, [3, h, w]."""
    facing = _soft(front - 0.12, sharp)
    colour = plane(person.skin) * np.ones_like(down)
    side = np.abs(across)
    eye = np.clip(1.6 - ((side - 0.38) / 0.20) ** 2 - ((down + 0.05) / 0.10) ** 2, 0, 1) * facing
    brow = np.clip(1.4 - ((side - 0.38) / 0.26) ** 2 - ((down + 0.26) / 0.07) ** 2, 0, 1) * facing
    mouth = np.clip(1.4 - (side / 0.28) ** 2 - ((down - 0.52) / 0.07) ** 2, 0, 1) * facing
    nose = np.clip(1.2 - (side / 0.14) ** 2 - ((down - 0.22) / 0.10) ** 2, 0, 1) * facing
    dark = plane((0.10, 0.08, 0.07))
    colour = colour * (1 - 0.16 * nose)
    colour = colour + mouth * (0.75 * plane((0.62, 0.28, 0.27)) - 0.75 * colour)
    colour = colour + 0.8 * brow * (plane(person.hair) - colour)
    colour = colour + 0.75 * eye * (dark - colour)
    beard = _beard(person.beard, side, down, front, sharp)
    if beard is not None:
        colour = colour + beard * (plane(person.hair) - colour)
    return _spectacles(colour, "sun" if outfit.sunglasses else person.glasses, side, down, front, sharp)


def _beard(kind: str, side: Array, down: Array, front: Array, sharp: float) -> Array | None:
    if kind == "none":
        return None
    lip = np.clip(1.5 - (side / 0.40) ** 2 - ((down - 0.38) / 0.09) ** 2, 0, 1) * _soft(front - 0.1, sharp)
    chin = _soft(0.42 - side, sharp) * _soft(down - 0.62, sharp) * _soft(front, sharp)
    if kind == "moustache":
        return lip
    if kind == "goatee":
        return np.maximum(lip, chin)
    line = np.float32(0.30) + np.float32(0.25) * np.maximum(front, 0)  # the beard's edge sinks towards the mouth
    cheeks = _soft(np.subtract(down, line), sharp) * _soft(front + 0.12, sharp)
    return np.maximum(lip, cheeks) * np.float32(0.92 if kind == "full" else 0.42)


def _spectacles(colour: Array, kind: str, side: Array, down: Array, front: Array, sharp: float) -> Array:
    if kind == "none":
        return colour
    q = np.sqrt(((side - 0.40) / 0.33) ** 2 + ((down + 0.05) / 0.19) ** 2)
    facing = _soft(front - 0.05, sharp)
    thickness = {"thin": 0.16, "thick": 0.34, "sun": 0.3}[kind]
    rim = np.clip((np.float32(thickness) - np.abs(q - 1)) * np.float32(sharp * 0.5), 0, 1) * facing
    rim = np.maximum(rim, _soft(0.05 - np.abs(down + 0.10), sharp) * _soft(front + 0.35, sharp) * (1 - facing) * 0.8)
    if kind == "sun":
        rim = np.maximum(rim, np.clip((1.1 - q) * np.float32(sharp), 0, 1) * facing)
    strength = np.float32(0.6 if kind == "thin" else 0.92)
    return colour + strength * rim * (plane((0.07, 0.06, 0.07)) - colour)


def hat(canvas: Canvas, outfit: Outfit, skull: Skull) -> None:
    """A cap, a beanie or a hat with a brim."""
    colour: Colour = outfit.hat_paint
    if outfit.hat == "beanie":
        blob(canvas, skull.at(0, -0.52, -0.05), skull.width * 1.12, skull.height * 0.66, colour, HAT)
        band: Colour = (colour[0] * 0.8, colour[1] * 0.8, colour[2] * 0.8)
        tube(canvas, skull.at(-0.88, -0.22), skull.at(0.88, -0.22), (skull.height * 0.13,) * 2, band, HAT)
    elif outfit.hat == "cap":
        blob(canvas, skull.at(0, -0.55, -0.05), skull.width * 1.08, skull.height * 0.55, colour, HAT)
        if cos(skull.yaw) > -0.35:
            tube(
                canvas,
                skull.at(-0.55 * abs(cos(skull.yaw)), -0.36, 0.5),
                skull.at(0.55 * abs(cos(skull.yaw)), -0.34, 1.25),
                (skull.height * 0.10,) * 2,
                colour,
                HAT,
            )
    elif outfit.hat == "hat":
        tube(canvas, skull.at(-1.7, -0.42), skull.at(1.7, -0.42), (skull.height * 0.10,) * 2, colour, HAT)
        blob(canvas, skull.at(0, -0.75), skull.width * 1.0, skull.height * 0.52, colour, HAT)


def scarf(canvas: Canvas, outfit: Outfit, skull: Skull, label: int) -> None:
    """A scarf round the neck, one end hanging in front."""
    if outfit.scarf is None:
        return
    tube(canvas, skull.at(-0.75, 1.22), skull.at(0.75, 1.22), (skull.height * 0.34,) * 2, outfit.scarf, label)
    if cos(skull.yaw) > -0.2:
        dark: Colour = (outfit.scarf[0] * 0.85, outfit.scarf[1] * 0.85, outfit.scarf[2] * 0.85)
        tube(
            canvas,
            skull.at(0.25, 1.4, 0.3),
            skull.at(0.35, 2.8, 0.4),
            (skull.width * 0.34,) * 2,
            dark,
            label,
            flat=(False, True),
        )
