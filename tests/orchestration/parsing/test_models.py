"""What `data parse --model` takes: published checkpoints and graphs as people export them; what it refuses, and why."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from datasets.parsing.parser import GraphInput, SCHPParser
from orchestration.errors import RequestError
from orchestration.export.serving import RefusedModelError, check_archive
from orchestration.parsing.models import find_parser, without_debug_info
from tests.datasets.parsing.schp_by_hand import random_state

IMAGES = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((64, 32), (50, 50))]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """As its authors hand it out: a dict with the state of a module that was wrapped for several GPUs."""
    path, state = tmp_path_factory.mktemp("schp") / "exp-schp-lip.pth", random_state(20)
    torch.save({"epoch": 150, "state_dict": {f"module.{name}": entry for name, entry in state.items()}}, path)
    return path, state


def test_a_published_checkpoint_is_loaded_entry_by_entry(checkpoint: tuple[Path, dict[str, Tensor]]) -> None:
    path, state = checkpoint
    model = find_parser(str(path))
    assert (model.kind, model.labels, model.takes) == ("schp", "lip20", None)
    parser = model.open()
    assert isinstance(parser, SCHPParser)
    loaded = parser.network.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], entry) for name, entry in state.items())
    (labels,) = parser(IMAGES[:1])
    assert labels.shape == (64, 32)
    with pytest.raises(RequestError, match=r"is SCHP with 20 classes: lip20, not atr18"):
        find_parser(str(path), labels="atr18")
    with pytest.raises(RequestError, match=r"--size, --mean and --std apply to exported graphs"):
        find_parser(str(path), size=(473, 473))


class Code:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return print, ("code was run",)


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def save(name: str, content: object) -> str:
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    (tmp_path / "junk.pth").write_bytes(b"GIF89a")
    safetensors.torch.save_file({"fc.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    for address, told in [
        (str(tmp_path / "nowhere.pth"), r"cannot read .*nowhere\.pth: there is no such file"),
        (str(tmp_path / "junk.pth"), r"junk\.pth: cannot be read .*Expected a \.safetensors or \.pth"),
        (
            save("code.pth", {"state_dict": Code()}),
            r"code\.pth: cannot be read \(it is damaged or holds pickled code\)",
        ),
        (save("list.pth", [1, 2]), r"list\.pth: holds no state dict"),
        (
            save("other.pth", {"fc.weight": torch.zeros(3)}),
            r"other\.pth: .*no checkpoint of SCHP.*fushion\.3\.weight, but fc",
        ),
        (str(tmp_path / "other.safetensors"), r"no checkpoint of SCHP"),
    ]:
        with pytest.raises(RequestError, match=told):
            find_parser(address)
    assert "code was run" not in capfd.readouterr().out


class Shades(nn.Module):
    """Six logits from the channels; `outputs` of them."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.outputs = outputs
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        logits = self.conv(images)
        return logits if self.outputs == 1 else (logits,) * self.outputs


def export(path: Path, module: nn.Module, *, size: tuple[int, int] = (64, 32), batch: int | None = None) -> str:
    """A .pt2 file as the documentation of torch.export makes it."""
    free = None if batch else ({0: torch.export.Dim("batch", min=1)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), (torch.zeros(batch or 2, 3, *size),), dynamic_shapes=free)
        torch.export.save(program, path)
    return str(path)


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_a_plain_export_is_parsed_with_as_the_module_would(batch: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(Shades())
    model = find_parser(export(tmp_path / "net.pt2", module, batch=batch), labels="six", mean=(0, 0, 0), std=(1, 1, 1))
    assert model.takes == GraphInput((64, 32), (0, 0, 0), (1, 1, 1), batch)
    with torch.no_grad():
        expected = module(IMAGES[0][None].float() / 255).argmax(1)[0]
    found = model.open()(IMAGES)
    assert torch.equal(found[0], expected.to(torch.uint8))
    assert found[1].shape == (50, 50)


def test_what_stays_of_an_archive_passes_the_check_of_registered_models(tmp_path: Path) -> None:
    archive = Path(export(tmp_path / "net.pt2", nn.Sequential(Shades()))).read_bytes()
    with pytest.raises(RefusedModelError, match="the graph contains metadata"):
        check_archive(archive)
    check_archive(without_debug_info(archive))


def changed(archive: str, name: str, change: Callable[[bytes], bytes]) -> str:
    """The archive with one member altered."""
    out = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            new.writestr(member, change(content) if member.endswith(name) else content)
    Path(archive).write_bytes(out.getvalue())
    return archive


def test_graphs_that_carry_code_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = changed(
        export(tmp_path / "call.pt2", Shades()), "model.json",
        lambda text: text.replace(b"torch.ops.aten.conv2d.default", b"builtins.eval"),
    )  # fmt: skip
    weights = changed(
        export(tmp_path / "weights.pt2", Shades()), "model_weights_config.json",
        lambda text: text.replace(b'"use_pickle": false', b'"use_pickle": true'),
    )  # fmt: skip
    changed(weights, "data/weights/weight_0", lambda content: pickle.dumps(Code(), protocol=2))
    for address, told in [
        (call, r"refused: the graph contains a call of 'builtins.eval'"),
        (weights, r"is refused: .*code"),
    ]:
        with pytest.raises(RequestError, match=told):
            find_parser(address, labels="six")
    assert "code was run" not in capfd.readouterr().out


def test_graphs_that_do_not_fit_are_refused_before_work(tmp_path: Path) -> None:
    good = export(tmp_path / "good.pt2", Shades())
    with pytest.raises(
        RequestError, match=r"is a graph: --labels must name the label map of its outputs.*lip20 \(20\)"
    ):
        find_parser(good)
    with pytest.raises(RequestError, match=r"--labels lip: there is no such label map\. Expected one of lip20"):
        find_parser(good, labels="lip")
    with pytest.raises(
        RequestError, match=r"good\.pt2: the graph returns .*It has 6 channels, label map lip20 20 labels"
    ):
        find_parser(good, labels="lip20")
    with pytest.raises(RequestError, match=r"takes images of 64x32, not --size 128x64\. Omit --size"):
        find_parser(good, labels="six", size=(128, 64))
    with pytest.raises(RequestError, match=r"inputs images and outputs conv2d, conv2d.*expected one of each"):
        find_parser(export(tmp_path / "two.pt2", Shades(2)), labels="six")
    (tmp_path / "junk.pt2").write_bytes(b"PK no archive")
    with pytest.raises(RequestError, match=r"junk\.pt2"):
        find_parser(str(tmp_path / "junk.pt2"), labels="six")


def test_a_file_that_changed_between_driver_and_worker_is_not_used(tmp_path: Path) -> None:
    model = find_parser(export(tmp_path / "net.pt2", Shades()), labels="six")
    export(tmp_path / "net.pt2", Shades())
    with pytest.raises(RequestError, match="was changed while it was in use"):
        model.open()


def brightest(path: Path, *, shape: list[int | str], outputs: int = 1, beside: bool = False, op: str = "Conv") -> str:
    """ONNX: a 1 × 1 convolution from three channels to six, drawn by hand; its weights in a file beside it, or not."""
    weights = np.concatenate([np.eye(3), -np.ones((3, 3))]).astype(np.float32)[:, :, None, None]
    kernel = numpy_helper.from_array(weights, "kernel")
    ends = [helper.make_tensor_value_info(f"logits{i}", TensorProto.FLOAT, None) for i in range(outputs)]
    nodes = [helper.make_node(op, ["images", "kernel"] if op == "Conv" else ["images"], [end.name]) for end in ends]
    start = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "brightest", [start], ends, [kernel])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(
        model, path, save_as_external_data=beside, location=f"{path.name}.data", size_threshold=0, convert_attribute=False
    )  # fmt: skip
    return str(path)


@pytest.mark.parametrize("beside", [False, True], ids=["one file", "weights beside it"])
def test_an_onnx_graph_of_any_size_is_parsed_with(beside: bool, tmp_path: Path) -> None:
    address = brightest(tmp_path / "net.onnx", shape=["n", 3, "h", "w"], beside=beside)
    with pytest.raises(RequestError, match=r"takes images of any size\. Set the size with --size HxW"):
        find_parser(address, labels="six")
    model = find_parser(address, labels="six", size=(64, 32), mean=(0, 0, 0), std=(1, 1, 1))
    assert model.takes is not None
    assert model.takes.batch is None
    found = model.open(threads=2)(IMAGES)
    assert torch.equal(found[0], IMAGES[0].float().argmax(0).to(torch.uint8))
    assert found[1].shape == (50, 50)


def test_weights_beside_an_onnx_graph_are_part_of_its_digest(tmp_path: Path) -> None:
    address = brightest(tmp_path / "net.onnx", shape=[1, 3, 8, 8], beside=True)
    model = find_parser(address, labels="six")
    weights = Path(f"{address}.data")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert find_parser(address, labels="six").sha256 != model.sha256
    weights.unlink()
    with pytest.raises(RequestError, match="ONNX Runtime cannot load it"):
        find_parser(address, labels="six")


def test_onnx_graphs_that_do_not_fit_are_refused_before_work(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    for address, told in [
        (str(tmp_path / "junk.onnx"), r"junk\.onnx: ONNX Runtime cannot load it"),
        (
            brightest(tmp_path / "two.onnx", shape=[1, 3, 8, 8], outputs=2),
            r"outputs logits0, logits1; expected one of each",
        ),
        (
            brightest(tmp_path / "wide.onnx", shape=[1, 4, 8, 8], op="Identity"),
            r"takes input \[1, 4, 8, 8\]; expected \[B, 3, H, W\]",
        ),
    ]:
        with pytest.raises(RequestError, match=told):
            find_parser(address, labels="six")
