"""Trunk and hips: the upper garment, a coat's tails, the seat of the trousers or the skirt."""

from math import cos

from datasets.synthetic.body import Body, Spot, between_spots
from datasets.synthetic.labels import COAT, FACE, lower_label, upper_label
from datasets.synthetic.raster import Cloth, blob, tube


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
