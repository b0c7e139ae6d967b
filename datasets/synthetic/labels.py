"""The labels of LIP-20 that a person is painted in."""

from datasets.synthetic.outfits import Outfit

BACKGROUND, HAT, HAIR, GLOVE, SUNGLASSES = 0, 1, 2, 3, 4
UPPER, DRESS, COAT, SOCKS, TROUSERS, JUMPSUIT = 5, 6, 7, 8, 9, 10
SCARF, SKIRT, FACE = 11, 12, 13
ARMS, LEGS, SHOES = (14, 15), (16, 17), (18, 19)  # (left, right)


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
