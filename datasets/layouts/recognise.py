"""Whether a directory is the root of a layout, and if not, which folder or which layout was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from datasets.errors import DataError
from datasets.layouts.layout import Layout
from datasets.layouts.tree import is_image

_LOOKED_AT = 64  # names in a folder, folders in a folder


def check_root(layout: Layout, root: Path, known: Iterable[Layout], without: tuple[str, ...] = ()) -> None:
    """Raises: DataError, before any image is read, when `root` is not the layout's; it names the first place that is
    missing, and the folder or the layout that fits where there is one."""
    if not root.exists():
        raise DataError(f"there is nothing at {root}; expected the folder {layout.root}")
    if not root.is_dir():
        archive = "; unpack it first" if root.suffix in (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2") else ""
        raise DataError(f"{root} is a file{archive}; expected the folder {layout.root}")
    missing = _missing(layout, root, without)
    if missing is None and (layout.names is None or _names_fit(layout, root)):
        return
    others = [other for other in known if other.names is not None and other is not layout]
    looks_like = [other.name for other in others if _fits(other, root)]
    if missing is None and not looks_like:
        return  # every offending name will be listed
    problem = f"has no {missing}" if missing else f"has no name as {layout.names.shape if layout.names else ''}"
    text = f"{root} is not the root of {layout.name}: it {problem}"
    if looks_like:
        raise DataError(f"{text}. The tree looks like {' or '.join(looks_like)}; give that as the layout")
    hint = f"; expected the folder {layout.root}, which has {', '.join(layout.required(without))}"
    for near in sorted(_near(root), key=lambda near: near.name != layout.root):  # masks lie in a tree like the images'
        if _missing(layout, near, without) is None and _names_fit(layout, near):
            raise DataError(f"{text}{hint}. {near} has them: give that as the source")
    only_a_split = [split for split, places in layout.places.items() if missing in places]
    advice = (
        f". Without {' and '.join(only_a_split)}, the rest can be converted" if _rest(layout, root, missing) else ""
    )
    raise DataError(f"{text}{hint}{advice}")


def _missing(layout: Layout, root: Path, without: tuple[str, ...] = ()) -> str | None:
    """The first place that is not there."""
    return next((place for place in layout.required(without) if not (root / place).exists()), None)


def _rest(layout: Layout, root: Path, missing: str | None) -> bool:
    """Whether everything else is there."""
    return all((root / place).exists() for place in layout.required() if place != missing)


def _fits(layout: Layout, root: Path) -> bool:
    return _missing(layout, root) is None and _names_fit(layout, root)


def _names_fit(layout: Layout, root: Path) -> bool:
    """Some image reads as the layout's do; true also where there is no image at all."""
    names = [name for place in layout.required() for name in _some_images(root / place)]
    return not names or layout.names is None or any(map(layout.names.fits, names))


def _some_images(place: Path, depth: int = 1) -> Iterator[str]:
    if not place.is_dir():
        return
    children = sorted(place.iterdir())[:_LOOKED_AT]
    for child in children:
        if child.is_dir() and depth:
            yield from _some_images(child, depth - 1)
        elif is_image(child.name):
            yield child.name


def _near(root: Path) -> Iterator[Path]:
    """One level down, then up to three up."""
    yield from (child for child in sorted(root.iterdir())[:_LOOKED_AT] if child.is_dir())
    yield from root.resolve().parents[:3]
