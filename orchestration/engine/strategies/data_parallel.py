"""Data-parallel: every worker holds all state, and gradients are averaged in fixed buckets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from methods.distributed import waiting
from methods.method import Method
from methods.sharded.share import parts_of
from orchestration.engine.strategies.single_process import SingleProcess
from orchestration.engine.strategies.strategy import divided_parameters, owned_parameters

BUCKET_BYTES = 8 << 20


@dataclass
class Bucket:
    """Parameters of one dtype whose gradients travel together."""

    parameters: list[Parameter]
    missing: int = 0
    flat: Tensor | None = None
    sent: list[Parameter] = field(default_factory=list)
    work: dist.Work | None = None


class DataParallel(SingleProcess):
    """Averages each update's gradients over the workers while the backward pass is still running.

    Buckets follow registration order and are never rebuilt. They are sent last first, strictly in that order, whatever
    order gradients arrive in: every worker issues the same collectives in the same sequence, so sums are reproducible bit
    for bit for a fixed number of workers. Gradients have a process group of their own, because synchronised batch norm
    communicates during the same backward pass. A parameter that an update does not reach keeps `grad = None`, as in one
    process; methods run the same code on every worker, so it is the same parameters everywhere.

    A parameter whose rows are divided over workers (`methods.sharded`) has the gradient of all workers' losses already, and is
    in no bucket.
    """

    def __init__(self, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.rank, self.workers, self.bucket_bytes = dist.get_rank(), dist.get_world_size(), bucket_bytes
        group = dist.new_group()
        assert isinstance(group, dist.ProcessGroup)
        self.group = group
        self.active: str | None = None
        self.next_bucket = 0

    def prepare(self, method: Method, optimizers: dict[str, Optimizer]) -> None:
        super().prepare(method, optimizers)
        self.average(owned_parameters(method))

    def average(self, parameters: Mapping[str, Sequence[Parameter]]) -> None:
        """Average the gradients of these, by optimizer, in buckets. Those of divided parameters are sums already."""
        self.divided = divided_parameters(self.method)
        parameters = {name: without(owned, self.divided[name]) for name, owned in parameters.items()}
        self.buckets = {name: fixed_buckets(owned, self.bucket_bytes) for name, owned in parameters.items()}
        for name, buckets in self.buckets.items():
            for bucket in buckets:
                for parameter in bucket.parameters:
                    parameter.register_post_accumulate_grad_hook(self.hook(name, bucket))

    def hook(self, name: str, bucket: Bucket):  # type: ignore[no-untyped-def]
        def gradient_is_ready(_: Tensor) -> None:
            if self.active == name:
                bucket.missing -= 1
                self.send_complete()

        return gradient_is_ready

    def send_complete(self) -> None:
        assert self.active is not None
        buckets = self.buckets[self.active]
        while self.next_bucket < len(buckets) and buckets[self.next_bucket].missing == 0:
            self.send(buckets[self.next_bucket])

    def send(self, bucket: Bucket) -> None:
        self.next_bucket += 1
        bucket.sent = [parameter for parameter in bucket.parameters if parameter.grad is not None]
        if bucket.sent:
            bucket.flat = torch.cat([p.grad.reshape(-1) for p in bucket.sent if p.grad is not None])
            bucket.work = dist.all_reduce(bucket.flat, group=self.group, async_op=True)

    def backward(self, optimizer: str, loss: Tensor) -> None:
        self.optimizers[optimizer].zero_grad(set_to_none=True)
        buckets = self.buckets[optimizer]
        for bucket in buckets:
            bucket.missing = len(bucket.parameters)
        self.active, self.next_bucket = optimizer, 0
        loss.backward()
        for bucket in buckets[self.next_bucket :]:
            self.send(bucket)
        self.active = None
        for bucket in buckets:
            receive(bucket, self.workers)
        for parameter in self.divided[optimizer]:
            if parameter.grad is not None:
                parameter.grad.div_(self.workers)

    def gradient_norm(self, optimizer: str) -> Tensor:
        owned = [parameter for group in self.optimizers[optimizer].param_groups for parameter in group["params"]]
        if divided := self.divided[optimizer]:
            return self.norm_with_parts(gradients(without(owned, divided)), gradients(divided))
        return torch.nn.utils.get_total_norm(gradients(owned))

    def norm_with_parts(self, whole: list[Tensor], parts: list[Tensor]) -> Tensor:
        """L2 norm of gradients that every worker has, and of the parts of all workers, of which each has its own."""
        devices = sorted({gradient.device for gradient in (*whole, *parts)}, key=lambda device: device.type == "cuda")
        squares = torch.nn.utils.get_total_norm(parts).square().to(devices[-1] if devices else None)
        dist.all_reduce(squares, group=self.group)
        return (torch.nn.utils.get_total_norm(whole).to(squares.device).square() + squares).sqrt()

    def mean(self, values: Tensor) -> Tensor:
        total = values.clone()
        with waiting():
            dist.all_reduce(total, group=self.group)
        return total / self.workers

    @torch.no_grad()
    def share_buffers(self) -> None:
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        divided = parts_of(self.method)
        for name, buffer in self.method.named_buffers():
            if name in divided:
                continue
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        for buffers in by_dtype.values():
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
            dist.broadcast(flat, src=0, group=self.group)
            for buffer, part in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
                buffer.copy_(part.view_as(buffer))


def without(parameters: Iterable[Parameter], left_out: Iterable[Parameter]) -> list[Parameter]:
    gone = set(left_out)
    return [parameter for parameter in parameters if parameter not in gone]


def gradients(parameters: Iterable[Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def receive(bucket: Bucket, workers: int) -> None:
    if bucket.work is None or bucket.flat is None:
        return
    with waiting():
        bucket.work.wait()
    flat = bucket.flat.div_(workers)
    parts = flat.split([parameter.numel() for parameter in bucket.sent])
    for parameter, part in zip(bucket.sent, parts, strict=True):
        assert parameter.grad is not None
        parameter.grad.copy_(part.view_as(parameter.grad))
    bucket.flat, bucket.work, bucket.sent = None, None, []


def fixed_buckets(parameters: Iterable[Parameter], bucket_bytes: int) -> list[Bucket]:
    """Cut parameters, last registered first, into buckets of one dtype and at most `bucket_bytes` (or one parameter)."""
    buckets: list[Bucket] = []
    size = 0
    for parameter in reversed(list(parameters)):
        num_bytes = parameter.numel() * parameter.element_size()
        full = size + num_bytes > bucket_bytes
        if not buckets or full or buckets[-1].parameters[0].dtype != parameter.dtype:
            buckets.append(Bucket([]))
            size = 0
        buckets[-1].parameters.append(parameter)
        size += num_bytes
    return buckets
