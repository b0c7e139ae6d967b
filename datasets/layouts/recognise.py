"""Whether a folder is the root of a layout, and if not, which folder or which layout was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from datasets.errors import DataError
from datasets.layouts.layout import Layout
from datasets.layouts.tree import is_image
from datasets.sources import Source
from datasets.sources.archive import Archive
from datasets.sources.source import join

_LOOKED_AT = 64  # names in a folder, folders in a folder


def find_root(layout: Layout, archive: Archive, without: tuple[str, ...] = ()) -> Archive:
    """The folder of an archive that is the layout's root: its top, or one below; the top where none is.

    Raises: DataError when there are several and none has the official name.
    """
    if _is_root(layout, archive, without):
        return archive
    found = [near for near in archive.near() if _is_root(layout, near, without)]
    named = [near for near in found if _name(near) == layout.root]
    if len(found) > 1 and len(named) != 1:
        places = ", ".join(map(_name, found))
        raise DataError(
            f"{archive.where()} has several folders that could be {layout.name}: {places}. Name the right one {layout.root}, "
            "or unpack it and give the folder as the source"
        )
    return (named or found or [archive])[0]


def check_root(layout: Layout, root: Source, known: Iterable[Layout], without: tuple[str, ...] = ()) -> None:
    """Raises: DataError, before any image is read, when `root` is not the layout's; it names the first place that is
    missing, and the folder or the layout that fits where there is one."""
    missing = _missing(layout, root, without)
    if missing is None and (layout.names is None or _names_fit(layout, root)):
        return
    others = [other for other in known if other.names is not None and other is not layout]
    looks_like = _likes(others, root)
    if missing is None and not looks_like:
        return  # every offending name will be listed
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


def _likes(others: Iterable[Layout], root: Source) -> list[str]:
    """Layouts that fit; those of an archive may fit a folder in it."""
    roots = [root, *(root.near() if isinstance(root, Archive) else ())]
    return [other.name for other in others if any(_fits(other, place) for place in roots)]


def _name(root: Source) -> str:
    return root.where().replace(": ", "/").rpartition("/")[2]


def _is_root(layout: Layout, root: Source, without: tuple[str, ...]) -> bool:
    if layout.one_of:
        return any(map(root.is_file, layout.one_of))
    return _missing(layout, root, without) is None and _names_fit(layout, root)


def _missing(layout: Layout, root: Source, without: tuple[str, ...] = ()) -> str | None:
    """The first place that is not there."""
    return next((place for place in layout.required(without) if not _is_there(root, place)), None)


def _is_there(root: Source, place: str) -> bool:
    return root.is_folder(place) or root.is_file(place)


def _rest(layout: Layout, root: Source, missing: str | None) -> bool:
    """Whether everything else is there."""
    return all(_is_there(root, place) for place in layout.required() if place != missing)


def _fits(layout: Layout, root: Source) -> bool:
    return _missing(layout, root) is None and _names_fit(layout, root)


def _names_fit(layout: Layout, root: Source) -> bool:
    """Some image reads as the layout's do; true also where there is no image at all."""
    names = [name for place in layout.required() for name in _some_images(root, place)]
    return not names or layout.names is None or any(map(layout.names.fits, names))


def _some_images(root: Source, place: str, depth: int = 1) -> Iterator[str]:
    if root.trouble(place) is not None:
        return
    for child in root.children(place)[:_LOOKED_AT]:
        if child.is_folder and depth:
            yield from _some_images(root, join(place, child.name), depth - 1)
        elif is_image(child.name):
            yield child.name
