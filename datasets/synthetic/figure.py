"""A dressed person on a canvas: projects the joints, orders the parts by depth, paints them back to front."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import cos, pi, sin, sqrt

from datasets.synthetic import fabric
from datasets.synthetic.draws import Array, Colour
from datasets.synthetic.head import Skull, hair_behind, hair_lengths, hat, head, scarf
from datasets.synthetic.outfits import Outfit
from datasets.synthetic.people import Person
from datasets.synthetic.pose import Point, Pose
from datasets.synthetic.raster import KEEP, Canvas, Cloth, blob, tube

BACKGROUND, GLOVE, UPPER, DRESS, COAT, SOCKS, TROUSERS, JUMPSUIT, SCARF, SKIRT, FACE = (
    0,
    3,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    12,
    13,
)
ARMS, LEGS, SHOES = (14, 15), (16, 17), (18, 19)  # (left, right)

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
    """What a walk's garments are made of."""

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
    """All that painting one person needs."""

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


def paint(body: Body) -> None:
    """The whole person, back to front."""
    view, pose, outfit = body.view, body.pose, body.outfit
    skull = _skull(body)
    seen_from_front = cos(view.yaw) > 0
    parts: list[tuple[float, Callable[[], None]]] = []
    for side in (0, 1):
        depth = view.see(pose.knees[side])[2] * 0.2 + view.see(pose.ankles[side])[2] * 0.1
        parts.append((-2.0 + depth, partial(leg, body, side)))
        depth = 0.5 * view.see(pose.elbows[side])[2] + 0.5 * view.see(pose.wrists[side])[2]
        order = 0.1 + depth if depth > -0.06 else -2.5
        parts.append((order, partial(arm, body, side)))
    parts.append((-1.0, partial(hips, body)))
    parts.append((0.0, partial(neck, body, skull)))
    parts.append((0.01, partial(trunk, body)))
    hair_order = -0.01 if seen_from_front else 0.6  # behind the neck, or over the back
    parts.append((hair_order, partial(hair_lengths, body.canvas, body.person, skull)))
    parts.append((0.55, partial(crown, body, skull)))
    if outfit.bag != "none":
        front = _bag_depth(body)
        parts.append((0.7 if front else -3.0, partial(bag, body)))
        if outfit.bag != "handbag" and (seen_from_front or outfit.bag == "shoulder bag"):
            parts.append((0.02, partial(straps, body)))
    parts.sort(key=lambda part: part[0])
    for _, draw in parts:
        draw()


def _skull(body: Body) -> Skull:
    person, view = body.person, body.view
    half = person.head_height / 2
    base = body.pose.head
    x, y, _ = view.see((base[0], base[1] + 0.012, base[2] + half))
    zoom = 1 / (1 - 0.45 * sin(view.pitch) / view.distance)
    height = view.scale * half * zoom
    width = height * person.head_width * (1 + 0.12 * abs(sin(view.yaw)))
    return Skull(x, y, width, height, view.yaw, 0.10 * sin(view.yaw) * (1 + 4 * person.stoop))


def crown(body: Body, skull: Skull) -> None:
    """Head, hair, scarf and hat."""
    scarf(body.canvas, body.outfit, skull, SCARF)
    if body.person.hair_style != "bald":
        hair_behind(body.canvas, body.person, skull)
    head(body.canvas, body.person, body.outfit, skull)
    hat(body.canvas, body.outfit, skull)


def neck(body: Body, skull: Skull) -> None:
    """The neck, in the face's label as LIP has it."""
    width = body.girth(0.031, 0.16)
    tube(
        body.canvas,
        (skull.x, skull.y + skull.height * 0.5),
        body.view.spot(body.pose.neck),
        (width, width * 1.15),
        _dim(body.person.skin, 0.9),
        FACE,
    )


def _dim(colour: Colour, share: float) -> Colour:
    return colour[0] * share, colour[1] * share, colour[2] * share


def upper_label(outfit: Outfit) -> int:
    """LIP's label of the upper garment."""
    if outfit.top == "dress":
        return DRESS
    if outfit.top == "jumpsuit":
        return JUMPSUIT
    return COAT if outfit.top in ("coat", "jacket", "vest") else UPPER


def lower_label(outfit: Outfit) -> int:
    """LIP's label of the lower garment."""
    if outfit.top in ("dress", "jumpsuit"):
        return upper_label(outfit)
    return SKIRT if outfit.has_skirt else TROUSERS


def trunk(body: Body) -> None:
    """The upper garment from the collar to its hem."""
    person, view, outfit = body.person, body.view, body.outfit
    loose = 0.35 + outfit.loose if outfit.top in ("coat", "jacket", "hoodie", "sweater") else 0.55 * outfit.loose
    ease = 0.003 + 0.011 * loose
    fat = 1 + 0.22 * person.build
    belly = 0.030 * person.belly
    shoulder, hip = person.shoulder, person.hip
    waist = (0.45 * shoulder + 0.55 * hip) * (0.86 if person.female else 0.93) * (1 + 0.14 * person.build) + belly * 0.5
    sections = [  # lateral and sagittal half widths, collar to hip
        (0.042, 0.036),
        (shoulder * 0.86 - person.shoulder_drop * 0.8, 0.052 * fat),
        (shoulder * 0.98 + ease * 0.4, 0.064 * fat + ease * 0.4),
        (shoulder * 0.90 + ease * 0.6, 0.072 * fat + ease * 0.6 + (0.010 if person.female else 0.0)),
        (0.5 * (shoulder * 0.86 + waist) + ease, 0.066 * fat + ease + belly * 0.4),
        (waist + ease, 0.060 * fat + ease + belly),
        (0.4 * waist + 0.6 * hip + ease, 0.064 * fat + ease + belly * 0.9),
        (hip + ease, 0.072 * fat + ease + belly * 0.4),
    ]
    pelvis, top = body.pose.pelvis, body.pose.neck
    start = view.spot((top[0], top[1], top[2] + 0.012))
    long_coat = outfit.top == "coat"
    drop = 0.02 + 0.04 * outfit.loose if outfit.top not in ("dress", "jumpsuit") else -0.01
    end = view.spot((pelvis[0], pelvis[1] * 0.5, pelvis[2] - drop))
    cloth = Cloth(body.cloth.trunk, view.yaw, 0.0, 0.8 if long_coat else 1.0)
    if long_coat:
        _coat_tails(body, sections[-1], end)
    tube(
        body.canvas,
        start,
        end,
        [view.width(a, b) for a, b in sections],
        cloth,
        upper_label(outfit),
        flat=(False, True),
        halo=body.halo * 0.6,
    )
    if (
        outfit.top in ("t-shirt", "tank top", "blouse", "polo shirt", "dress")
        and cos(view.yaw) > 0.2
        and outfit.scarf is None
    ):
        deep = 0.022 if outfit.top != "tank top" else 0.035
        x, y, _ = view.see((top[0], top[1] + 0.03, top[2]))
        blob(body.canvas, (x, y), view.scale * 0.026, view.scale * deep, body.person.skin, FACE)


def _coat_tails(body: Body, section: tuple[float, float], start: Spot) -> None:
    """The coat below the hip, down to the thighs or knees."""
    view, pose = body.view, body.pose
    knees = [view.spot(knee) for knee in pose.knees]
    share = 0.55 + 0.55 * body.outfit.loose
    hem = [between_spots(start, knee, share) for knee in knees]
    width = view.width(section[0] + 0.012, section[1] + 0.012)
    spread = max(width * 1.05, abs(hem[0][0] - hem[1][0]) / 2 + body.girth(0.045, 0.1))
    middle = ((hem[0][0] + hem[1][0]) / 2, (hem[0][1] + hem[1][1]) / 2)
    cloth = Cloth(body.cloth.trunk, view.yaw, 0.8, 1.0)
    start = (start[0], start[1] - 0.02 * view.scale)  # under the trunk's edge
    tube(body.canvas, start, middle, (width, spread), cloth, COAT, flat=(True, True))


def hips(body: Body) -> None:
    """The seat of the trousers, or the whole skirt."""
    person, view, outfit, pose = body.person, body.view, body.outfit, body.pose
    waist = view.width(person.hip + 0.002, 0.068 * (1 + 0.16 * person.build))
    top = view.spot((pose.pelvis[0], 0.0, pose.pelvis[2] + 0.05))
    if not outfit.has_skirt:
        low = view.spot((pose.pelvis[0], 0.0, pose.pelvis[2] - 0.015))
        cloth = Cloth(body.cloth.lower, view.yaw, 0.0, 0.2)
        tube(body.canvas, top, low, (waist * 0.96, waist), cloth, lower_label(outfit), flat=(True, False))
        return
    hem = [_along_leg(body, side, outfit.hem) for side in (0, 1)]
    middle = ((hem[0][0] + hem[1][0]) / 2, max(hem[0][1], hem[1][1]) * 0.6 + min(hem[0][1], hem[1][1]) * 0.4)
    flare = 1.05 + 0.35 * outfit.loose
    spread = max(waist * flare, abs(hem[0][0] - hem[1][0]) / 2 + body.girth(0.04, 0.15))
    cloth = Cloth(body.cloth.lower, view.yaw, 0.0, 0.9)
    tube(
        body.canvas,
        top,
        middle,
        (waist * 0.9, waist * 1.02, 0.4 * waist + 0.6 * spread, spread),
        cloth,
        lower_label(outfit),
        flat=(True, True),
        halo=body.halo,
    )


def _along_leg(body: Body, side: int, share: float) -> Spot:
    """The spot on a leg at `share` of its length from the hip."""
    hip, knee, ankle = (body.view.spot(p[side]) for p in (body.pose.hips, body.pose.knees, body.pose.ankles))
    return between_spots(hip, knee, share * 2) if share < 0.5 else between_spots(knee, ankle, share * 2 - 1)


def leg(body: Body, side: int) -> None:
    """Bare leg, sock, shoe and trouser leg."""
    view, pose, outfit = body.view, body.pose, body.outfit
    hip, knee, ankle = (view.spot(p[side]) for p in (pose.hips, pose.knees, pose.ankles))
    thigh, calf, bone = body.girth(0.050, 0.26), body.girth(0.034, 0.22), body.girth(0.020, 0.10)
    bare = outfit.hem < 0.9
    if bare:
        skin = _dim(body.person.skin, 0.95)
        tube(body.canvas, hip, knee, (thigh, thigh * 0.8, calf), skin, LEGS[side], halo=body.halo)
        tube(body.canvas, knee, ankle, (calf, calf * 1.1, bone * 1.2, bone), skin, LEGS[side])
        if outfit.shoes != "sandals":
            sock = between_spots(ankle, knee, 0.35)
            tube(body.canvas, sock, ankle, (bone * 1.35, bone * 1.15), outfit.sock, SOCKS, flat=(True, False))
    shoe(body, side)
    if not outfit.has_skirt:
        _trouser_leg(body, hip, knee, ankle, (thigh, calf, bone))


def _trouser_leg(body: Body, hip: Spot, knee: Spot, ankle: Spot, widths: tuple[float, float, float]) -> None:
    outfit, view = body.outfit, body.view
    cut = {"leggings": 0.0, "jeans": 0.25, "trousers": 0.45, "joggers": 0.5, "wide trousers": 1.2}.get(
        outfit.bottom, 0.45
    )
    ease = view.scale * (0.002 + 0.010 * cut * (0.4 + outfit.loose))
    label = lower_label(outfit)
    thigh, calf, bone = widths
    share = min(1.0, outfit.hem * 2)
    knee_end = between_spots(hip, knee, share)
    low = thigh + (calf - thigh) * share + ease
    cloth = Cloth(body.cloth.lower, view.yaw, 0.1, 0.1 + 0.45 * share)
    tube(
        body.canvas,
        hip,
        knee_end,
        (thigh + ease, (thigh + low) / 2 + ease, low),
        cloth,
        label,
        flat=(False, share < 1),
        halo=body.halo,
    )
    if outfit.hem > 0.5:
        end = between_spots(knee, ankle, outfit.hem * 2 - 1)
        cloth = Cloth(body.cloth.lower, view.yaw, 0.55, 1.0)
        tube(
            body.canvas, knee, end, (low, calf + ease * 1.3, bone * 1.25 + ease * 1.8), cloth, label, flat=(False, True)
        )


def shoe(body: Body, side: int) -> None:
    """Heel to toe, with a sole."""
    view, outfit = body.view, body.outfit
    ankle, toe = body.pose.ankles[side], body.pose.toes[side]
    heel = (ankle[0], ankle[1] - 0.022, ankle[2] - 0.012)
    size = view.scale * 0.019
    if outfit.shoes == "boots":
        shaft = between_spots(view.spot(ankle), view.spot(body.pose.knees[side]), 0.4)
        tube(
            body.canvas,
            shaft,
            view.spot(ankle),
            (size * 1.5, size * 1.25),
            outfit.shoe,
            SHOES[side],
            flat=(True, False),
        )
    start, end = view.spot(heel), view.spot(toe)
    sole = _dim(outfit.shoe, 0.5) if outfit.shoes != "sneakers" else (0.86, 0.86, 0.84)
    drop = size * 0.35
    tube(
        body.canvas, (start[0], start[1] + drop), (end[0], end[1] + drop), (size * 0.95, size * 0.9), sole, SHOES[side]
    )
    tube(body.canvas, start, end, (size * 1.05, size, size * 0.8), outfit.shoe, SHOES[side])
    if outfit.shoes == "sandals":
        tube(
            body.canvas,
            between_spots(start, end, 0.3),
            between_spots(start, end, 0.6),
            (size * 0.7,) * 2,
            body.person.skin,
            LEGS[side],
        )


def arm(body: Body, side: int) -> None:
    """Bare arm, sleeve, hand or glove."""
    view, pose, outfit = body.view, body.pose, body.outfit
    shoulder, elbow, wrist, hand = (view.spot(p[side]) for p in (pose.shoulders, pose.elbows, pose.wrists, pose.hands))
    top, mid, end = body.girth(0.028, 0.28), body.girth(0.023, 0.25), body.girth(0.016, 0.12)
    skin = body.person.skin
    palm = view.scale * 0.019
    tube(
        body.canvas, wrist, hand, (end, palm, palm * 0.8), outfit.gloves or skin, GLOVE if outfit.gloves else ARMS[side]
    )
    if outfit.sleeve < 0.9:
        tube(body.canvas, elbow, wrist, (mid, mid * 0.95, end), skin, ARMS[side], halo=body.halo)
        tube(body.canvas, shoulder, elbow, (top, top, mid), skin, ARMS[side], halo=body.halo)
    if outfit.sleeve < 0.05:
        return
    thick = outfit.top in ("coat", "jacket", "hoodie", "sweater")
    ease = view.scale * (0.003 + (0.007 if thick else 0.004) * (0.4 + outfit.loose))
    label, share = upper_label(outfit), min(1.0, outfit.sleeve * 2)
    yaw = view.yaw + (pi / 2 if side else -pi / 2)
    if outfit.sleeve > 0.5:
        cloth = Cloth(body.cloth.sleeve, yaw, 0.5, 1.0)
        tube(
            body.canvas,
            elbow,
            wrist,
            (mid + ease * 1.2, end + ease * 1.2),
            cloth,
            label,
            flat=(False, True),
            halo=body.halo,
        )
    low = between_spots(shoulder, elbow, share)
    cloth = Cloth(body.cloth.sleeve, yaw, 0.0, 0.5 * share)
    tube(
        body.canvas,
        shoulder,
        low,
        (top + ease, top + ease, mid + ease * 1.2),
        cloth,
        label,
        flat=(False, share < 1),
        halo=body.halo,
    )


def _bag_depth(body: Body) -> bool:
    """Whether the bag is in front of the body as the camera sees it."""
    if body.outfit.bag == "backpack":
        return cos(body.view.yaw) < 0.15
    return body.view.see((-0.15, 0.0, 0.4))[2] > -0.08  # carried on the right


def bag(body: Body) -> None:
    """LIP has no label for bags: what they cover is background."""
    view, pose, colour = body.view, body.pose, body.outfit.bag_paint
    neck, pelvis = pose.neck, pose.pelvis
    if body.outfit.bag == "backpack":
        top = view.spot((neck[0], neck[1] - 0.10, neck[2] - 0.06))
        end = view.spot((pelvis[0], pelvis[1] - 0.11, pelvis[2] + 0.10))
        width = view.width(0.085, 0.055)
        tube(body.canvas, top, end, (width * 0.8, width, width * 1.05, width), colour, BACKGROUND, halo=body.halo)
        pocket = between_spots(top, end, 0.7)
        blob(body.canvas, pocket, width * 0.7, width * 0.45, _dim(colour, 0.8), KEEP)
        return
    place = (
        (-0.13, 0.0, pelvis[2] - 0.02)
        if body.outfit.bag == "shoulder bag"
        else (pose.hands[1][0] - 0.01, pose.hands[1][1], pose.hands[1][2] - 0.09)
    )
    x, y = view.spot(place)
    wide, high = view.width(0.032, 0.085), view.scale * 0.062
    tube(
        body.canvas,
        (x, y - high * 0.6),
        (x, y + high * 0.6),
        (wide * 0.8, wide, wide),
        colour,
        BACKGROUND,
        halo=body.halo,
    )


def straps(body: Body) -> None:
    """A backpack's two straps, or the shoulder bag's one across the chest."""
    view, pose, colour = body.view, body.pose, _dim(body.outfit.bag_paint, 0.8)
    width = max(0.6, view.scale * 0.010)
    towards = 0.06 if cos(view.yaw) > 0 else -0.06
    if body.outfit.bag == "backpack":
        for side in (-1, 1):
            top = view.spot((side * 0.055, pose.neck[1] + 0.05, pose.neck[2] - 0.01))
            end = view.spot((side * 0.085, pose.neck[1] + 0.06, pose.neck[2] - 0.17))
            tube(body.canvas, top, end, (width, width), colour, BACKGROUND)
        return
    top = view.spot((0.06, pose.neck[1] + towards, pose.neck[2] - 0.015))
    end = view.spot((-0.115, towards, pose.pelvis[2] + 0.02))
    tube(body.canvas, top, end, (width, width), colour, BACKGROUND)
