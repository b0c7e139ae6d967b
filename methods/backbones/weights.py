"""Loading pre-trained weights, with errors that name what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from methods.method import MethodError

REMEDY = "Give weights of the same architecture and width, as torchvision names them"


def load_weights(
    network: nn.Module, state: Mapping[str, Any], *, ignore: tuple[str, ...] = ("fc.",), remedy: str = REMEDY
) -> None:
    """Copy `state` into `network`, which changes only if everything fits.

    Keys that begin with one of `ignore` (the classifier) are skipped. A missing count of batches, as in old files, stays
    at 0. remedy: which weights would fit, for the message.

    Raises: MethodError listing the keys that are missing, unknown, or of another shape.
    """
    own = network.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(ignore)}
    problems = [
        *named("missing", (k for k in own if k not in given and not k.endswith("num_batches_tracked"))),
        *named("unknown", (k for k in given if k not in own)),
        *named(
            "of another shape",
            (f"{k} {shape(given[k])} for {shape(v)}" for k, v in own.items() if shape(given.get(k, v)) != shape(v)),
        ),
    ]
    if problems:
        raise MethodError(f"these weights do not fit the backbone ({'; '.join(problems)}). {remedy}, or train without")
    network.load_state_dict({key: given.get(key, value) for key, value in own.items()})


def named(what: str, keys: Iterable[str], shown: int = 3) -> list[str]:
    found = list(keys)
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return [f"{len(found)} {what}: {', '.join(found[:shown])}{more}"] if found else []


def shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
