"""Checks that a folder is the root of a layout; if not, suggests the folder or the layout that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from datasets.errors import DataError
from datasets.layouts.layout import Layout
from datasets.layouts.tree import is_image
from datasets.sources import Source
from datasets.sources.archive import Archive
from datasets.sources.source import join

_EXAMINED = 64  # names in a folder, at most


def find_root(layout: Layout, archive: Archive, without: tuple[str, ...] = ()) -> Archive:
    """The folder of an archive that is the layout's root: its top, or a folder below; the top where none is.

    Raises: DataError when several folders could be the root and none has the official name.
    """
    if _is_root(layout, archive, without):
        return archive
    found = [near for near in archive.near() if _is_root(layout, near, without)]
    named = [near for near in found if _name(near) == layout.root]
    if len(found) > 1 and len(named) != 1:
        places = ", ".join(near.prefix for near in found)
        raise DataError(
            f"{archive.where()} has several folders that could be {layout.name}: {places}. Rename the right one to "
            f"{layout.root}, or unpack the archive and give the folder as the source"
        )
    return (named or found or [archive])[0]


def check_root(layout: Layout, root: Source, known: Iterable[Layout], without: tuple[str, ...] = ()) -> None:
    """Checks that `root` is the root of the layout, before any image is read.

    Raises: DataError when it is not; it names the first missing place, and the folder or the layout that fits, if any.
    """
    missing = _missing(layout, root, without)
    if missing is None and (layout.names is None or _names_fit(layout, root)):
        return
    others = [other for other in known if other.names is not None and other is not layout]
    looks_like = _matching_layouts(others, root)
    if missing is None and not looks_like:
        return  # every offending name will be reported
    problem = f"has no {missing}" if missing else f"has no name as {layout.names.shape if layout.names else ''}"
    text = f"{root.where()} is not the root of {layout.name}: it {problem}"
    if looks_like:
        raise DataError(f"{text}. The tree looks like {' or '.join(looks_like)}; give that as the layout")
    hint = f"; expected the folder {layout.root}, which has {', '.join(layout.required(without))}"
    for near in sorted(
        root.near(), key=lambda near: _name(near) != layout.root
    ):  # masks lie in a tree like the images'
        if _missing(layout, near, without) is None and _names_fit(layout, near):
            raise DataError(f"{text}{hint}. {near.where()} has them: give that as the source")
    only_a_split = [split for split, places in layout.places.items() if missing in places]
    advice = (
        f". Without {' and '.join(only_a_split)}, the rest can be converted" if _rest(layout, root, missing) else ""
    )
    raise DataError(f"{text}{hint}{advice}")


def _matching_layouts(others: Iterable[Layout], root: Source) -> list[str]:
    """The names of the layouts that fit `root`, or a folder of it where it is an archive."""
    roots = [root, *(root.near() if isinstance(root, Archive) else ())]
    return [other.name for other in others if any(_fits(other, place) for place in roots)]


def _name(root: Source) -> str:
    return root.where().replace(": ", "/").rpartition("/")[2]


def _is_root(layout: Layout, root: Source, without: tuple[str, ...]) -> bool:
    if layout.one_of:
        return any(map(root.is_file, layout.one_of))
    return _missing(layout, root, without) is None and _names_fit(layout, root)


def _missing(layout: Layout, root: Source, without: tuple[str, ...] = ()) -> str | None:
    """The first place that does not exist, None where all do."""
    return next((place for place in layout.required(without) if not _is_there(root, place)), None)


def _is_there(root: Source, place: str) -> bool:
    return root.is_folder(place) or root.is_file(place)


def _rest(layout: Layout, root: Source, missing: str | None) -> bool:
    """Whether all places but `missing` exist."""
    return all(_is_there(root, place) for place in layout.required() if place != missing)


def _fits(layout: Layout, root: Source) -> bool:
    return _missing(layout, root) is None and _names_fit(layout, root)


def _names_fit(layout: Layout, root: Source) -> bool:
    """Whether some image's name matches the layout's pattern; true also where there is no image."""
    names = [name for place in layout.required() for name in _some_images(root, place)]
    return not names or layout.names is None or any(map(layout.names.fits, names))


def _some_images(root: Source, place: str, depth: int = 1) -> Iterator[str]:
    if root.offender_at(place) is not None:
        return
    for child in root.children(place)[:_EXAMINED]:
        if child.is_folder and depth:
            yield from _some_images(root, join(place, child.name), depth - 1)
        elif is_image(child.name):
            yield child.name
