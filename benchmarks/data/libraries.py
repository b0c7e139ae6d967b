"""The libraries that `rivals` compares: how each writes the same samples and reads them as batches.

Every one gets what makes it fast: decoding in the workers, without the Python layer of torchvision's operators, images
collated in the decoder's memory order, straight into shared memory.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.io  # noqa: F401  (brings torch.ops.image)
from PIL import Image
from torch import Tensor

NUM, FILES, BATCH, SIZE = 8_000, 64, 64, (256, 128)

# images uint8 [b, h, w, 3], person int64 [b] and, where asked for, parsing uint8 [b, h, w]
Batches = Iterable[Sequence[Tensor]]


@dataclass(frozen=True)
class Way:
    """One way to read a data set. workers: threads of ours, worker processes of the others."""

    library: str
    workers: int
    decoder: str = "torchvision"
    masks: bool = False

    def __str__(self) -> str:
        unit = "thread" if self.library == "ours" else "worker"
        return f"{self.workers} {unit}{'s' * (self.workers != 1)}, {self.decoder}"

    def place(self, folder: str) -> str:
        return f"{folder}/{self.library}{'-masks' * self.masks}"


def samples(folder: str, masks: bool) -> Iterator[tuple[str, int, bytes, bytes | None]]:
    """Key, person (25 images each), image and mask; the same for every library."""
    files = [(Path(folder, f"{n}.jpg").read_bytes(), Path(folder, f"{n}.png").read_bytes()) for n in range(FILES)]
    for number in range(NUM):
        image, mask = files[number % FILES]
        yield f"{number:06d}", number // 25, image, mask if masks else None


def write_ours(way: Way, folder: str) -> None:
    from benchmarks.data.stream import GROUP
    from datasets.format.schema import Sample
    from datasets.shards.dataset import write_dataset

    stored = (
        Sample(image, mask, f"{person:06d}", "0", "A", None, None, f"{key}.jpg")
        for key, person, image, mask in samples(folder, way.masks)
    )
    write_dataset(
        way.place(folder),
        {"train": stored},
        name="bench",
        version="1",
        licence="drawn",
        label_map="lip20" if way.masks else None,
        protocol="general",
        row_group_bytes=GROUP,
    )


def read_ours(way: Way, folder: str) -> Batches:
    from benchmarks.data.stream import CACHE, plan
    from datasets.shards.dataset import Dataset
    from datasets.streaming.stream import Stream

    dataset = Dataset.open(way.place(folder))
    stream = Stream(dataset, "train", parsing=way.masks, size=SIZE, threads=way.workers, cache_bytes=CACHE)
    for batch in stream.epoch(plan(dataset)):
        yield batch.images.permute(0, 2, 3, 1), batch.person, *([] if batch.parsing is None else [batch.parsing])


def write_streaming(way: Way, folder: str) -> None:
    from streaming import MDSWriter

    columns = {"image": "bytes", "person": "int"} | ({"parsing": "bytes"} if way.masks else {})
    with MDSWriter(out=way.place(folder), columns=columns) as out:
        for _, person, image, mask in samples(folder, way.masks):
            out.write({"image": image, "person": person} | ({"parsing": mask} if way.masks else {}))


def read_streaming(way: Way, folder: str) -> Batches:
    from streaming import StreamingDataLoader, StreamingDataset

    class Decoded(StreamingDataset):
        def __getitem__(self, at: int) -> Any:
            row = super().__getitem__(at)
            return decoded(way, row["image"], row.get("parsing"), row["person"])

    dataset = Decoded(local=way.place(folder), shuffle=False, batch_size=BATCH)
    return StreamingDataLoader(dataset, batch_size=BATCH, **workers(way))


def write_webdataset(way: Way, folder: str) -> None:
    from webdataset import ShardWriter

    os.makedirs(way.place(folder))
    with ShardWriter(f"{way.place(folder)}/%04d.tar", maxcount=-(-NUM // 12), verbose=0) as out:  # for 1, 2, 3 workers
        for key, person, image, mask in samples(folder, way.masks):
            out.write({"__key__": key, "jpg": image, "cls": person} | ({"png": mask} if way.masks else {}))


def read_webdataset(way: Way, folder: str) -> Batches:
    from webdataset import WebDataset, WebLoader

    shards = sorted(map(str, Path(way.place(folder)).glob("*.tar")))
    dataset = WebDataset(shards, shardshuffle=False)
    dataset = dataset.map(lambda row: decoded(way, row["jpg"], row.get("png"), int(row["cls"])))
    dataset = dataset.batched(BATCH, collation_fn=torch.utils.data.default_collate)  # straight into shared memory
    return WebLoader(dataset, batch_size=None, **workers(way))


def decoded(way: Way, image: bytes, mask: bytes | None, person: int) -> tuple[Any, ...]:
    """A sample as theirs deliver it: uint8 [h, w, 3], the person, uint8 [h, w] where masks are asked for."""
    if way.decoder == "torchvision":
        pixels = torch.ops.image.decode_jpeg(encoded(image), 3).permute(1, 2, 0)
        return (pixels, person) if mask is None else (pixels, person, torch.ops.image.decode_png(encoded(mask), 0)[0])
    files = (image,) if mask is None else (image, mask)
    pixels, *masks = (torch.from_numpy(np.array(Image.open(io.BytesIO(file)))) for file in files)
    return (pixels, person, *masks)


def encoded(file: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(file, np.uint8).copy())


def workers(way: Way) -> dict[str, Any]:
    return {"num_workers": way.workers, "persistent_workers": way.workers > 0}


LIBRARIES: dict[str, tuple[Callable[[Way, str], None], Callable[[Way, str], Batches]]] = {
    "ours": (write_ours, read_ours),
    "MosaicML Streaming": (write_streaming, read_streaming),
    "WebDataset": (write_webdataset, read_webdataset),
}
MODULES = {"ours": "benchmarks.data.stream", "MosaicML Streaming": "streaming", "WebDataset": "webdataset"}
