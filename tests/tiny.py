"""A small data set in a moment: drawn figures as JPEG crops with their LIP-20 masks."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from datasets.format.schema import Sample
from datasets.shards.dataset import write_dataset

SPLITS = {
    "ltcc": ("train", "query", "gallery"),
    "prcc": ("train", "query_same", "query_diff", "gallery"),
    "general": ("train", "query", "gallery"),
}
CAMERAS = ("A", "B", "C")


def tiny_dataset(
    path: Path | str,
    *,
    persons: int = 6,
    clothes: int = 2,
    images: int = 4,
    size: tuple[int, int] = (32, 16),
    splits: str | Sequence[str] = "ltcc",
    parsing: bool = True,
    seed: int = 0,
    row_group_bytes: int = 24 << 10,
    shard_bytes: int = 256 << 20,
    test_persons: int = 3,
    overwrite: bool = False,
) -> str:
    """Writes a data set and returns its address.

    persons × clothes × images training crops of size (height, width); test_persons other people in each test split.
    splits: a split set ("ltcc", "prcc", "general") or names of splits out of them. Every mode has valid queries.
    """
    protocol = splits if isinstance(splits, str) else "prcc" if "query_same" in splits else "ltcc"
    names = SPLITS[splits] if isinstance(splits, str) else tuple(splits)
    content = {
        name: tiny_samples(
            name, protocol, persons if name == "train" else test_persons, clothes, images, size, parsing, seed
        )
        for name in names
    }
    write_dataset(
        str(path),
        content,
        name="tiny",
        version="1",
        licence="drawn for tests",
        label_map="lip20" if parsing else None,
        protocol=protocol,
        row_group_bytes=row_group_bytes,
        shard_bytes=shard_bytes,
        overwrite=overwrite,
    )
    return str(path)


def tiny_samples(
    split: str,
    protocol: str = "ltcc",
    persons: int = 3,
    clothes: int = 2,
    images: int = 4,
    size: tuple[int, int] = (32, 16),
    parsing: bool = True,
    seed: int = 0,
) -> Iterator[Sample]:
    """Samples of one split, clustered. Test people are others than train's; query and gallery share them."""
    first = 0 if split == "train" else 500
    for person in range(first, first + persons):
        for outfit in range(max(2, clothes) if split != "train" else clothes):
            for number in range(images):
                camera = _camera(split, protocol, outfit, number, images)
                if camera is None:
                    continue
                rng = np.random.default_rng((seed, person, outfit, number, *split.encode()))
                image, mask = draw_crop(rng, person, outfit, size)
                key = f"{split}/{person:03d}_{outfit}_c{camera}_{number:03d}.jpg"
                sequence = f"{person:03d}{outfit}{camera}"
                masks = png(mask) if parsing else None
                yield Sample(jpeg(image), masks, f"{person:03d}", str(outfit), camera, sequence, str(number), key)


def _camera(split: str, protocol: str, outfit: int, number: int, images: int) -> str | None:
    """The camera that took an image; None where the split's logic has no such image."""
    if protocol != "prcc":
        shift = 1 if split.endswith("query") else 0
        return CAMERAS[(3 * number // images + shift) % 3]
    is_first = outfit == 0
    wanted = {"gallery": ("A", is_first), "query_same": ("B", is_first), "query_diff": ("C", not is_first)}
    if split not in wanted:
        return CAMERAS[2 * number // images] if is_first else "C"
    camera, is_in = wanted[split]
    return camera if is_in else None


def draw_crop(
    rng: np.random.Generator, person: int, outfit: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A figure, RGB uint8 [h, w, 3], and its labels, uint8 [h, w]: build is the person's, colours the outfit's."""
    height, width = size
    who, what = np.random.default_rng((1, person)), np.random.default_rng((2, person, outfit))
    hair, skin = who.integers(20, 120, 3), who.integers(120, 230, 3)
    top, bottom = what.integers(0, 255, 3), what.integers(0, 255, 3)
    build = 0.22 + 0.1 * who.random()
    labels = Image.new("L", (width, height), 0)
    brush = ImageDraw.Draw(labels)
    centre = width / 2 + rng.uniform(-1, 1)

    def box(label: int, left: float, right: float, above: float, below: float) -> None:
        x = sorted((round(centre + left * width), round(centre + right * width)))
        y = (round(above * height), round(below * height))
        brush.rectangle((x[0], y[0], x[1], y[1]), fill=label)

    box(2, -0.12, 0.12, 0.02, 0.1)  # hair
    box(13, -0.1, 0.1, 0.1, 0.2)  # face
    box(14, -build - 0.1, -build, 0.22, 0.5)  # arms
    box(15, build, build + 0.1, 0.22, 0.5)
    box(5, -build, build, 0.2, 0.52)  # upper clothes
    box(9, -build, build, 0.52, 0.88)  # trousers
    box(18, -build, -0.02, 0.9, 0.97)  # shoes
    box(19, 0.02, build, 0.9, 0.97)
    mask = np.asarray(labels)
    palette = np.zeros((20, 3))
    palette[0] = rng.integers(60, 200, 3)
    palette[2], palette[[13, 14, 15]], palette[5], palette[9], palette[[18, 19]] = hair, skin, top, bottom, 30
    image = palette[mask] + rng.normal(0, 6, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def jpeg(image: np.ndarray) -> bytes:
    """uint8 [h, w, 3] as JPEG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=90)
    return out.getvalue()


def png(mask: np.ndarray) -> bytes:
    """uint8 [h, w] as a grey PNG label map."""
    out = io.BytesIO()
    Image.fromarray(mask).save(out, "PNG")
    return out.getvalue()
