"""What fsdp holds where: parts outside of calls, whole tensors where they are asked for, on workers that call unequally.

That it trains what one process trains is in test_choice.py.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from methods.method import Method
from methods.recompute import recompute_blocks
from orchestration.engine.strategies.fully_sharded import FullySharded
from tests.methods.variants import batch
from tests.orchestration.engine.strategies.cells import CASES, STRATEGIES, Training, build, compared, trained
from tests.orchestration.processes import in_processes


def numbers(tensors: list[Tensor]) -> int:
    """Those that this worker holds."""
    return sum((tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel() for tensor in tensors)


def held() -> dict[str, Any]:
    training = Training("cal", "fsdp", "float64")
    method, strategy = training.method, training.strategy
    assert isinstance(strategy, FullySharded)
    found: dict[str, Any] = {"at first": numbers(list(method.parameters()))}
    with strategy.whole(), torch.no_grad():
        found["within"] = numbers(list(method.parameters()))
        calls = 1 + 2 * strategy.rank
        found["embedded"] = [method.eval().embed(batch(seed=0).images) for _ in range(calls)][-1]
    found["after"] = numbers(list(method.parameters()))
    with suppress(KeyError), strategy.whole():
        raise KeyError
    found["after an error"] = numbers(list(method.parameters()))
    method.train()
    found["norms"] = training.epoch(0).norms
    optimizers = training.optimizers.values()
    states = [value for one in optimizers for state in one.state.values() for value in state.values()]
    found["states"] = numbers([state for state in states if state.ndim])
    kinds = [{isinstance(p, DTensor) for p in group["params"]} for one in optimizers for group in one.param_groups]
    found["mixed groups"] = sum(len(kind) > 1 for kind in kinds)
    found["recomputed"] = recomputed()
    found["full"] = {name: tensor.shape for name, tensor in strategy.full_state().model.items()}
    return found


def unchanged(method: Method) -> None:
    pass


def recomputed() -> dict[str, list[str]]:
    """Under each strategy, the tensors that are other bits where activations are computed again."""
    differing = {}
    for strategy in STRATEGIES:
        plain, again = (Training("cal", strategy, "float32", change=change) for change in (unchanged, recompute_blocks))
        for epoch in (0, 2):  # the first stage, and the one with two updates
            ended, other = plain.epoch(epoch), again.epoch(epoch)
        pairs = zip(ended.state, other.state, strict=True)
        differing[strategy] = [
            name for one, two in pairs for name in {*one, *two} if not torch.equal(one[name], two[name])
        ] + (["norms"] if ended.norms != other.norms else [])
    return differing


@pytest.fixture(scope="module")
def workers() -> list[dict[str, Any]]:
    return in_processes(2, held)


WHOLE = sum(parameter.numel() for parameter in build("cal", "float64").parameters())


def test_weights_and_states_are_held_in_halves_but_for_what_is_small(workers: list[dict[str, Any]]) -> None:
    for found in workers:
        for name in ("at first", "after", "after an error"):
            assert WHOLE / 2 <= found[name] <= 0.6 * WHOLE, name
        assert WHOLE / 2 <= found["states"] <= 2 * 0.6 * WHOLE
        assert found["mixed groups"] == 0, "one kernel takes no mixture"


def test_within_whole_each_worker_calls_the_method_as_often_as_it_likes(workers: list[dict[str, Any]]) -> None:
    with torch.no_grad():
        features = build("cal", "float64").eval().embed(batch(seed=0).images)
    for found in workers:
        assert found["within"] == WHOLE
        torch.testing.assert_close(found["embedded"], features, rtol=1e-12, atol=1e-12)


def test_rank_0_gets_whole_tensors_and_the_others_none(workers: list[dict[str, Any]]) -> None:
    assert workers[0]["full"] == {name: value.shape for name, value in build("cal", "float64").state_dict().items()}
    assert workers[1]["full"] == {}


def test_the_norm_is_the_same_on_all_workers(workers: list[dict[str, Any]]) -> None:
    assert workers[0]["norms"] == workers[1]["norms"]
    assert all(norm > 0 for norm in workers[0]["norms"])


def test_recomputed_activations_are_the_same_bits_under_every_strategy(workers: list[dict[str, Any]]) -> None:
    for found in workers:
        assert found["recomputed"] == {strategy: [] for strategy in STRATEGIES}


def all_cases() -> dict[str, Any]:
    return {case: trained(case, "fsdp", "float64") for case in CASES}


@pytest.mark.long
def test_four_workers_train_what_one_process_trains_in_every_stage() -> None:
    found = in_processes(4, all_cases)[0]
    for case in CASES:
        for one, other in zip(found[case], trained(case, "data-parallel", "float64"), strict=True):
            stage, states, norms = compared(one, other)
            assert max(states, norms) <= 1e-9, (case, stage)
