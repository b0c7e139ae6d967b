"""A table as it was printed, read back."""

from __future__ import annotations


def cells(text: str) -> list[list[str]]:
    """The cells of every printed table in `text`, line by line, headings included, borders and other text left out."""
    return [
        [cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")]
        for line in text.splitlines()
        if line[:1] in ("│", "┃")
    ]
