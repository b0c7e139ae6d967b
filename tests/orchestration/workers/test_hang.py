"""Whom the reports of a group point to, and the sentence about it."""

from __future__ import annotations

from orchestration.workers.hang import Report, culprits, summarise


def report(rank: int, entered: int, *, step: int = 4, by: int | None = None, where: str = "a.py:1 in mean") -> Report:
    return Report(rank, f"node-{rank}", 100 + rank, step, "in a step", where, by, collectives={"0": 7, "1": entered})


def test_a_rank_that_could_not_report_is_the_one() -> None:
    assert culprits({0: report(0, 9), 1: report(1, 9, by=0)}, 3) == [1, 2]


def test_else_the_rank_that_entered_fewer_collectives() -> None:
    assert culprits({0: report(0, 9), 1: report(1, 8), 2: report(2, 9)}, 3) == [1]


def test_else_the_rank_with_fewer_steps_and_where_all_are_equally_far_none() -> None:
    assert culprits({0: report(0, 9), 1: report(1, 9, step=3)}, 2) == [1]
    assert culprits({0: report(0, 9), 1: report(1, 9)}, 2) == []
    assert "no rank is behind the others" in summarise("x", {0: report(0, 9), 1: report(1, 9)}, 2, 5.0, "here").message


def test_the_sentence_names_rank_host_process_phase_step_and_places() -> None:
    reports = {0: report(0, 9), 1: report(1, 8, where="b.py:2 in read"), 2: report(2, 9), 3: report(3, 9)}
    assert summarise("x", reports, 5, 300.4, "runs/1/hang/x").message == (
        "training stood still for 300 s after 4 steps: rank 4 does not answer. "
        "ranks 0, 2, 3 wait at a.py:1 in mean; rank 1 waits at b.py:2 in read. Stacks: runs/1/hang/x"
    )
    assert summarise("x", reports, 4, 300.4, "runs/1/hang/x").message == (
        "training stood still for 300 s after 4 steps: "
        "rank 1 on node-1 (process 101, in a step): it stands, at b.py:2 in read. "
        "ranks 0, 2, 3 wait at a.py:1 in mean. Stacks: runs/1/hang/x"
    )


def test_without_a_stack_it_says_why() -> None:
    gone = Report(0, "node", 5, 4, "in a step", "", by=1, trouble="py-spy is missing")
    told = summarise("x", {0: gone, 1: report(1, 1)}, 2, 5.0, "here").message
    assert (
        "rank 0 on node (process 5, last heard in a step): its process does not run; no stack: py-spy is missing"
        in told
    )
