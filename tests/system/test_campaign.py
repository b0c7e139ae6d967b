"""The campaign in its short form: the attacks that find most for their time. `make campaign` makes all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.campaign.__main__ import Campaign
from tests.campaign.ledger import Ledger, table
from tests.campaign.strikes import attack

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

SEED = 1
ATTACKS = [("data convert", ("driver",)), ("train baseline", ("worker", "tree"))]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    found = Campaign(tmp_path_factory.mktemp("campaign"), SEED)
    yield found
    found.arena.close()


@pytest.mark.parametrize("number", range(len(ATTACKS)))
def test_a_command_that_was_struck_ends_as_an_undisturbed_one(campaign: Campaign, number: int) -> None:
    name, victims = ATTACKS[number]
    assert campaign.attack(attack(SEED, number, name, victims, campaign.measure)) == []
    [entry] = [entry for entry in campaign.ledger.of_seed() if entry["number"] == number]
    assert {strike["victim"] for strike in entry["strikes"]} == set(victims), "all of them were struck"


def test_a_second_call_finds_what_ended(campaign: Campaign) -> None:
    with campaign.ledger.path.open("ab") as file:
        file.write(b'{"seed": 1, "number": 99, "sub')  # the campaign itself was killed
    known = Ledger(campaign.out, SEED)
    assert known.entries == campaign.ledger.entries
    assert all(known.has(number, name) for number, (name, _) in enumerate(ATTACKS))
    assert not known.has(99, "train baseline")
    known.add(known.entries[0])
    assert known.of_seed() == campaign.ledger.of_seed(), "a repeated attack counts once"
    assert f"{known.num_kills()} of them kill -9" in table(known.of_seed())
