"""Identity: what stays when the clothes change. Spread over many weak cues, so that no single one names a person."""

from dataclasses import dataclass

from datasets.synthetic.draws import IDENTITY, Colour, between, choose, draws, jitter, spread

# Few, crowded clusters: skin and hair colour alone must not identify people.
SKINS: dict[str, Colour] = {"fair": (0.86, 0.69, 0.60), "olive": (0.74, 0.56, 0.44), "brown": (0.46, 0.31, 0.23)}
SKIN_SHARE = {"fair": 0.45, "olive": 0.35, "brown": 0.20}
HAIRS: dict[str, Colour] = {
    "black": (0.09, 0.08, 0.08),
    "brown": (0.25, 0.17, 0.12),
    "fair": (0.62, 0.48, 0.28),
    "grey": (0.60, 0.60, 0.61),
}
HAIR_SHARE = {
    "fair": {"black": 0.2, "brown": 0.35, "fair": 0.3, "grey": 0.15},
    "olive": {"black": 0.45, "brown": 0.4, "grey": 0.15},
    "brown": {"black": 0.8, "brown": 0.2},
}
MALE_STYLES = {"bald": 0.8, "buzz": 1.2, "short": 2.2, "quiff": 1.2, "curly": 1.0, "bob": 0.5, "bun": 0.4}
FEMALE_STYLES = {"short": 0.7, "curly": 0.9, "bob": 1.6, "long": 2.0, "ponytail": 1.6, "bun": 1.2}
BEARDS = {"none": 1.7, "stubble": 0.8, "moustache": 0.6, "goatee": 0.6, "full": 1.3}
GLASSES = {"none": 1.9, "thin": 0.5, "thick": 0.9}


@dataclass(frozen=True, slots=True)
class Person:
    """One identity. Lengths are fractions of the stature, angles radians, colours RGB in 0..1."""

    number: int
    female: bool
    stature: float  # metres
    build: float  # −1 lean … 1.6 heavy: girth of trunk and limbs
    shoulder: float  # half width
    hip: float  # half width
    belly: float  # 0 … 1
    leg: float  # height of the hip joint
    arm: float
    neck: float
    head_height: float
    head_width: float  # over head_height
    jaw: float  # 0 square … 1 pointed
    stoop: float  # lean of the trunk
    head_forward: float
    shoulder_drop: float
    stride: float
    swing: float
    elbow: float
    bounce: float
    sway: float
    stance: float  # half distance of the feet
    toe_out: float
    skin_name: str
    skin: Colour
    hair_name: str
    hair: Colour
    hair_style: str
    hair_volume: float  # 0 flat … 1 full
    hair_length: float  # 0 … 1, of the style's own range
    fringe: float  # 0 high forehead … 1 covered
    beard: str
    glasses: str


def person(seed: int, number: int) -> Person:
    """The identity `number` of the world `seed`."""
    rng = draws(seed, IDENTITY, number)
    female = rng.random() < 0.5
    skin_name = choose(rng, SKIN_SHARE)
    hair_name = choose(rng, HAIR_SHARE[skin_name])
    build = max(-1.3, min(2.2, spread(rng, 1.15)))
    return Person(
        number=number,
        female=female,
        stature=(1.65 if female else 1.78) + spread(rng, 0.10),
        build=build,
        shoulder=(0.108 if female else 0.124) + 0.007 * build + spread(rng, 0.011),
        hip=(0.094 if female else 0.086) + 0.012 * build + spread(rng, 0.009),
        belly=max(0.0, min(1.0, 0.45 * build + spread(rng, 0.3))),
        leg=0.495 + spread(rng, 0.026),
        arm=0.330 + spread(rng, 0.018),
        neck=0.034 + spread(rng, 0.008),
        head_height=0.148 + spread(rng, 0.012) - 0.004 * build,
        head_width=0.78 + spread(rng, 0.07) + 0.03 * build,
        jaw=between(rng, 0.0, 1.0) if female else between(rng, 0.0, 0.7),
        stoop=between(rng, -0.04, 0.05) if rng.random() < 0.7 else between(rng, 0.10, 0.34),
        head_forward=between(rng, 0.0, 0.035),
        shoulder_drop=between(rng, 0.0, 0.024),
        stride=between(rng, 0.55, 1.25),
        swing=between(rng, 0.3, 1.35),
        elbow=between(rng, 0.05, 0.75),
        bounce=between(rng, 0.2, 1.6),
        sway=between(rng, 0.2, 1.8),
        stance=between(rng, 0.015, 0.080),
        toe_out=between(rng, -0.05, 0.5),
        skin_name=skin_name,
        skin=jitter(rng, SKINS[skin_name], 0.01),
        hair_name=hair_name,
        hair=jitter(rng, HAIRS[hair_name], 0.01),
        hair_style=choose(rng, FEMALE_STYLES if female else MALE_STYLES),
        hair_volume=between(rng, 0.0, 1.0),
        hair_length=between(rng, 0.0, 1.0),
        fringe=between(rng, 0.0, 1.0),
        beard="none" if female else choose(rng, BEARDS),
        glasses=choose(rng, GLASSES),
    )
