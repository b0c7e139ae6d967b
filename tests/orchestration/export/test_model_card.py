"""A model card says how its numbers came about and fits into a description."""

from __future__ import annotations

from orchestration.export.model_card import DESCRIPTION_LIMIT, Provenance, as_description, write_card
from tests.orchestration.tiny_model import METRICS, SIZE


def test_the_card_says_what_was_not_selected_on_the_test_set() -> None:
    card = write_card("m", Provenance("r", metrics=METRICS), size=SIZE, dimensions=8, inputs=("images",))
    assert "`select: last`, without the test set." in card
    assert "| clothes-changing | 20.0 | 12.3 |" in card


def test_a_card_that_is_too_long_for_a_description_loses_its_last_settings() -> None:
    settings = {"method": {f"setting-{number}": number for number in range(300)}}
    card = write_card("m", Provenance("r", settings=settings), size=SIZE, dimensions=8, inputs=("images",))
    short = as_description(card)
    assert len(card) > DESCRIPTION_LIMIT >= len(short)
    kept, told = short.split("\n\nThe card continues in")
    assert card.startswith(f"{kept}\n")
    assert "artifacts/card.md" in told
    assert "## Limits" in kept
    assert "Protect write access" in kept
    longer = as_description(f"## Review\n\n{short}")
    assert len(longer) <= DESCRIPTION_LIMIT
    assert longer.count("The card continues in") == 1
