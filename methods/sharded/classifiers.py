"""The classifiers of `methods.classifiers` with their classes divided over the workers.

A call gathers the features of all workers, and gives their logits for the classes that are here. Weights start with the bits
that the whole classifier's have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from methods.distributed import all_reduce_sum, gather
from methods.losses.cosine import cosines
from methods.sharded.losses import ClassLogits
from methods.sharded.sample import ClassSample
from methods.sharded.share import HoldsRows, Rows, filled

Score = Callable[
    [Tensor, Tensor, Tensor | None], Tensor
]  # features [G, dim], weight [R, dim], bias [R] → logits [G, R]


class ShardedClassifier(HoldsRows):
    """Features [B, dim] of this worker, and labels → `ClassLogits` of all workers' samples. All workers call it together."""

    bias: Parameter | None

    def __init__(self, score: Score, weight: Tensor, bias: Tensor | None, rows: Rows, counted: float) -> None:
        """weight: [rows here, dim]. bias: [rows here]. counted: the share of the classes that a step counts (`ClassSample`)."""
        super().__init__()
        self.score = score
        self.weight = Parameter(weight)
        self.register_parameter("bias", None if bias is None else Parameter(bias))
        self.held_rows: Mapping[str, Rows] = dict.fromkeys(("weight", "bias")[: 1 if bias is None else 2], rows)
        self.rows = rows
        self.sample = ClassSample(counted) if counted < 1 else None

    def forward(self, features: Tensor, labels: Tensor, keys: Tensor | None = None) -> ClassLogits:
        """labels: int64 [B]; keys: int64 [rows here]. Classes whose key is a label of the batch are always counted; without
        keys, a class's key is its number."""
        return self.logits(features, labels, keys, is_new=True, weight=self.weight, bias=self.bias)

    def held_fixed(self, features: Tensor, labels: Tensor, keys: Tensor | None = None) -> ClassLogits:
        """As `forward`, where gradients reach the features and no parameter, of the classes drawn last."""
        bias = None if self.bias is None else self.bias.detach()
        return self.logits(features, labels, keys, is_new=False, weight=self.weight.detach(), bias=bias)

    def logits(
        self,
        features: Tensor,
        labels: Tensor,
        keys: Tensor | None,
        *,
        is_new: bool,
        weight: Tensor,
        bias: Tensor | None,
    ) -> ClassLogits:
        classes = self.rows.numbers(weight.device)
        total: int | Tensor = self.rows.total
        if self.sample is not None:
            needed = torch.isin(classes if keys is None else keys, gather(labels))
            at = self.sample(classes, needed, is_new=is_new)
            classes, weight, bias = classes[at], weight[at], None if bias is None else bias[at]
            total = all_reduce_sum(torch.tensor(len(classes), device=weight.device))
        return ClassLogits(self.score(gather(features), weight, bias), classes, total)


class ShardedLinearClassifier(ShardedClassifier):
    """`LinearClassifier`."""

    def __init__(self, dim: int, rows: Rows, bias: bool = True, counted: float = 1.0) -> None:
        filled(rows, dim, Tensor.uniform_)  # nn.Linear draws weight and bias before LinearClassifier does
        if bias:
            filled(rows, 1, Tensor.uniform_)
        weight = filled(rows, dim, lambda numbers: numbers.normal_(std=0.001))
        super().__init__(F.linear, weight, torch.zeros(rows.count) if bias else None, rows, counted)


class ShardedCosineClassifier(ShardedClassifier):
    """`CosineClassifier`."""

    def __init__(self, dim: int, rows: Rows, counted: float = 1.0) -> None:
        weight = filled(rows, dim, lambda numbers: numbers.uniform_(-1, 1))
        super().__init__(without_bias, F.normalize(weight, dim=1), None, rows, counted)


def without_bias(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Cosines, as a `Score`."""
    return cosines(features, weight)
