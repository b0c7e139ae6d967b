"""Backbone weights from the usual hub, a path or an object-store address, handed to methods as a plain state dict.

A run or a sweep fetches them once into its storage, under their SHA-256; a node's processes read them from there once.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from datasets.storage.disk_cache import DiskCache
from datasets.storage.store import Store, open_store
from orchestration.errors import RequestError, cause, first_line

HUB = "imagenet"
FOLDER = "weights"
NODE_CACHE = Path(tempfile.gettempdir()) / "redress-weights"
NODE_CACHE_BYTES = 16 << 30


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
    except (OSError, RuntimeError) as error:
        raise RequestError(
            f"weights = {weights}: cannot be read ({cause(error)}). Expected {HUB!r}, or the path or s3:// address of a "
            ".safetensors or .pth state dict."
        ) from error
    return read_state(data, f"weights = {weights}")


def read_state(data: bytes, name: str) -> dict[str, Tensor]:
    """The state dict in the bytes of the file `name`; only one that ends in .safetensors is taken for such.

    Raises: RequestError beginning with `name`.
    """
    try:
        if name.endswith(".safetensors"):
            return safetensors.torch.load(data)
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise nearly anything
        is_refused = isinstance(error, pickle.UnpicklingError)  # torch's message says how to run the code
        reason = "it is damaged or holds pickled code" if is_refused else first_line(error)
        raise RequestError(
            f"{name}: cannot be read ({reason}). Expected a .safetensors or .pth state dict without pickled code."
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RequestError(f"{name}: holds no state dict (names → tensors).")
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def from_hub(published: str | None) -> dict[str, Tensor]:
    if published is None:
        raise RequestError(f"weights = {HUB}: no published weights have this backbone's shape. Set weights=null.")
    return dict(torch.hub.load_state_dict_from_url(published, map_location="cpu", check_hash=True, weights_only=True))


def keep(store: Store, data: bytes) -> str:
    """Write safetensors bytes to a run's or a sweep's storage, once, and return their address."""
    path = f"{FOLDER}/{hashlib.sha256(data).hexdigest()}.safetensors"
    if not store.exists(path):
        store.write(path, data)
    return store.join(path)


def read_kept(address: str) -> dict[str, Tensor]:
    """The tensors at an address that `keep` returned; a node's processes fetch them from an object store once.

    Raises: StoreError; RequestError where the bytes are not those that were kept.
    """
    digest = address.rpartition("/")[2].removesuffix(".safetensors")
    if "://" in address and not address.startswith("file://"):
        data = DiskCache(NODE_CACHE, NODE_CACHE_BYTES).fetch(digest, lambda: open_store(address).read(""))
    else:
        data = open_store(address).read("")
    if hashlib.sha256(data).hexdigest() != digest:
        raise RequestError(f"{address}: the bytes differ from the digest in its name. Start a new run.")
    return safetensors.torch.load(data)
