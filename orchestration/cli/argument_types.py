"""Text of the command line → an address, a size, three numbers, a count, a share. Each raises argparse.ArgumentTypeError."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from datasets.storage.address import AddressError, parse_address
from orchestration.addresses import model_address, run_address


def any_address(text: str) -> str:
    """A path, file:// or s3://, as it was typed."""
    return checked(text, parse_address)


def any_run(text: str) -> str:
    """A run's id or the address of its storage, as it was typed."""
    return checked(text, run_address)


def any_model(text: str) -> str:
    """models:/…, a run's id, or an address, as it was typed."""
    return checked(text, model_address)


def local_path(text: str) -> str:
    """A path or file:// on this machine, as a path."""
    found = checked(text, parse_address)
    if found.startswith("s3://"):
        raise argparse.ArgumentTypeError(f"{found} is in object storage; expected a path on this machine")
    return str(parse_address(text)) if found.startswith("file://") else found


def checked(text: str, parse: Callable[[str], object]) -> str:
    try:
        parse(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def image_size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH in pixels."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH in pixels, such as 128x64")
    return int(height), int(width)


def three_numbers(text: str) -> tuple[float, float, float]:
    """R,G,B."""
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected three numbers, such as 0.485,0.456,0.406") from None
    return red, green, blue


def positive_int(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def share_or_count(text: str) -> int | float:
    """An int is a count, a float a share."""
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share such as 0.1, or a number such as 12") from None
