"""Pose over a gait cycle: a person's joints in metres-free units (stature = 1), by phase."""

from dataclasses import dataclass
from math import cos, pi, sin

from datasets.synthetic.people import Person

Point = tuple[float, float, float]  # x to the person's left, y forward, z up; the ground is z = 0


@dataclass(frozen=True, slots=True)
class Pose:
    """Joints of one moment. Pairs are (left, right)."""

    pelvis: Point
    neck: Point
    head: Point
    shoulders: tuple[Point, Point]
    elbows: tuple[Point, Point]
    wrists: tuple[Point, Point]
    hands: tuple[Point, Point]
    hips: tuple[Point, Point]
    knees: tuple[Point, Point]
    ankles: tuple[Point, Point]
    toes: tuple[Point, Point]


def _leg(person: Person, side: float, phase: float, pace: float) -> tuple[Point, Point, Point, Point]:
    stride = person.stride * pace
    swing = 0.36 * stride * sin(phase) + 0.03
    lifted = max(0.0, cos(phase + 0.45))
    knee_bend = 0.06 + 0.72 * stride * lifted * lifted
    thigh, shin = person.leg * 0.49, person.leg * 0.445
    spread = side * (person.stance - person.hip * 0.55)
    hip = (side * person.hip * 0.55, 0.0, 0.0)
    knee = (hip[0] + spread * 0.5, thigh * sin(swing), -thigh * cos(swing))
    lower = swing - knee_bend
    ankle = (hip[0] + spread, knee[1] + shin * sin(lower), knee[2] - shin * cos(lower))
    tip = max(-1.0, min(0.35, 0.5 * lower))  # toes point down while the heel is up
    out = person.toe_out * side
    toe = (
        ankle[0] + 0.115 * sin(out) * cos(tip),
        ankle[1] + 0.115 * cos(out) * cos(tip),
        ankle[2] + 0.115 * sin(tip) - 0.022,
    )
    return hip, knee, ankle, toe


def _arm(person: Person, shoulder: Point, side: float, phase: float, pace: float) -> tuple[Point, Point, Point]:
    angle = -0.42 * person.swing * pace * sin(phase) + 0.02
    bend = 0.10 + person.elbow * (0.6 + 0.4 * max(0.0, -sin(phase)) * pace)
    upper, fore = person.arm * 0.53, person.arm * 0.47
    away = 0.10 + 0.05 * max(0.0, person.build)
    elbow = (
        shoulder[0] + side * upper * sin(away),
        shoulder[1] + upper * sin(angle),
        shoulder[2] - upper * cos(angle) * cos(away),
    )
    lower = angle + bend
    wrist = (elbow[0] - side * fore * 0.02, elbow[1] + fore * sin(lower), elbow[2] - fore * cos(lower))
    hand = (wrist[0], wrist[1] + 0.052 * sin(lower), wrist[2] - 0.052 * cos(lower))
    return elbow, wrist, hand


def pose(person: Person, phase: float, pace: float = 1.0) -> Pose:
    """Joints at `phase` (radians of the gait cycle; left leg swings forward at 0); `pace` 0 stands, 1 walks."""
    legs = [_leg(person, side, phase + shift, pace) for side, shift in ((1.0, 0.0), (-1.0, pi))]
    lowest = min(min(leg[2][2] - 0.035, leg[3][2] - 0.012) for leg in legs)
    bob = 0.006 * person.bounce * pace * (1 + cos(2 * phase))
    sway = 0.012 * person.sway * pace * cos(phase)
    rise = -lowest + bob

    def lift(point: Point, share: float = 1.0) -> Point:
        return point[0] + sway * share, point[1], point[2] + rise

    trunk = 1.0 - person.leg - person.head_height - person.neck
    lean = person.stoop + 0.03 * pace
    neck = (0.0, trunk * sin(lean), trunk * cos(lean))
    head = (0.0, neck[1] + person.head_forward + person.neck * sin(lean), neck[2] + person.neck * cos(lean))
    twist = 0.10 * person.swing * pace * sin(phase)
    shoulders, arms = [], []
    for side, shift in ((1.0, 0.0), (-1.0, pi)):
        wide = person.shoulder * 0.82
        point = (side * wide * cos(twist), neck[1] - side * wide * sin(twist), neck[2] - 0.036 - person.shoulder_drop)
        shoulders.append(lift(point))
        arms.append(_arm(person, shoulders[-1], side, phase + shift, pace))
    hips, knees, ankles, toes = ((lift(a, 0.6), lift(b, 0.6)) for a, b in zip(*legs, strict=True))
    elbows, wrists, hands = ((a, b) for a, b in zip(*arms, strict=True))
    return Pose(
        lift((0.0, 0.0, 0.0), 0.6),
        lift(neck),
        lift(head),
        (shoulders[0], shoulders[1]),
        elbows,
        wrists,
        hands,
        hips,
        knees,
        ankles,
        toes,
    )
