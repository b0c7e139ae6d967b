"""Methods as ONNX: the network's features by another runtime, for any number of images, with maps, and of clips."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
import torch

from orchestration.export.onnx_graph import to_onnx
from orchestration.export.torch_graph import Descriptor, ExportError, trace
from tests.methods.variants import VARIANTS, build

FIRST = {name: variant for variant, (name, _) in reversed(VARIANTS.items())}  # of each method's variants
SIZE = (32, 16)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def inputs_of(name: str, number: int, frames: int | None = None) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(number)
    shape = (number, 3, *SIZE) if frames is None else (number, frames, 3, *SIZE)
    made = {"images": torch.randint(0, 256, shape, generator=random).float()}
    if "parsing" in build(FIRST[name]).inputs:
        made["parsing"] = torch.randint(0, 20, (number, *SIZE), dtype=torch.uint8, generator=random)
    return made


def run(runtime: onnxruntime.InferenceSession, given: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.from_numpy(runtime.run(["features"], {name: tensor.numpy() for name, tensor in given.items()})[0])


def reached(descriptor: Descriptor, example: dict[str, torch.Tensor]) -> set[str]:
    """The tensors on which the features depend: another value in one of them shows in the features."""
    found = set()
    with torch.no_grad():
        features = descriptor(*example.values())
        for name, tensor in (*descriptor.named_parameters(), *descriptor.named_buffers()):
            before = tensor.clone()
            tensor.copy_(torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else ~tensor)
            if not torch.equal(descriptor(*example.values()), features):
                found.add(name)
            tensor.copy_(before)
    return found


# Other methods of images have one input, as the models of test_register.py, and those of clips are CAL's.
def test_a_method_of_images_and_maps_gives_its_features_as_onnx() -> None:
    name = "ifd"
    descriptor = Descriptor(build(FIRST[name], torch.float32), MEAN, STD, flip=True).eval()
    example = inputs_of(name, 2)
    program = trace(descriptor, (*example.values(),))
    assert {*program.state_dict, *program.constants} == reached(descriptor, example)
    data = to_onnx(program, descriptor, (*example.values(),), list(example))
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    runtime = onnxruntime.InferenceSession(data)
    ranges = runtime.get_modelmeta().custom_metadata_map
    assert set(ranges) == set(example)
    assert ranges["images"] == "RGB, 0 to 255: neither divided by 255 nor normalised"
    assert [one.name for one in runtime.get_inputs()] == list(example)
    for number in (1, 5):
        given = inputs_of(name, number)
        with torch.no_grad():
            torch.testing.assert_close(run(runtime, given), descriptor(*given.values()), atol=1e-4, rtol=0)


def test_a_method_of_video_gives_its_features_of_clips_as_onnx() -> None:
    name = "cal"
    descriptor = Descriptor(build(FIRST[name], torch.float32), MEAN, STD, flip=False).eval()
    example = (*inputs_of(name, 2, frames=3).values(),)
    program = trace(descriptor, example)
    assert {*program.state_dict, *program.constants} == reached(descriptor, {"images": example[0]})
    runtime = onnxruntime.InferenceSession(to_onnx(program, descriptor, example, ["images"]))
    for number, frames in ((1, 1), (1, 6), (3, 2)):
        given = inputs_of(name, number, frames)
        with torch.no_grad():
            torch.testing.assert_close(run(runtime, given), descriptor(*given.values()), atol=1e-4, rtol=0)


def test_a_graph_that_gives_other_features_is_refused() -> None:
    right, wrong = (Descriptor(build("baseline", torch.float32), MEAN, STD, flip=flip).eval() for flip in (True, False))
    example = (*inputs_of("baseline", 2).values(),)
    with pytest.raises(ExportError, match="the ONNX graph and the network differ by"):
        to_onnx(trace(wrong, example), right, example, ["images"])
