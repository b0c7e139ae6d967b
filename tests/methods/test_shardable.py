"""What a strategy may hold in parts: nobody reads it from outside, and its readers give no view of it."""

from __future__ import annotations

import pytest
from torch import nn

from methods.shardable import Shardable
from tests.methods.variants import VARIANTS, build


@pytest.mark.parametrize("variant", VARIANTS)
def test_shardable_modules_do_not_lie_in_each_other_and_have_their_readers(variant: str) -> None:
    method = build(variant)
    found = {name: module for name, module in method.named_modules() if isinstance(module, Shardable)}
    assert found, "the blocks of its body, and its classifiers"
    for name, module in found.items():
        assert not [other for other in found if other.startswith(f"{name}.")], "a part would be held in parts twice"
        assert all(callable(getattr(module, reader)) for reader in module.readers)


@pytest.mark.parametrize("variant", [v for v, (_, settings) in VARIANTS.items() if settings.get("body") != "clip-cnn"])
def test_most_of_a_method_is_shardable(variant: str) -> None:
    """The small CLIP is 1.7 MB, whose convolutions stay whole."""
    method = build(variant)
    trained = {p for pairs in method.parameters_of().values() for _, p in pairs}
    shardable = {p for m in method.modules() if isinstance(m, Shardable) for p in nn.Module.parameters(m)} & trained
    assert sum(p.numel() for p in shardable) > 0.5 * sum(p.numel() for p in trained)
