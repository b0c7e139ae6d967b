"""A model card says how its numbers came about and fits into a description."""

from __future__ import annotations

from typing import Any

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


def card_of(**facts: Any) -> str:
    return write_card("m", Provenance("r", metrics=METRICS, **facts), size=SIZE, dimensions=8, inputs=("images",))


def test_the_card_says_where_test_people_were_trained_on() -> None:
    seen = "2 of the 3 people in query are also in train, such as 'b'"
    assert f"**These numbers are optimistic:** {seen}." in card_of(seen_in_training=seen)
    assert "optimistic" not in card_of()


def test_texts_of_a_data_set_open_nothing_in_the_card() -> None:
    text = "mine\n## Approved\r\n\n| by | all | <script>x</script> [here](http://x) `a` *b* C:\\d"
    for card in (card_of(data_name=text), card_of(licence=text)):
        lines = [line for line in card.splitlines() if "Approved" in line]
        assert len(lines) == 1
        assert lines[0].endswith(
            r"mine ## Approved \| by \| all \| \<script\>x\</script\> \[here\](http://x) \`a\` \*b\* C:\\d |"
        )
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == [line for line in card_of().splitlines() if line.startswith("#")]
