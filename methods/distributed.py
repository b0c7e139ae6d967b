"""What workers share inside a method: gathered samples, sums over classes and batch-norm statistics.

Everything is an identity where there is one worker. Collectives run on torch.distributed's default group, on any
backend, and their sums are taken in rank order, so that all workers hold the same bits. A loss on worker r is L_r;
gradients are those of Σ L_r, which the strategy divides by the number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

_waited = [0.0]


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


@contextmanager
def waiting() -> Iterator[None]:
    """Around a collective that this process waits for."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _waited[0] += time.perf_counter() - began


def waited_s() -> float:
    """Seconds that this process has spent in collectives so far; on a GPU, in starting them."""
    return _waited[0]


def gather(local: Tensor) -> Tensor:
    """[B, …] of each worker → [workers × B, …] in rank order, on each of them. B must be the same everywhere.

    The gradient of a row is summed over all workers' losses and goes back to the worker that owns it.
    """
    return _Gather.apply(local) if world_size() > 1 else local


def own_part(gathered: Tensor) -> Tensor:
    """[workers × B, …], as `gather` gives it → this worker's [B, …]."""
    return gathered.chunk(world_size())[rank()]


def all_reduce_sum(local: Tensor) -> Tensor:
    """The sum over all workers, on each of them: same shape. All workers' gradients of it are summed, too."""
    return _Sum.apply(local) if world_size() > 1 else local


@torch.no_grad()
def all_reduce_max(local: Tensor) -> Tensor:
    """The largest over all workers, on each of them: same shape. It has no gradient."""
    return _gathered(local).amax(0) if world_size() > 1 else local


@torch.no_grad()
def gather_uneven(local: Tensor) -> Tensor:
    """[B, …] of each worker → all workers' rows in rank order, on each of them. B may differ, and be 0. It has no gradient."""
    if world_size() == 1:
        return local
    lengths = _gathered(torch.tensor(len(local), device=local.device)).tolist()
    padded = local.new_zeros(max(lengths), *local.shape[1:])
    padded[: len(local)] = local
    return torch.cat([part[:length] for part, length in zip(_gathered(padded), lengths, strict=True)])


def synchronise(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm1d/2d/3d by one whose statistics are those of the global batch; returns the module.

    Parameters, buffers and names stay the same objects, so optimizers and checkpoints do not notice. A batch norm
    passed in by itself is not replaced in place: use what is returned.
    """
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        return SyncBatchNorm.of(module)
    for name, child in module.named_children():
        replaced = synchronise(child)
        if replaced is not child:
            setattr(module, name, replaced)
    return module


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the global batch: [B, C, …] of each worker; sizes may differ between workers.

    As torch's SyncBatchNorm, but also on the CPU and in float64; the running variance is unbiased by the global count.
    """

    @classmethod
    def of(cls, norm: _BatchNorm) -> SyncBatchNorm:
        sync = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        sync._parameters, sync._buffers = norm._parameters, norm._buffers
        return sync.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm expects [B, C, …], got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, variance, count = _GlobalBatchNorm.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._update_running(mean, variance * count / (count - 1).clamp(min=1))
        return output

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _GlobalBatchNorm(Function):
    """(input, weight, bias, eps) → (output, mean [C], biased variance [C], count): statistics of the global batch."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
        mean, variance, count = _global_moments(input)
        output = F.batch_norm(input, mean, variance, weight, bias, training=False, eps=eps)
        ctx.eps = eps
        ctx.save_for_backward(input, weight, mean, variance, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return output, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        input, weight, mean, variance, count = ctx.saved_tensors
        values, grad = input.to(mean.dtype), grad.to(mean.dtype)  # as they are, except under autocast
        inverse = (variance + ctx.eps).rsqrt()
        # In eval mode the native kernel takes the statistics as given: what it sums is the local Σ g·x̂ and Σ g.
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, values, torch.ones_like(mean), mean, variance, mean, inverse, False, ctx.eps, [False, True, True]
        )
        of_weight, of_bias = (_gathered(torch.stack([grad_weight, grad_bias])).sum(0) / count).unbind()
        # dx = γ/σ · (g − mean g − x̂ · mean g·x̂), written as a·g + b·x + c to touch the maps as little as can be
        scale = inverse if weight is None else inverse * weight
        slope = -scale * inverse * of_weight
        offset = -scale * of_bias - slope * mean
        a, b, c = (_per_channel(v, values) for v in (scale, slope, offset))
        grad_input = (grad * a).addcmul_(values, b).add_(c).to(input.dtype)
        if weight is None:
            return grad_input, None, None, None
        return grad_input, grad_weight, grad_bias, None


def _global_moments(input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C], biased variance [C], number of values per channel, over all workers (Chan et al., 1979)."""
    over = [d for d in range(input.dim()) if d != 1]
    values = input.to(torch.promote_types(input.dtype, torch.float32))
    mean = values.mean(over)
    # Two passes, because torch.var_mean takes ten times as long on a CPU.
    squares = (values - _per_channel(mean, values)).square_().sum(over)
    counts = torch.full_like(mean, values.numel() // values.shape[1])
    means, squares, counts = _gathered(torch.stack([mean, squares, counts])).unbind(1)
    count = counts.sum(0)
    mean = (means * counts).sum(0) / count
    return mean, (squares + counts * (means - mean) ** 2).sum(0) / count, count


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _gathered(local: Tensor) -> Tensor:
    """[workers, *local.shape]."""
    local = local.contiguous()
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    with waiting():
        dist.all_gather(parts, local)
    return torch.stack(parts)


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return _gathered(local).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _reduce_scattered(grad)


def _reduce_scattered(grad: Tensor) -> Tensor:
    """[workers × B, …] of each worker → the sum of all workers' blocks of this worker's rows: [B, …].

    A worker receives as many numbers as it sends: reduce-scatter where the backend has it would sum in an order of its own.
    """
    received = torch.empty_like(grad, memory_format=torch.contiguous_format)
    with waiting():
        dist.all_to_all_single(received, grad.contiguous())
    return received.unflatten(0, (dist.get_world_size(), -1)).sum(0)


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return _gathered(local).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _gathered(grad).sum(0)
