"""The sizes of rendered data sets."""

from dataclasses import dataclass

from datasets.errors import DataError


@dataclass(frozen=True, slots=True)
class Preset:
    """Sizes of a rendered data set. Images per person: outfits × cameras_per_outfit × frames.

    height, width: pixels. shared: the share of test outfits that are nearly the same as another person's. unchanging: every
    n-th person wears a single outfit (0: no person). Raises: ValueError or DataError for impossible sizes.
    """

    name: str
    train_persons: int
    test_persons: int
    outfits: int = 4
    cameras: int = 6
    cameras_per_outfit: int = 3
    frames: int = 2
    height: int = 96
    width: int = 48
    shared: float = 0.24
    unchanging: int = 6

    def __post_init__(self) -> None:
        wrong = [
            (self.train_persons < 0 or self.test_persons < 0, "numbers of persons are 0 or more"),
            (self.outfits < 2, "outfits is 2 or more: clothes change"),
            (not 2 <= self.cameras_per_outfit <= self.cameras, "cameras_per_outfit is between 2 and cameras"),
            (self.frames < 2, "frames is 2 or more: one for the query, one for the gallery"),
            (not 0 <= self.shared <= 1, "shared is a part, 0 to 1"),
            (self.height < 32 or self.width < 16, "images have at least 32 rows and 16 columns"),
        ]
        faults = [text for is_wrong, text in wrong if is_wrong]
        if faults:
            raise DataError(f"preset {self.name!r} cannot be rendered: {'; '.join(faults)}")


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("default", train_persons=120, test_persons=30),
        Preset("demo", train_persons=60, test_persons=24),
        Preset("clip", train_persons=600, test_persons=100, outfits=2, cameras=4, cameras_per_outfit=2),
        Preset("tiny", train_persons=6, test_persons=6, outfits=2, height=64, width=32),
    )
}


def find_preset(name: str | Preset) -> Preset:
    """A preset by name, or the one given.

    Raises: DataError for an unknown name.
    """
    if isinstance(name, Preset):
        return name
    if name not in PRESETS:
        raise DataError(f"there is no preset {name!r} of the rendered data set; there are {', '.join(PRESETS)}")
    return PRESETS[name]
