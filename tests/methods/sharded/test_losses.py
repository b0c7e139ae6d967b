"""Losses over divided classes equal those of all classes: values, and gradients of features and of weights, on 1 to 4 workers.

The losses of all classes are recomputed in one process by `methods.losses`. Each number of workers is one start of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.baseline import COSINE_LOGITS, COSINE_LOSSES
from methods.distributed import all_reduce_sum, gather, rank, world_size
from methods.losses.cal import clothes_adversarial_loss, clothes_classification_loss
from methods.losses.clothes_memory import update_memory
from methods.losses.cosine import cosines
from methods.losses.identity import identity_loss
from methods.sharded import losses
from methods.sharded.losses import ClassLogits, is_own
from methods.sharded.memory import update_shard
from methods.sharded.share import Rows, own_share
from tests.orchestration.processes import in_processes

WORKERS = (1, 2, 3, 4)
SAMPLES, WIDTH, PERSONS = 12, 5, 7
OWNER = torch.tensor(
    [0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 5, 5, 5, 5, 5, 6, 6, 6, 6]
)  # 23 classes: uneven in 2, 3, 4
CLASSES = len(OWNER)
UNSEEN = (1, 6, 7, 20, 22)
Loss = Callable[[Any, Tensor, bool], Tensor]  # scores [samples, classes] or ClassLogits, labels, whether sharded


class Given(NamedTuple):
    features: Tensor
    weight: Tensor
    labels: Tensor


def given(seed: int = 0, dtype: torch.dtype = torch.float64) -> Given:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (SAMPLES,), generator=random)
    labels = torch.where(torch.isin(labels, torch.tensor(UNSEEN)), 0, labels)
    features = torch.randn(SAMPLES, WIDTH, dtype=dtype, generator=random)
    return Given(features, torch.randn(CLASSES, WIDTH, dtype=dtype, generator=random), labels)


def seen() -> Tensor:
    return ~torch.isin(torch.arange(CLASSES), torch.tensor(UNSEEN))


def with_scores(scale: float, score: Callable[[Any], Any], scores: Any) -> Any:
    return (
        scores._replace(values=score(scale * scores.values))
        if isinstance(scores, ClassLogits)
        else score(scale * scores)
    )


def smoothed(smoothing: float, scale: float) -> Loss:
    def loss(scores: Any, labels: Tensor, is_sharded: bool) -> Tensor:
        scores = with_scores(scale, lambda values: values, scores)
        if is_sharded:
            return losses.cross_entropy(scores, labels, smoothing)
        return identity_loss(scores, labels, smoothing)

    return loss


def of_clothes(scores: Any, labels: Tensor, is_sharded: bool) -> Tensor:
    scores = with_scores(16, lambda values: values, scores)
    return losses.cross_entropy(scores, labels) if is_sharded else clothes_classification_loss(scores, labels)


def margin(name: str) -> Loss:
    def loss(scores: Any, labels: Tensor, is_sharded: bool) -> Tensor:
        if not is_sharded:
            return COSINE_LOSSES[name](scores, labels, 30.0, 0.3)
        values = COSINE_LOGITS[name](scores.values, is_own(scores, labels), 30.0, 0.3)
        return losses.cross_entropy(scores._replace(values=values), labels)

    return loss


def adversarial(epsilon: float, scale: float = 16.0, *, unseen: bool = False, owner: Tensor = OWNER) -> Loss:
    def loss(scores: Any, labels: Tensor, is_sharded: bool) -> Tensor:
        scores, person = with_scores(scale, lambda values: values, scores), owner[labels]
        if not is_sharded:
            own = person[:, None] == owner
            return clothes_adversarial_loss(scores, labels, own, epsilon, seen() if unseen else None)
        own = gather(person)[:, None] == owner[scores.classes]
        initialised = seen()[scores.classes] if unseen else None
        return losses.clothes_adversarial_loss(scores, labels, own, epsilon, initialised)

    return loss


LOSSES: dict[str, Loss] = {
    "cross-entropy": smoothed(0.0, 1.0),
    "cross-entropy, smoothed": smoothed(0.1, 1.0),
    "cosine softmax": of_clothes,
    "cosine softmax, smoothed, scale 64": smoothed(0.1, 64.0),
    "cosface": margin("cosface"),
    "arcface": margin("arcface"),
    "circle": margin("circle"),
    "CAL": adversarial(0.1),
    "CAL, some unseen": adversarial(0.1, unseen=True),
    "CAL, epsilon 0": adversarial(0.0),
    "CAL, epsilon 1": adversarial(1.0),
    "CAL, epsilon 1, some unseen": adversarial(1.0, unseen=True),
    "CAL, scale 64": adversarial(0.1, 64.0),
    "CAL, one person": adversarial(0.1, owner=torch.zeros_like(OWNER)),
}
RAW = ("cross-entropy", "cross-entropy, smoothed")  # scores are dot products


class Found(NamedTuple):
    loss: Tensor  # the mean over the workers
    features: Tensor  # the gradient of all rows
    weight: Tensor  # the gradient of all classes


def whole(name: str, of: Given) -> Found:
    features, weight = of.features.clone().requires_grad_(), of.weight.clone().requires_grad_()
    loss = LOSSES[name](features @ weight.T if name in RAW else cosines(features, weight), of.labels, False)
    loss.backward()
    assert features.grad is not None
    assert weight.grad is not None
    return Found(loss.detach(), features.grad, weight.grad)


def divided(name: str, of: Given, rows: Rows) -> tuple[Found, Tensor]:
    """As a strategy takes it: gradients are those of Σ L_r, divided by the workers. And the loss of this worker alone."""
    here = slice(rank() * SAMPLES // world_size(), (rank() + 1) * SAMPLES // world_size())
    features = of.features[here].clone().requires_grad_()
    weight = of.weight[rows.first : rows.end].clone().requires_grad_()
    everyone = gather(features)
    scores = everyone @ weight.T if name in RAW else cosines(everyone, weight)
    loss = LOSSES[name](ClassLogits(scores, rows.numbers(), rows.total), of.labels[here], True)
    loss.backward()
    assert features.grad is not None
    assert weight.grad is not None
    workers = world_size()
    mean = all_reduce_sum(loss.detach()) / workers
    return Found(mean, features.grad / workers, weight.grad / workers), loss.detach()


def incoming(worker: int, workers: int) -> Tensor:
    """The gradient that reaches what a worker gathered: of many magnitudes, so that the order of sums shows."""
    random = torch.Generator().manual_seed(worker)
    return torch.randn(workers * 6, 33, generator=random) * 10 ** (8 * torch.rand(workers * 6, 33, generator=random))


def gathered_gradient() -> Tensor:
    local = torch.zeros(6, 33, requires_grad=True)
    gather(local).backward(incoming(rank(), world_size()))
    assert local.grad is not None
    return local.grad


def everything() -> dict[str, Any]:
    rows = own_share().of(CLASSES)
    found: dict[str, Any] = {name: divided(name, given(), rows) for name in LOSSES}
    everyones, labels = given().features, given().labels
    here = slice(rank() * SAMPLES // world_size(), (rank() + 1) * SAMPLES // world_size())
    found |= {"rows": rows, "gather": gathered_gradient()}
    for name, scores in {"accuracy": ranked(), "accuracy of ties": torch.zeros(SAMPLES, CLASSES)}.items():
        one = ClassLogits(scores[:, rows.first : rows.end], rows.numbers(), rows.total)
        found[name] = losses.accuracy([one], labels[here])
    several = [
        ClassLogits(scores[:, rows.first : rows.end], rows.numbers(), rows.total)
        for scores in (ranked(), ranked(3, 0.4))
    ]
    found["accuracy of two"] = losses.accuracy(several, labels[here])
    uneven = (0, 0, CLASSES, CLASSES, CLASSES) if world_size() > 1 else (0, CLASSES)  # all on one worker
    first, end = uneven[rank()], uneven[rank() + 1]
    found["one worker has all"] = divided("cross-entropy, smoothed", given(), Rows(first, end - first, CLASSES))
    bank, initialised = given(5).weight, torch.zeros(CLASSES, dtype=torch.bool)
    own = slice(rows.first, rows.end)
    for _ in range(2):  # before and after every class is initialised
        bank_here, initialised_here = update_shard(bank[own], initialised[own], rows, everyones, labels, 0.75)
        found.setdefault("memory", []).append((bank_here, initialised_here))
        initialised = torch.ones_like(initialised)
    return found


def ranked(seed: int = 2, share: float = 0.5) -> Tensor:
    """Scores by which about a half of the samples have the highest at their label."""
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(SAMPLES, CLASSES, dtype=torch.float64, generator=random)
    is_right = torch.rand(SAMPLES, 1, generator=random) < share
    return scores + 10 * is_right * F.one_hot(given().labels, CLASSES)


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict[str, Any]]]:
    return {workers: in_processes(workers, everything) if workers > 1 else [everything()] for workers in WORKERS}


Results = dict[int, list[dict[str, Any]]]
at_workers = pytest.mark.parametrize("workers", WORKERS)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    """Within 1e-12 of the largest number."""
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * max(1e-3, float(expected.abs().max())))


def check(found: list[tuple[Found, Tensor]], expected: Found) -> None:
    for one, _ in found:
        assert_equal(one.loss, expected.loss)
    assert_equal(torch.cat([one.features for one, _ in found]), expected.features)
    assert_equal(torch.cat([one.weight for one, _ in found]), expected.weight)


@at_workers
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_are_those_of_all_classes_on_one_worker(results: Results, workers: int, name: str) -> None:
    expected = whole(name, given())
    is_trained = name != "CAL, one person"  # nothing is left that could be told apart
    assert bool(expected.weight.any()) == is_trained
    check([one[name] for one in results[workers]], expected)


@at_workers
def test_the_loss_of_a_worker_is_that_of_its_own_samples(results: Results, workers: int) -> None:
    of, size = given(), SAMPLES // workers
    for worker, one in enumerate(results[workers]):
        here = slice(worker * size, (worker + 1) * size)
        alone = whole("CAL", Given(of.features[here], of.weight, of.labels[here]))
        assert_equal(one["CAL"][1], alone.loss)


def test_the_classes_are_divided_unevenly(results: Results) -> None:
    assert [[one["rows"].count for one in results[workers]] for workers in WORKERS] == [
        [23],
        [11, 12],
        [7, 8, 8],
        [5, 6, 6, 6],
    ]


@at_workers
def test_workers_without_a_class_take_part(results: Results, workers: int) -> None:
    check([one["one worker has all"] for one in results[workers]], whole("cross-entropy, smoothed", given()))


@at_workers
def test_accuracy_counts_the_likeliest_of_all_classes_and_of_equals_the_first(results: Results, workers: int) -> None:
    labels = given().labels
    of_one = (ranked().argmax(1) == labels).double().mean()
    of_two = ((ranked().log_softmax(1) + ranked(3, 0.4).log_softmax(1)).argmax(1) == labels).double().mean()
    of_ties = (labels == 0).double().mean()
    assert len({float(of_one), float(of_two), float(of_ties), 0.0, 1.0}) == 5, "the cases tell nothing apart"
    for name, expected in {"accuracy": of_one, "accuracy of two": of_two, "accuracy of ties": of_ties}.items():
        found = torch.stack([one[name] for one in results[workers]]).mean()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@at_workers
def test_the_gradient_of_a_gather_is_summed_in_rank_order(results: Results, workers: int) -> None:
    """Bit for bit what every worker would sum up of all workers' whole gradients."""
    expected = torch.stack([incoming(worker, workers) for worker in range(workers)]).sum(0)
    for worker, one in enumerate(results[workers]):
        assert torch.equal(one["gather"], expected[6 * worker :][:6])


@at_workers
def test_the_memory_bank_is_that_of_all_classes(results: Results, workers: int) -> None:
    of, bank = given(), given(5).weight
    before = torch.zeros(CLASSES, dtype=torch.bool)
    for step in range(2):
        expected = update_memory(bank, before, of.features, of.labels, 0.75)
        parts = [one["memory"][step] for one in results[workers]]
        assert_equal(torch.cat([bank for bank, _ in parts]), expected[0])
        assert torch.equal(torch.cat([initialised for _, initialised in parts]), expected[1])
        before = torch.ones_like(before)
    assert not torch.equal(parts[0][0], results[workers][0]["memory"][0][0]), "momentum counts once all are initialised"


def test_values_in_half_precision_are_summed_in_float32() -> None:
    of = given(dtype=torch.float32)
    scores = (of.features @ of.weight.T).bfloat16()
    found = losses.cross_entropy(ClassLogits(scores, torch.arange(CLASSES), CLASSES), of.labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.cross_entropy(scores.float(), of.labels))
