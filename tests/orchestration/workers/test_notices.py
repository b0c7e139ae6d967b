"""What ranks hear of each other through a store of torch, and what a silent one means."""

from __future__ import annotations

import time

import pytest
from torch.distributed import PrefixStore, TCPStore

from orchestration.workers.notices import Board, Notice


def notice(rank: int, left: float) -> Notice:
    return Notice(rank, "here", "node", 1, 1, 0, "in a step", left)


@pytest.fixture(scope="module")
def served() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def boards(served: TCPStore, request: pytest.FixtureRequest) -> list[Board]:
    """Of three ranks, in a place of their own."""
    store = PrefixStore(request.node.name, served)
    return [Board(store.clone(), rank, 3) for rank in range(3)]


def test_a_rank_that_makes_progress_keeps_the_others_waiting(boards: list[Board]) -> None:
    """Rank 0 writes a checkpoint, or ranks what was embedded, while others wait for it in a collective."""
    for left_of_0, stand in ((30.0, False), (-1.0, True)):
        for board, left in zip(boards, (left_of_0, -1.0, -1.0), strict=True):
            board.exchange(notice(board.rank, left))
        boards[1].exchange(notice(1, -1.0))
        assert boards[1].all_stand(silent_s=60) == stand
    assert boards[1].attempt == boards[0].attempt


def test_a_rank_is_silent_that_posts_nothing_new_and_then_has_no_time_left(boards: list[Board]) -> None:
    boards[0].exchange(notice(0, 30.0))
    boards[2].exchange(notice(2, -1.0))
    boards[1].exchange(notice(1, -1.0))
    assert boards[1].silent(after_s=60) == set()
    time.sleep(0.02)
    boards[2].exchange(notice(2, -1.0))
    boards[1].exchange(notice(1, -1.0))
    assert 0 in boards[1].silent(after_s=0.02)
    assert not boards[1].all_stand(silent_s=60)
    assert boards[1].all_stand(silent_s=0)
    boards[0].exchange(notice(0, 30.0))
    boards[1].exchange(notice(1, -1.0))
    assert boards[1].silent(after_s=60) == set()


def test_where_the_store_does_not_answer_rank_0_is_silent_and_of_others_nothing_is_known(boards: list[Board]) -> None:
    boards[2].exchange(notice(2, -1.0))
    assert boards[2].silent(after_s=60) == {0, 1}, "these have said nothing yet"
    time.sleep(0.02)
    assert boards[2].silent(after_s=0.01) == {0}


def test_a_process_alone_hears_itself() -> None:
    board = Board(None, 0, 1)
    board.exchange(notice(0, 1.0))
    assert not board.all_stand(silent_s=60)
    board.exchange(notice(0, 0.0))
    assert board.all_stand(silent_s=60)
    assert board.silent(after_s=60) == set()
