"""Our safetensors files are those of the library, byte for byte, in memory that is kept."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from orchestration.engine.tensor_file import DTYPES, TensorFile, to_bytes


def numbers(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    drawn = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(seed))
    return (drawn > 50) if dtype == torch.bool else drawn.to(dtype)


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
names = st.text(st.characters(codec="utf-8"), max_size=6)


@settings(max_examples=200)
@given(st.dictionaries(names, st.tuples(st.sampled_from(list(DTYPES)), shapes), max_size=12))
def test_the_bytes_are_those_of_the_library(tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
    """All dtypes; scalars and empty tensors; any names."""
    state = {name: numbers(*what, seed) for seed, (name, what) in enumerate(tensors.items())}
    ours = to_bytes(state)
    assert ours == safetensors.torch.save(state)
    loaded = safetensors.torch.load(ours)
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert loaded[name].view(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist()


def test_tensors_may_be_parameters_views_and_shared() -> None:
    weight = nn.Parameter(torch.arange(12.0).view(3, 4))
    state = {"a": weight, "turned": weight.t(), "column": weight[:, 1], "b": weight, "spread": torch.ones(1).expand(5)}
    loaded = safetensors.torch.load(to_bytes(state))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_memory_is_kept_for_whatever_fits() -> None:
    file = TensorFile()
    large, small = {"a": torch.ones(1000), "b": torch.zeros(3)}, {"b": torch.full((7,), 2.0)}
    file.fill(large)
    place = file.memory.data_ptr()
    for state in (small, large, {}, {"a": torch.full((1000,), 3.0), "b": torch.zeros(3)}):
        file.fill(state)
        assert bytes(file.content) == safetensors.torch.save(state)
        assert file.memory.data_ptr() == place
    file.fill(large | {"c": torch.ones(1000)})
    assert len(file.content) == file.memory.numel()


def test_what_the_format_lacks_is_named() -> None:
    with pytest.raises(
        TypeError, match=r"tensor 'phase' is torch.complex128, .* expected one of uint64, int64, float64"
    ):
        to_bytes({"weight": torch.ones(2), "phase": torch.ones(2, dtype=torch.complex128)})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_of_a_gpu_are_copied_to_pinned_memory() -> None:
    file, state = TensorFile(), {"a": torch.arange(1000.0).cuda(), "step": torch.tensor(3.0)}
    file.fill({"a": torch.zeros(5000)})
    file.fill(state)
    torch.cuda.synchronize()
    assert file.memory.is_pinned()
    assert bytes(file.content) == safetensors.torch.save({name: tensor.cpu() for name, tensor in state.items()})
