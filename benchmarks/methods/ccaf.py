"""What a step of CCAF's first stage saves by its table of features, and by texts that end where the prompts do.

    python -m benchmarks.methods.ccaf [--json]

CPU time on one thread, ratios within one run: a step as it is; the same step with its images encoded anew, without clothes and
the clothes alone; with texts of all 77 positions, as published codes compute them; and with both. The towers are the small
CLIP (64 samples of 96×48) and CLIP's ViT-B/16 (8 samples of 256×128), every sample a person and an outfit of its own.
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import Targets, options, run
from methods.backbones.clip.sizes import CONTEXT
from methods.backbones.clip.text_tower import TextTower
from methods.ccaf import CCAF, CCAFSettings
from methods.method import Batch, DataFacts

TOWERS: dict[str, tuple[dict[str, Any], int, tuple[int, int], int]] = {  # settings, samples, their size, rounds
    "small CLIP": ({"body": "clip-cnn"}, 64, (96, 48), 9),
    "ViT-B/16": ({"image_alignment": False}, 8, (256, 128), 3),
}
TARGETS: Targets = {}


def method_and_batch(settings: dict[str, Any], samples: int, size: tuple[int, int]) -> tuple[CCAF, Batch]:
    torch.manual_seed(0)
    method = CCAF(CCAFSettings(**settings), DataFacts(samples, torch.arange(samples), clothing_labels=(5, 9)))
    each, parsing = torch.arange(samples), torch.randint(0, 12, (samples, *size), dtype=torch.uint8)
    batch = Batch(torch.randn(samples, 3, *size), each, each, parsing, rows=each)
    method.begin_epoch(0)
    method.eval().begin_stage(method.stage, [batch])
    return method.train(), batch


def seconds_of_step(method: CCAF, batch: Batch, *, encodes: bool) -> float:
    """CPU seconds of a forward and backward pass of the first stage."""
    began = time.process_time()
    if encodes:
        method.eval().begin_stage(method.stage, [batch])
        method.train()
    for update in method.updates(batch):
        update.loss.backward()
    return time.process_time() - began


@contextmanager
def whole_context(text: TextTower) -> Iterator[None]:
    """Within this context, texts are filled up to all positions and read where they end."""
    trimmed = text.forward

    def filled(embedded: Tensor, ends: Tensor | None = None) -> Tensor:
        length = embedded.shape[1]
        at = torch.full((len(embedded),), length - 1) if ends is None else ends
        return trimmed(F.pad(embedded, (0, 0, 0, CONTEXT - length)), at)

    text.forward = filled  # type: ignore[method-assign]
    try:
        yield
    finally:
        text.forward = trimmed  # type: ignore[method-assign]


def measure(args: Namespace) -> dict[str, float]:
    results: dict[str, float] = {}
    for name, (settings, samples, size, rounds) in TOWERS.items():
        plain, encoding, long_texts, both = medians(*method_and_batch(settings, samples, size), rounds)
        results |= {
            f"{name}: a step from the table, ms": 1000 * plain,
            f"{name}: images encoded anew, against it": encoding / plain,
            f"{name}: texts of {CONTEXT} positions, against it": long_texts / plain,
            f"{name}: both, against it": both / plain,
            f"{name}: images encoded anew, both with {CONTEXT} positions": both / long_texts,
        }
    return results


def medians(method: CCAF, batch: Batch, rounds: int) -> list[float]:
    """Of a step as it is, with images encoded anew, with texts of all positions, with both: they take turns."""
    kinds = [(context, encodes) for context in (nullcontext, whole_context) for encodes in (False, True)]
    turns: list[list[float]] = [[] for _ in kinds]
    for _ in range(rounds):
        for (context, encodes), seconds in zip(kinds, turns, strict=True):
            with context(method.text):
                seconds.append(seconds_of_step(method, batch, encodes=encodes))
    return [statistics.median(seconds) for seconds in turns]


def main() -> None:
    run(options(__doc__), TARGETS, measure)


if __name__ == "__main__":
    main()
