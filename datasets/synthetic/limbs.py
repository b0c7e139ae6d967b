"""Legs, shoes and arms, bare or in what covers them."""

from math import pi

from datasets.synthetic.body import Body, Spot, between_spots, dim
from datasets.synthetic.labels import ARMS, GLOVE, LEGS, SHOES, SOCKS, lower_label, upper_label
from datasets.synthetic.raster import Cloth, tube


def leg(body: Body, side: int) -> None:
    """Bare leg, sock, shoe and trouser leg."""
    view, pose, outfit = body.view, body.pose, body.outfit
    hip, knee, ankle = (view.spot(p[side]) for p in (pose.hips, pose.knees, pose.ankles))
    thigh, calf, bone = body.girth(0.050, 0.26), body.girth(0.034, 0.22), body.girth(0.020, 0.10)
    bare = outfit.hem < 0.9
    if bare:
        skin = dim(body.person.skin, 0.95)
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
    sole = dim(outfit.shoe, 0.5) if outfit.shoes != "sneakers" else (0.86, 0.86, 0.84)
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
