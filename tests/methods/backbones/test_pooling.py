"""Global poolings, and the batch-norm neck behind them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.backbones.pooling import GeneralisedMean, generalised_mean, max_and_average
from methods.distributed import SyncBatchNorm
from tests import golden

dtypes = pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize("case", golden.cases("pooling_bn"))
def test_golden_pooling_and_neck(case: golden.Case, dtype: torch.dtype) -> None:
    case.choose({"global_pooling": check_pooling, "bn_neck": check_neck})(case, dtype)


def check_pooling(case: golden.Case, dtype: torch.dtype) -> None:
    maps = case.inputs(dtype)["x"]
    case.check("maxavg", max_and_average(maps))
    case.check("gem", generalised_mean(maps, case.params["gem_p"], case.params["gem_eps"]))


def check_neck(case: golden.Case, dtype: torch.dtype) -> None:
    """Also of the synchronised neck, which is the plain one where there is one worker."""
    for kind in (nn.BatchNorm1d, SyncBatchNorm):
        given = case.inputs(dtype)
        neck = case.bind(kind)(given["x"].shape[1]).to(dtype)
        names = ("weight", "bias", "running_mean", "running_var")
        neck.load_state_dict({name: given[name] for name in names}, strict=False)
        case.check("eval", neck.eval()(given["x"]))
        case.check("train", neck.train()(given["x"]))
        case.check("running_mean_after", neck.running_mean)
        case.check("running_var_after", neck.running_var)


def test_a_generalised_mean_trains_its_exponent() -> None:
    pool = GeneralisedMean().double()
    maps = torch.rand(2, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    assert pool.p.item() == 3
    torch.testing.assert_close(pool(maps), (maps**3).mean((2, 3)) ** (1 / 3))
    torch.autograd.gradcheck(lambda p: generalised_mean(maps, p), pool.p)
    assert pool.float()(maps.bfloat16()).dtype == torch.float32


def test_a_generalised_mean_lies_between_average_and_maximum() -> None:
    maps = torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(generalised_mean(maps, 1.0), maps.mean((2, 3)))
    torch.testing.assert_close(generalised_mean(maps.double(), 400.0), maps.double().amax((2, 3)), rtol=1e-2, atol=0)
