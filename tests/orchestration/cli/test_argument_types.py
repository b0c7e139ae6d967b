"""Values of options as they are typed."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

import pytest

from orchestration.cli.argument_types import image_size, positive_int, share_or_count, three_numbers


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (image_size, "384x192", (384, 192)),
        (three_numbers, "0.485,.456,1", (0.485, 0.456, 1.0)),
        (positive_int, "12", 12),
        (share_or_count, "0.25", 0.25),
        (share_or_count, "12", 12),
    ],
)
def test_values(read: Callable[[str], Any], text: str, value: Any) -> None:
    assert read(text) == value
    assert type(read(text)) is type(value)


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (image_size, "128", "HEIGHTxWIDTH in pixels, such as 128x64"),
        (image_size, "128x", "HEIGHTxWIDTH"),
        (image_size, "-1x64", "HEIGHTxWIDTH"),
        (three_numbers, "1,2", "three numbers"),
        (three_numbers, "1,2,3,4", "three numbers"),
        (three_numbers, "a,b,c", "three numbers"),
        (positive_int, "0", "a whole number of at least 1"),
        (positive_int, "-3", "a whole number of at least 1"),
        (positive_int, "2.5", "a whole number of at least 1"),
        (share_or_count, "few", "a share such as 0.1, or a number such as 12"),
    ],
)
def test_what_is_expected_instead(read: Callable[[str], Any], text: str, expected: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"^'{text}': expected {expected}"):
        read(text)
