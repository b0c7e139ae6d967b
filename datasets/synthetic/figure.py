"""A dressed person on a canvas: orders the parts by depth and paints them back to front."""

from collections.abc import Callable
from functools import partial
from math import cos, sin

from datasets.synthetic.bag import bag, is_bag_in_front, straps
from datasets.synthetic.body import Body, dim
from datasets.synthetic.head import Skull, hair_behind, hair_lengths, hat, head, scarf
from datasets.synthetic.labels import FACE, SCARF
from datasets.synthetic.limbs import arm, leg
from datasets.synthetic.raster import tube
from datasets.synthetic.trunk import hips, trunk


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
        front = is_bag_in_front(body)
        parts.append((0.7 if front else -3.0, partial(bag, body)))
        if outfit.bag != "handbag" and (seen_from_front or outfit.bag == "shoulder bag"):
            parts.append((0.02, partial(straps, body)))
    parts.sort(key=lambda part: part[0])
    for _, paint_part in parts:
        paint_part()


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
        dim(body.person.skin, 0.9),
        FACE,
    )
