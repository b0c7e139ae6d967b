"""CAL's memory bank with its classes divided over the workers."""

from __future__ import annotations

from torch import Tensor

from methods.distributed import all_reduce_max
from methods.losses.clothes_memory import update_memory
from methods.sharded.share import Rows


def update_shard(
    bank_RD: Tensor, initialised_R: Tensor, rows: Rows, features_GD: Tensor, clothes_G: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    """The rows that `update_memory` gives of the whole bank. All workers call it together.

    bank_RD: float, initialised_R: bool, of the classes that this worker holds: `rows`. features_GD: float, clothes_G: int64,
    of all workers.
    """
    is_every_initialised = 1 - all_reduce_max((~initialised_R).any().to(bank_RD.dtype))
    is_here_G = (clothes_G >= rows.first) & (clothes_G < rows.end)
    return update_memory(
        bank_RD,
        initialised_R,
        features_GD[is_here_G],
        clothes_G[is_here_G] - rows.first,
        momentum * is_every_initialised,
    )
