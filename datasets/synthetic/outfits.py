"""Outfits, which a person changes. Each is drawn for one person; `resembling` makes near copies."""

from dataclasses import dataclass, replace

import numpy as np

from datasets.synthetic.draws import OUTFIT, Colour, between, choose, draws, jitter

COLOURS: dict[str, Colour] = {
    "black": (0.07, 0.07, 0.08),
    "charcoal": (0.20, 0.20, 0.22),
    "grey": (0.46, 0.46, 0.47),
    "silver": (0.68, 0.69, 0.70),
    "white": (0.90, 0.90, 0.88),
    "navy": (0.10, 0.13, 0.27),
    "blue": (0.15, 0.28, 0.60),
    "sky blue": (0.50, 0.66, 0.82),
    "teal": (0.08, 0.42, 0.44),
    "green": (0.16, 0.45, 0.22),
    "olive": (0.36, 0.37, 0.20),
    "mint": (0.60, 0.80, 0.66),
    "yellow": (0.88, 0.76, 0.24),
    "mustard": (0.70, 0.50, 0.12),
    "orange": (0.85, 0.42, 0.13),
    "red": (0.72, 0.11, 0.13),
    "burgundy": (0.38, 0.08, 0.14),
    "pink": (0.88, 0.56, 0.64),
    "purple": (0.39, 0.22, 0.52),
    "lilac": (0.68, 0.60, 0.80),
    "brown": (0.34, 0.22, 0.14),
    "beige": (0.76, 0.67, 0.52),
}
BOTTOM_COLOURS = {
    "black": 2.0,
    "charcoal": 1.5,
    "grey": 1.5,
    "silver": 0.5,
    "white": 1.0,
    "navy": 1.6,
    "blue": 1.5,
    "sky blue": 1.2,
    "olive": 1.1,
    "brown": 1.1,
    "beige": 1.5,
    "burgundy": 0.7,
    "green": 0.5,
    "red": 0.4,
    "mustard": 0.5,
    "teal": 0.5,
    "purple": 0.4,
    "pink": 0.4,
}
SHOE_COLOURS = {"black": 3.0, "white": 2.5, "brown": 1.5, "grey": 1.0, "red": 0.5, "blue": 0.5, "beige": 0.7}

MALE_TOPS = {
    "t-shirt": 3.0,
    "polo shirt": 1.2,
    "shirt": 1.8,
    "sweater": 1.5,
    "hoodie": 1.8,
    "jacket": 1.8,
    "coat": 1.2,
    "jumpsuit": 0.4,
    "vest": 0.6,
}
FEMALE_TOPS = {
    "t-shirt": 2.0,
    "tank top": 1.0,
    "blouse": 1.6,
    "sweater": 1.6,
    "hoodie": 1.0,
    "jacket": 1.5,
    "coat": 1.5,
    "dress": 2.0,
    "jumpsuit": 0.7,
}
MALE_BOTTOMS = {"jeans": 2.2, "trousers": 2.2, "joggers": 1.2, "shorts": 1.6}
FEMALE_BOTTOMS = {
    "jeans": 1.8,
    "trousers": 1.4,
    "leggings": 1.4,
    "wide trousers": 1.0,
    "skirt": 1.4,
    "long skirt": 0.8,
    "shorts": 1.0,
}
PATTERNS = {
    "plain": 3.0,
    "striped": 1.3,
    "checked": 1.0,
    "dotted": 0.6,
    "printed": 1.2,
    "two-tone": 1.0,
    "pinstriped": 0.4,
    "camouflage": 0.4,
}
SHOES = {"sneakers": 3.0, "boots": 1.4, "shoes": 1.8, "sandals": 0.5}
BAGS = {"none": 2.0, "backpack": 1.3, "shoulder bag": 0.9, "handbag": 0.8}
HATS = {"none": 14.0, "cap": 0.8, "beanie": 0.6, "hat": 0.4}
SHORT_SLEEVES = ("t-shirt", "polo shirt", "tank top", "vest")
HABIT = 0.65  # how often somebody keeps the usual shoes, and the usual bag, in another outfit
WHOLE_BODY = ("dress", "jumpsuit")


@dataclass(frozen=True, slots=True)
class Outfit:
    """One outfit. Colours are RGB in 0..1; `sleeve` is the covered share of the arm, `hem` of the leg."""

    top: str
    top_colour: str
    colour: Colour
    second: Colour
    pattern: str
    loose: float  # 0 tight … 1 wide
    sleeve: float
    bottom: str
    bottom_colour: str
    lower: Colour
    hem: float
    shoes: str
    shoe_colour: str
    shoe: Colour
    sock: Colour
    inner: Colour
    bag: str
    bag_colour: str
    bag_paint: Colour
    hat: str
    hat_paint: Colour
    scarf: Colour | None
    gloves: Colour | None
    sunglasses: bool
    fabric: int  # seeds pattern and folds

    @property
    def has_skirt(self) -> bool:
        """Whether the lower garment is one tube around both legs."""
        return self.top == "dress" or (self.bottom in ("skirt", "long skirt") and self.top != "jumpsuit")


def _any_colour(rng: np.random.Generator, weights: dict[str, float] | None = None) -> tuple[str, Colour]:
    name = choose(rng, weights or dict.fromkeys(COLOURS, 1.0))
    return name, jitter(rng, COLOURS[name], 0.07)


def _sleeve(rng: np.random.Generator, top: str) -> float:
    if top in ("tank top", "vest"):
        return 0.0
    if top in SHORT_SLEEVES:
        return between(rng, 0.24, 0.42)
    if top in WHOLE_BODY and rng.random() < 0.6:
        return between(rng, 0.0, 0.35)
    return 0.97


def _hem(rng: np.random.Generator, top: str, bottom: str) -> float:
    if top == "dress":
        return between(rng, 0.42, 0.85)
    return {"shorts": between(rng, 0.32, 0.46), "skirt": between(rng, 0.32, 0.52), "long skirt": 0.85}.get(bottom, 0.97)


def outfit(seed: int, person: int, number: int, female: bool) -> Outfit:
    """Outfit `number` of a person of the world `seed`."""
    rng = draws(seed, OUTFIT, person, number)
    habits = draws(seed, OUTFIT, person)
    top = choose(rng, FEMALE_TOPS if female else MALE_TOPS)
    bottom = choose(rng, FEMALE_BOTTOMS if female else MALE_BOTTOMS)
    top_colour, colour = _any_colour(rng)
    bottom_colour, lower = _any_colour(rng, BOTTOM_COLOURS)
    if top in WHOLE_BODY:
        bottom, bottom_colour, lower = top, top_colour, colour
    shoe_colour, shoe = _any_colour(rng, SHOE_COLOURS)
    bag_colour, bag_paint = _any_colour(rng)
    shoes, bag = choose(rng, SHOES), choose(rng, BAGS)
    usual_shoes, usual_bag = choose(habits, SHOES), choose(habits, BAGS)
    usual_shoe, usual_paint = _any_colour(habits, SHOE_COLOURS), _any_colour(habits)
    if rng.random() < HABIT:
        shoes, (shoe_colour, shoe) = usual_shoes, usual_shoe
    if rng.random() < HABIT:
        bag, (bag_colour, bag_paint) = usual_bag, usual_paint
    cold = top in ("coat", "jacket", "sweater")
    second = _any_colour(rng)[1]
    return Outfit(
        top=top,
        top_colour=top_colour,
        colour=colour,
        second=second,
        pattern=choose(rng, PATTERNS) if top not in ("coat", "jacket") or rng.random() < 0.2 else "plain",
        loose=between(rng, 0.0, 1.0),
        sleeve=_sleeve(rng, top),
        bottom=bottom,
        bottom_colour=bottom_colour,
        lower=lower,
        hem=_hem(rng, top, bottom),
        shoes=shoes,
        shoe_colour=shoe_colour,
        shoe=shoe,
        sock=_any_colour(rng, SHOE_COLOURS)[1],
        inner=_any_colour(rng)[1],
        bag=bag,
        bag_colour=bag_colour,
        bag_paint=bag_paint,
        hat=choose(rng, HATS),
        hat_paint=_any_colour(rng)[1],
        scarf=_any_colour(rng)[1] if cold and rng.random() < 0.25 else None,
        gloves=_any_colour(rng)[1] if cold and rng.random() < 0.25 else None,
        sunglasses=rng.random() < 0.05,
        fabric=int(rng.integers(1 << 30)),
    )


def resembling(other: Outfit, seed: int, person: int, number: int) -> Outfit:
    """What `other` is when somebody else wears nearly the same: kinds and colours alike, shades, fit and shoes not."""
    rng = draws(seed, OUTFIT, person, number, 1)
    shoe_colour, shoe = _any_colour(rng, SHOE_COLOURS)
    lower = jitter(rng, other.lower, 0.09)
    colour = jitter(rng, other.colour, 0.09)
    return replace(
        other,
        colour=colour,
        lower=colour if other.top in WHOLE_BODY else lower,
        loose=between(rng, 0.0, 1.0),
        shoe=shoe,
        shoe_colour=shoe_colour,
        fabric=int(rng.integers(1 << 30)),
    )
