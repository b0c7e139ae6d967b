"""SCHP's network (Li et al., Self-Correction for Human Parsing, TPAMI 2020), for its published checkpoints.

It is CE2P (Ruan et al., AAAI 2019): a ResNet-101 of stride 16 with a stem of three convolutions; pyramid pooling; a
decoder that joins it with the first stage's maps; an edge branch; and a fusion of both, whose logits are the parsing.
For inference only. All names are the checkpoints', "fushion" included, so that their 603 entries load unchanged.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.errors import DataError

EPSILON = 1e-5
SLOPE = 0.01
EXPANSION = 4


class ScaledNorm(nn.Module):
    r"""Batch norm with stored statistics, as in-place ABN defines it: the scale is \|weight\| + ε, whatever its sign.

    slope: of the leaky ReLU that follows; 1 for none.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, slope: float = SLOPE) -> None:
        super().__init__()
        self.slope = slope
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, maps: Tensor) -> Tensor:
        scale = self.weight.abs() + EPSILON
        maps = F.batch_norm(maps, self.running_mean, self.running_var, scale, self.bias, eps=EPSILON)
        return maps if self.slope == 1 else F.leaky_relu(maps, self.slope, inplace=True)


def conv(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, dilation * (size // 2), dilation, bias=False)


def conv_norm(inputs: int, outputs: int, size: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, size), ScaledNorm(outputs))


def resize(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[2:], mode="bilinear", align_corners=True)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = planes * EXPANSION
        self.conv1, self.bn1 = conv(inputs, planes, 1), ScaledNorm(planes, slope=1)
        self.conv2, self.bn2 = conv(planes, planes, 3, stride, dilation), ScaledNorm(planes, slope=1)
        self.conv3, self.bn3 = conv(planes, outputs, 1), ScaledNorm(outputs, slope=1)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), ScaledNorm(outputs, slope=1))

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(maps)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (maps if self.downsample is None else self.downsample(maps)))


def stage(inputs: int, planes: int, depth: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    first = Bottleneck(inputs, planes, stride, dilation)
    return nn.Sequential(first, *(Bottleneck(planes * EXPANSION, planes, 1, dilation) for _ in range(1, depth)))


class PyramidPooling(nn.Module):
    """[B, 2048, h, w] → [B, 512, h, w]: means over 1, 2², 3² and 6² fields, beside the maps themselves (PSPNet, Eq. 1)."""

    def __init__(self, inputs: int = 2048, outputs: int = 512, fields: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(n), *conv_norm(inputs, outputs, 1)) for n in fields
        )
        self.bottleneck = conv_norm(inputs + len(fields) * outputs, outputs, 3)

    def forward(self, maps: Tensor) -> Tensor:
        context = [resize(stage(maps), maps) for stage in self.stages]
        return self.bottleneck(torch.cat([*context, maps], 1))


class EdgeBranch(nn.Module):
    """Maps of three stages → their concatenated edge features, [B, 768, h, w] in the first stage's size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (conv_norm(inputs, 256, 1) for inputs in (256, 512, 1024))
        self.conv4 = nn.Conv2d(256, 2, 3, padding=1)  # conv4 and conv5 predict the edges, which only training needs
        self.conv5 = nn.Conv2d(6, 2, 1)

    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        features = self.conv1(first), self.conv2(second), self.conv3(third)
        return torch.cat([resize(maps, first) for maps in features], 1)


class Decoder(nn.Module):
    """Context [B, 512, h/4, w/4] and the first stage's maps [B, 256, h, w] → parsing features [B, 256, h, w]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(512, 256, 1)
        self.conv2 = conv_norm(256, 48, 1)
        self.conv3 = nn.Sequential(*conv_norm(304, 256, 1), *conv_norm(256, 256, 1))
        self.conv4 = nn.Conv2d(256, num_classes, 1)  # the parsing before fusion, which only training needs

    def forward(self, context: Tensor, fine: Tensor) -> Tensor:
        return self.conv3(torch.cat([resize(self.conv1(context), fine), self.conv2(fine)], 1))


class SCHP(nn.Module):
    """images [B, 3, H, W], normalised BGR → logits [B, num_classes, H/4, W/4], sizes rounded up."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1, self.bn1 = conv(3, 64, 3, stride=2), ScaledNorm(64, slope=1)
        self.conv2, self.bn2 = conv(64, 64, 3), ScaledNorm(64, slope=1)
        self.conv3, self.bn3 = conv(64, 128, 3), ScaledNorm(128, slope=1)
        self.layer1 = stage(128, 64, 3)
        self.layer2 = stage(256, 128, 4, stride=2)
        self.layer3 = stage(512, 256, 23, stride=2)
        self.layer4 = stage(1024, 512, 3, dilation=2)
        self.context_encoding = PyramidPooling()
        self.edge = EdgeBranch()
        self.decoder = Decoder(num_classes)
        self.fushion = nn.Sequential(*conv_norm(1024, 256, 1), nn.Dropout2d(0.1), nn.Conv2d(256, num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = F.relu(self.bn2(self.conv2(maps)))
        maps = F.relu(self.bn3(self.conv3(maps)))
        first = self.layer1(F.max_pool2d(maps, 3, stride=2, padding=1))
        second = self.layer2(first)
        third = self.layer3(second)
        context = self.context_encoding(self.layer4(third))
        return self.fushion(torch.cat([self.decoder(context, first), self.edge(first, second, third)], 1))


CLASSIFIER = "fushion.3.weight"


def load_schp(state: Mapping[str, Tensor]) -> SCHP:
    """The network of a published checkpoint, in evaluation mode; it uses the state's tensors without copying them.

    state: names without the prefix "module."; it determines the number of classes.
    Raises: DataError naming the entries that are missing, unknown or of another shape.
    """
    if CLASSIFIER not in state:
        some = ", ".join(list(state)[:4]) or "nothing"
        raise DataError(
            f"this is no checkpoint of SCHP: it has no entry {CLASSIFIER}, but {some}{' …' * (len(state) > 4)}"
        )
    num_classes = (*state[CLASSIFIER].shape, 1)[0]
    with torch.device("meta"):
        network = SCHP(num_classes)
    expected = {name: tuple(entry.shape) for name, entry in network.state_dict().items()}
    found = {name: tuple(entry.shape) for name, entry in state.items()}
    shapes = [
        f"{n} {list(found[n])}, expected {list(expected[n])}"
        for n in expected
        if found.get(n, expected[n]) != expected[n]
    ]
    wrong = {
        "missing": [*expected.keys() - found.keys()],
        "unknown": [*found.keys() - expected.keys()],
        "misshapen": shapes,
    }
    if problems := [f"{len(names)} {kind} ({_some(names)})" for kind, names in wrong.items() if names]:
        raise DataError(f"this is no checkpoint of SCHP with its {len(expected)} entries: {'; '.join(problems)}")
    network.load_state_dict({name: entry.float() for name, entry in state.items()}, assign=True)
    return network.eval().requires_grad_(False)


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:4]) + " …" * (len(names) > 4)
