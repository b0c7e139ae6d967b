"""`redress search`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestration.cli.argument_types import any_address, any_model, positive_int
from orchestration.cli.command import Answer, Command
from orchestration.cli.options import MODEL, Options, argument, arguments, option
from orchestration.cli.tables import print_facts, print_table, shortened

LABELS = {"is_match": "same person", "person": "person", "clothes": "clothes", "camera": "camera"}


class SearchOptions(Options):
    model: str = argument("MODEL", MODEL, parse=any_model)
    gallery: str = argument("GALLERY", "a data set, or a folder of images", parse=any_address)
    images: list[str] = arguments(
        "IMAGE", "query images: files, or keys of the data set's queries; without any, some of these queries"
    )
    split: str | None = option(None, "split of the data set to search (default: its gallery)")
    parsing: str | None = option(
        None, "folder with the masks of the images, for a model that needs them", metavar="MASKS", parse=any_address
    )
    top: int = option(10, "number of nearest images (default: 10)", parse=positive_int)
    out: str = option("search.png", "file of the picture (default: search.png)", metavar="PNG", parse=any_address)


def search(options: SearchOptions) -> Answer:
    from orchestration.search.search import search

    return search(
        options.model,
        options.gallery,
        options.images,
        split=options.split,
        masks=options.parsing,
        top=options.top,
        picture=options.out,
    )


def show_search(answer: Answer) -> None:
    for query in answer["results"]:
        show_query(query)
    skipped = "\n".join(shortened(answer["set_aside"]))
    print_facts({"searched": answer["searched"], "skipped": skipped, "picture": answer["picture"]})


def show_query(query: Mapping[str, Any]) -> None:
    """One query's nearest images, with those labels that are known for any of them."""
    found = query["found"]
    labels = [key for key in LABELS if any(key in entry for entry in found)]
    columns = ["rank", "similarity", "image", *(LABELS[key] for key in labels)]
    lines = [
        [entry["rank"], f"{entry['similarity']:.3f}", entry["image"], *(yes_or_no(entry.get(key)) for key in labels)]
        for entry in found
    ]
    person = f" (person {query['person']})" if "person" in query else ""
    print_table(f"nearest to {query['image']}{person}", columns, lines)


def yes_or_no(value: Any) -> Any:
    return ("yes" if value else "no") if isinstance(value, bool) else value


SEARCH = Command(
    "search", "find the gallery images nearest to query images and draw them", SearchOptions, search, show_search
)
