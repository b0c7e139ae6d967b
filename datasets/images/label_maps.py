"""The label maps of human parsers and the six body parts."""

from dataclasses import dataclass

import torch
from torch import Tensor

PARTS = ("background", "head", "upper clothes", "trousers", "arms", "legs")  # pixel sampling, Sec. II-A


@dataclass(frozen=True)
class LabelMap:
    """The meaning of the labels in a parsing mask.

    labels: the name of each label. parts: each label's index into PARTS. clothing: whether the label is a garment that
    changes with the outfit (which IFD shields and CCAF blanks out). source: where the label set comes from.

    Raises: ValueError when the three have different lengths.
    """

    name: str
    labels: tuple[str, ...]
    parts: tuple[int, ...]
    clothing: tuple[bool, ...]
    source: str

    def __post_init__(self) -> None:
        if not len(self.labels) == len(self.parts) == len(self.clothing):
            raise ValueError(f"label map {self.name}: labels, parts and clothing have different lengths")

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @property
    def clothing_labels(self) -> tuple[int, ...]:
        """The labels of garments, ascending."""
        return tuple(label for label, is_clothing in enumerate(self.clothing) if is_clothing)

    def part_table(self) -> Tensor:
        """uint8 [256]: the part of each label, 0 beyond the map, so that `table[mask.long()]` needs no check."""
        table = torch.zeros(256, dtype=torch.uint8)
        table[: self.num_labels] = torch.tensor(self.parts, dtype=torch.uint8)
        return table

    def clothing_table(self) -> Tensor:
        """bool [256]: True for the labels of garments."""
        table = torch.zeros(256, dtype=torch.bool)
        table[list(self.clothing_labels)] = True
        return table


def _label_map(name: str, labels: str, parts: str, clothing: tuple[int, ...], source: str) -> LabelMap:
    names = tuple(label.strip() for label in labels.split(","))
    return LabelMap(
        name, names, tuple(int(part) for part in parts), tuple(i in clothing for i in range(len(names))), source
    )


# The mapping onto six parts is ours: the paper names the six parts, but not how its masks were made.
LABEL_MAPS: dict[str, LabelMap] = {
    label_map.name: label_map
    for label_map in (
        _label_map(
            "lip20",
            "background, hat, hair, glove, sunglasses, upper clothes, dress, coat, socks, trousers, jumpsuit, scarf, "
            "skirt, face, left arm, right arm, left leg, right leg, left shoe, right shoe",
            "01141222532231445555",
            (5, 6, 7, 9, 10, 12),
            "LIP (Gong et al., CVPR 2017), as SCHP numbers it; clothing as CCAF and IFD need it, without accessories",
        ),
        _label_map(
            "atr18",
            "background, hat, hair, sunglasses, upper clothes, skirt, trousers, dress, belt, left shoe, right shoe, "
            "face, left leg, right leg, left arm, right arm, bag, scarf",
            "011123323551554402",
            (4, 5, 6, 7),
            "ATR (Liang et al., PAMI 2015), as SCHP numbers it; pixel sampling starts from it",
        ),
        _label_map(
            "pascal7",
            "background, head, torso, upper arms, lower arms, upper legs, lower legs",
            "0124435",
            (2, 5),
            "PASCAL-Person-Part (Chen et al., CVPR 2014); it has body parts alone, so torso and upper legs stand in "
            "for clothes",
        ),
        _label_map(
            "six",
            ", ".join(PARTS),
            "012345",
            (2, 3),
            "Semantic-guided pixel sampling (Shu et al., SPL 2021), Sec. II-A",
        ),
    )
}
