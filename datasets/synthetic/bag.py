"""A backpack, a shoulder bag or a handbag, and its straps."""

from math import cos

from datasets.synthetic.body import Body, between_spots, dim
from datasets.synthetic.labels import BACKGROUND
from datasets.synthetic.raster import KEEP, blob, tube


def is_bag_in_front(body: Body) -> bool:
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
        blob(body.canvas, pocket, width * 0.7, width * 0.45, dim(colour, 0.8), KEEP)
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
    view, pose, colour = body.view, body.pose, dim(body.outfit.bag_paint, 0.8)
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
