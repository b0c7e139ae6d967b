"""State dicts from files of all kinds, and refusals of what is none."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from datasets.storage.address import AddressError
from orchestration.engine import weights
from orchestration.engine.weights import fetch, read_state, weights_address
from orchestration.errors import RequestError

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("w.safetensors", safetensors.torch.save(STATE)),
        ("w.pth", saved(STATE)),
        ("w.pth", saved({"epoch": 3, "state_dict": STATE})),
        ("w.pth", saved({"state_dict": {f"module.{key}": value for key, value in STATE.items()}})),
        ("w.pth", saved({"model": STATE, "epoch": 3})),
        ("w.pth", saved({"model_state_dict": STATE, "best": np.float64(0.5), "at": np.int64(3)})),
        ("w.pth", saved({f"module._orig_mod.{key}": value for key, value in STATE.items()})),
        ("w.safetensors", safetensors.torch.save({f"_orig_mod.{key}": value for key, value in STATE.items()})),
        ("w.safetensors", safetensors.torch.save({f"module.{key}": value for key, value in STATE.items()})),
    ],
)
def test_a_state_dict_is_read_from_a_path(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    found = fetch(str(tmp_path / name), None)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


def test_a_prefix_that_not_all_names_have_is_a_name(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert read_state(safetensors.torch.save(state), "w.safetensors").keys() == state.keys()


@pytest.mark.parametrize(
    "text",
    ["https://host/w.safetensors", "http://host/w.safetensors#sha256=" + "0" * 64, "https://host/w#sha256=12",
     "https://joe:secret@host/w.safetensors#sha256=" + "0" * 64, "https://host/w?key=1#sha256=" + "0" * 64],
)  # fmt: skip
def test_weights_from_the_web_need_their_digest(text: str) -> None:
    with pytest.raises(AddressError, match="need https:// and their SHA-256") as refused:
        weights_address(text)
    assert "secret" not in str(refused.value)


def test_weights_from_the_web_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = safetensors.torch.save(STATE)
    digest = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda place, timeout: io.BytesIO(data))
    good = f"https://host/w.safetensors#sha256={digest}"
    assert weights_address(good) == good
    assert fetch(good, None).keys() == STATE.keys()
    with pytest.raises(RequestError, match=rf"the file there has the SHA-256 {digest}"):
        fetch("https://host/w.safetensors#sha256=" + "0" * 64, None)


def test_weights_with_a_digest_are_fetched_from_the_hub_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    data, file = safetensors.torch.save(STATE), tmp_path / "w.safetensors"
    file.write_bytes(data)
    published = f"file://{file}#sha256={hashlib.sha256(data).hexdigest()}"
    assert fetch("published", published).keys() == STATE.keys()
    file.unlink()
    assert fetch("published", published).keys() == STATE.keys()
    [cached] = (tmp_path / "cache").rglob("*.safetensors")
    cached.write_bytes(data[:-1])
    with pytest.raises(RequestError, match=rf"^weights = published: cannot be read .* Copy file://{file} to this"):
        fetch("published", published)
    file.write_bytes(data)
    assert fetch("published", published).keys() == STATE.keys(), "what is damaged in the cache is fetched again"
    file.write_bytes(data + b"0")
    cached.unlink()
    with pytest.raises(RequestError, match=r"weights = published: cannot be read .*hash"):
        fetch("published", published)


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code of a stranger",))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("w.pth", pickle.dumps(Exploit(), protocol=2), "it is damaged or holds pickled code"),
        ("w.pth", saved({"a": 1}), "holds no state dict"),
        ("w.pth", saved([torch.ones(1)]), "holds no state dict"),
        ("w.pth", saved({"optimizer": {"a": 1}, "epoch": 3}), "holds no state dict .*, but optimizer, epoch. Expected"),
        ("w.pt", scripted(), "a TorchScript archive.*its code is not loaded.*torch.jit.load"),
        ("w.safetensors", scripted(), "a TorchScript archive"),
        ("w.pth", b"", "cannot be read"),
        ("w.safetensors", saved(STATE), "cannot be read"),
        ("w.bin", safetensors.torch.save(STATE), "cannot be read"),
    ],
)
def test_other_files_are_refused_by_name(
    name: str, data: bytes, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RequestError, match=rf"^weights = {name}: .*{reason}"):
        read_state(data, f"weights = {name}")
    assert "stranger" not in capfd.readouterr().out, "pickled code never runs"


def test_a_missing_file_and_a_missing_publication_are_reported(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.pth: cannot be read .*Expected 'published', or the path"):
        fetch(str(tmp_path / "none.pth"), None)
    with pytest.raises(RequestError, match=r"no published weights have this backbone's shape\. Set weights=null"):
        fetch("imagenet", None)


def test_the_hub_is_asked_for_the_published_address_and_its_failure_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def load(address: str, **options: Any) -> dict[str, torch.Tensor]:
        asked.append(address)
        assert options["check_hash"]
        assert options["weights_only"]
        if "gone" in address:
            raise OSError("no route")
        return STATE

    monkeypatch.setattr(weights.torch.hub, "load_state_dict_from_url", load)
    assert fetch("imagenet", "https://here/x-abc.pth").keys() == STATE.keys()
    with pytest.raises(
        RequestError, match=r"weights = imagenet: cannot be read \(no route\)\. Copy https://gone/x-abc\.pth"
    ):
        fetch("imagenet", "https://gone/x-abc.pth")
    assert asked == ["https://here/x-abc.pth", "https://gone/x-abc.pth"]
