"""Backbone weights from the usual hub, a path or an object-store address, handed to methods as a plain state dict.

A run or a sweep fetches them once into its storage, under their SHA-256; a node's processes read them from there once.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from datasets.storage.address import AddressError, parse_address, shown
from datasets.storage.disk_cache import DiskCache
from datasets.storage.store import Store, open_store
from orchestration.errors import RequestError, cause, first_line

HUB = ("published", "imagenet")  # both what the hub has for the backbone; the second is for ResNets
FOLDER = "weights"
NODE_CACHE = Path(tempfile.gettempdir()) / "redress-weights"
NODE_CACHE_BYTES = 16 << 30
DIGEST = "#sha256="
WITH_DIGEST = re.compile(r"https://[^\s#@?]+" + DIGEST + "[0-9a-f]{64}")
ANSWER_S = 60.0
WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "network")
PREFIXES = ("module.", "_orig_mod.")
# Plain numbers that training codes save beside the weights, such as the best score.
NUMPY_SCALARS: list[Any] = [np.float64(0).__reduce__()[0], np.dtype, *(type(np.dtype(kind)) for kind in "fdilq?")]


def weights_address(text: str) -> str:
    """A word of `HUB` or https://…#sha256=DIGEST as it is, else the address of a file or object. Raises: AddressError."""
    if text in HUB:
        return text
    if text.startswith(("https://", "http://")):
        if not WITH_DIGEST.fullmatch(text):
            raise AddressError(
                f"{shown(text)}: weights from the web need https:// and their SHA-256, as in https://host/file.safetensors"
                "#sha256=9f86d0…"
            )
        return text
    return str(parse_address(text))


def fetch(weights: str, published: str | None) -> dict[str, Tensor]:
    """The state dict that `weights` names: a word of `HUB` (what is at `published`, the address that the method gives),
    https://…#sha256=DIGEST, or a path or address of a `.safetensors` or `.pth` file.

    A `.pth` file is read with `weights_only=True`: pickled code is refused.
    Raises: RequestError naming what cannot be fetched or read.
    """
    try:
        if weights in HUB:
            return from_hub(weights, published)
        data = from_web(weights) if weights.startswith("https://") else open_store(weights).read("")
    except (OSError, RuntimeError) as error:
        expected = f"Expected {HUB[0]!r}, or the path or s3:// address of a .safetensors or .pth state dict."
        if weights in HUB and published:
            expected = f"Copy {published.partition('#')[0]} to this machine, and set weights to the copy's path."
        raise RequestError(f"weights = {weights}: cannot be read ({cause(error)}). {expected}") from error
    return read_state(data, f"weights = {weights.partition('#')[0]}")


def read_state(data: bytes, name: str) -> dict[str, Tensor]:
    """The state dict in the bytes of the file `name`; only one that ends in .safetensors is taken for such.

    What training codes put around a state dict is taken off: an entry of `WRAPPERS`, and `PREFIXES` that all keys have.
    Raises: RequestError beginning with `name`.
    """
    if is_torchscript(data):
        raise RequestError(
            f"{name}: a TorchScript archive, as OpenAI publishes CLIP; its code is not loaded. Save its state dict: "
            "safetensors.torch.save_file(torch.jit.load(FILE, map_location='cpu').state_dict(), 'weights.safetensors'), or "
            "take the hub's open_clip_model.safetensors."
        )
    try:
        if name.endswith(".safetensors"):
            return without_prefixes(safetensors.torch.load(data))
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise nearly anything
        is_refused = isinstance(error, pickle.UnpicklingError)  # torch's message says how to run the code
        reason = "it is damaged or holds pickled code" if is_refused else first_line(error)
        raise RequestError(
            f"{name}: cannot be read ({reason}). Expected a .safetensors or .pth state dict without pickled code."
        ) from error
    return without_prefixes(unwrapped(loaded, name))


def unwrapped(loaded: object, name: str) -> dict[str, Tensor]:
    """The state dict itself, or in one of its WRAPPERS. Raises: RequestError naming the entries that there are."""
    inside = [loaded[key] for key in WRAPPERS if key in loaded] if isinstance(loaded, dict) else []
    for state in (loaded, *inside):
        if isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values()):
            return {str(key): value for key, value in state.items()}
    entries = ", ".join(map(str, list(loaded)[:4])) if isinstance(loaded, dict) else type(loaded).__name__
    raise RequestError(
        f"{name}: holds no state dict (names → tensors), but {entries or 'nothing'}. Expected tensors, alone or in an entry "
        f"{', '.join(WRAPPERS)}."
    )


def without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what data-parallel training and compilation put before every name."""
    while state and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def is_torchscript(data: bytes) -> bool:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(entry.endswith("/constants.pkl") for entry in archive.namelist())
    except zipfile.BadZipFile:
        return False


def from_web(address: str) -> bytes:
    """Raises: OSError where nothing answers; RequestError where the bytes have another digest."""
    place, _, digest = address.partition(DIGEST)
    with urllib.request.urlopen(place, timeout=ANSWER_S) as answer:
        data: bytes = answer.read()
    if (found := hashlib.sha256(data).hexdigest()) != digest:
        raise RequestError(
            f"weights = {address}: the file there has the SHA-256 {found}. Check the address, or the digest."
        )
    return data


def from_hub(word: str, published: str | None) -> dict[str, Tensor]:
    """From torch.hub's cache, which is filled once."""
    if published is None:
        raise RequestError(f"weights = {word}: no published weights have this backbone's shape. Set weights=null.")
    if DIGEST in published:
        return read_state(from_cache(published), f"weights = {published.partition('#')[0]}")
    return dict(torch.hub.load_state_dict_from_url(published, map_location="cpu", check_hash=True, weights_only=True))


def from_cache(address: str) -> bytes:
    """The bytes with the digest in the address. Raises: OSError, RuntimeError where they cannot be fetched, or are others."""
    place, _, digest = address.partition(DIGEST)
    path = Path(torch.hub.get_dir(), "checkpoints", f"{digest}{Path(place).suffix}")
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(place, str(path), hash_prefix=digest)
    return path.read_bytes()


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
