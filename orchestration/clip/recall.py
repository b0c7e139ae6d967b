"""How well sentences find the images of those whom they describe."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

AT = (1, 5, 10)


def recall(images: Tensor, texts: Tensor) -> dict[int, float]:
    """The share of texts whose own image is among the k most similar ones, by k of `AT`.

    images, texts: float [N, D]; text i is of image i.
    """
    similar = F.normalize(texts, dim=1) @ F.normalize(images, dim=1).T
    own = similar.diagonal()[:, None]
    better = (similar > own).sum(1)
    return {k: float((better < k).double().mean()) for k in AT}


def distinct(sentences: list[str], at_most: int, generator: torch.Generator) -> list[int]:
    """Places of at most so many sentences, no two alike, in random order."""
    order = torch.randperm(len(sentences), generator=generator).tolist()
    first = {sentences[place]: place for place in reversed(order)}
    return [place for place in order if first[sentences[place]] == place][:at_most]
