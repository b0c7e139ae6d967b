"""Global poolings, and the batch-norm neck behind them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.backbones.pooling import generalised_mean, max_and_average
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
