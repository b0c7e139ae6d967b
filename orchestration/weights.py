"""Backbone weights from the usual hub, a path or an object-store address, handed to methods as a plain state dict."""

from __future__ import annotations

import io
import pickle

import safetensors.torch
import torch
from torch import Tensor

from datasets.store import open_store
from orchestration.errors import RequestError

HUB = "imagenet"


def fetch(weights: str, published: str | None) -> dict[str, Tensor]:
    """The state dict that `weights` names: "imagenet" (what the hub has at `published`, the address that the method
    gives), or a path or address of a `.safetensors` or `.pth` file.

    A `.pth` file is read with `weights_only=True`: pickled code is refused. A dict with a `state_dict` entry is unpacked,
    and `module.` prefixes are taken off.
    Raises: RequestError naming what cannot be fetched or read.
    """
    try:
        if weights == HUB:
            return from_hub(published)
        data = open_store(weights).read("")
        if weights.endswith(".safetensors"):
            return safetensors.torch.load(data)
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (OSError, EOFError, pickle.UnpicklingError, RuntimeError, safetensors.SafetensorError) as error:
        raise RequestError(
            f"weights = {weights}: cannot be read ({error}). Expected {HUB!r}, or the path or s3:// address of a "
            ".safetensors or .pth state dict without pickled code."
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RequestError(f"weights = {weights}: holds no state dict (names → tensors).")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def from_hub(published: str | None) -> dict[str, Tensor]:
    if published is None:
        raise RequestError(f"weights = {HUB}: no published weights have this backbone's shape. Set weights=null.")
    return dict(torch.hub.load_state_dict_from_url(published, map_location="cpu", check_hash=True, weights_only=True))
