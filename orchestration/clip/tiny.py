"""Trains a tiny CLIP on a data set with captions, in two steps that minutes of CPU are enough for.

1. The image tower learns the words of the captions as labels: half of the images whole, with the words of person and outfit,
   a quarter with the clothes painted white and the person's words, a quarter the clothes alone and the outfit's words.
2. Text tower and projection learn to bring images and sentences together, on features of the first step, kept once.

Contrastive training of a transformer from nothing does not leave chance in this time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.format.index import SplitIndex
from datasets.images.augment import Augmentation, preprocess
from datasets.images.label_maps import LABEL_MAPS
from datasets.shards.dataset import Dataset
from datasets.streaming.stream import Stream
from methods.backbones.clip.prompts import VOCABULARY
from methods.backbones.clip.sizes import TINY
from methods.backbones.clip.text_tower import TextTower
from methods.backbones.clip_cnn import CLIPCNN
from methods.masking import masked_out, normalised_white
from orchestration.clip.recall import distinct, recall
from orchestration.clip.words import Words, as_prompt
from orchestration.errors import RequestError

WORD_STEPS, PAIR_STEPS, BATCH = 600, 800, 64
LEARNING_RATE = 2e-3
MOST_SCALE = 100.0
CANDIDATES = 100  # sentences and images that recall is measured among
MOST_IMAGES = 50_000  # they are held in memory
VIEWS = ("whole", "shielded", "clothes")
PAIRS = (("whole", "person"), ("whole", "outfit"), ("shielded", "person"), ("clothes", "outfit"))
SIZE = (96, 48)

Advance = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Captioned:
    """The images of a split with their captions. images: uint8 [N, 3, h, w]. clothing: bool [N, h, w]. person, outfit: the
    sentences about each image."""

    images: Tensor
    clothing: Tensor
    person: list[str]
    outfit: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def sentences(self, kind: str) -> list[str]:
        return self.person if kind == "person" else self.outfit


@dataclass(frozen=True)
class TinyCLIP:
    """The towers, and the words that the text tower knows."""

    image: CLIPCNN
    text: TextTower
    words: Words

    def state(self) -> dict[str, Tensor]:
        """What `weights` takes: the image tower, the text tower, and of its tokens those of the prompts."""
        text = self.text.state_dict()
        rows = [self.text.row_of[token] for token in VOCABULARY]
        return self.image.tower_state() | text | {"token_embedding.weight": text["token_embedding.weight"][rows]}


def train_tiny(dataset: Dataset, seed: int, advance: Advance) -> tuple[TinyCLIP, dict[str, float]]:
    """Towers trained on the split `train`, and the recall of sentences about people of the test splits.

    Raises: RequestError where the data set has no captions, no masks or no test splits.
    """
    captions = check(dataset)
    train = read(dataset, ("train",), captions, advance)
    test = read(dataset, test_splits(dataset), captions, advance)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = Words.of([*train.person, *train.outfit, *test.person, *test.outfit])
        model = TinyCLIP(CLIPCNN(), TextTower(TINY, words.vocabulary), words)
        generator = torch.Generator().manual_seed(seed)
        learn_words(model, train, generator, advance)
        learn_pairs(model, train, generator, advance)
        return model, recalls(model, test, generator)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads, and products as small as these gain nothing from several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(dataset: Dataset) -> dict[str, dict]:
    manifest = dataset.manifest
    if not manifest.captions or not manifest.captions.get("persons"):
        raise RequestError(
            f"data set {dataset.address} has no captions, from which the text tower learns. Render one: "
            "`redress data synth OUT --preset clip`"
        )
    if manifest.label_map is None or not dataset.index("train").has_parsing:
        raise RequestError(f"data set {dataset.address} has no parsing masks, which tell clothes from the rest")
    rows = sum(split.rows for split in manifest.splits.values())
    if rows > MOST_IMAGES:
        raise RequestError(f"data set {dataset.address} has {rows:,} images; a tiny CLIP takes at most {MOST_IMAGES:,}")
    return manifest.captions


def test_splits(dataset: Dataset) -> tuple[str, ...]:
    found = tuple(split for split in dataset.manifest.splits if split.startswith(("query", "gallery")))
    if not found:
        raise RequestError(
            f"data set {dataset.address} has no query and gallery, whose people the recall is measured on"
        )
    return found


def read(dataset: Dataset, splits: tuple[str, ...], captions: dict[str, dict], advance: Advance) -> Captioned:
    label_map = dataset.manifest.label_map
    assert label_map is not None
    is_clothing = torch.tensor(LABEL_MAPS[label_map].clothing)
    images, clothing = [], []
    person: list[str] = []
    outfit: list[str] = []
    total = sum(dataset.manifest.splits[split].rows for split in splits)
    for split in splits:
        index = dataset.index(split)
        stream = Stream(dataset, split, parsing=True, size=SIZE, threads=2, cache_bytes=1 << 20, index=index)
        for host in stream.survey(256):
            assert host.parsing is not None
            images.append(host.images)
            clothing.append(is_clothing[host.parsing.long()])
            advance("reading", sum(map(len, images)), total)
        stream.close()
        person += [captions["persons"][name] for name in names(index)]
        outfit += [captions["clothes"][who][worn] for who, worn in outfits(index)]
    return Captioned(torch.cat(images), torch.cat(clothing), person, outfit)


def names(index: SplitIndex) -> list[str]:
    return [index.person_names[number] for number in index.person.tolist()]


def outfits(index: SplitIndex) -> list[tuple[str, str]]:
    return [index.clothes_names[number] for number in index.clothes.tolist()]


def shown(data: Captioned, rows: Tensor, view: str) -> Tensor:
    """Normalised images [n, 3, h, w] of some rows: whole, without clothes, or the clothes alone."""
    augmentation = Augmentation(*data.images.shape[2:])
    images = preprocess(data.images[rows], augmentation)
    if view == "whole":
        return images
    clothing = data.clothing[rows]
    white = normalised_white(augmentation.mean, augmentation.std)
    return masked_out(images, clothing if view == "shielded" else ~clothing, "white", white)


def learn_words(model: TinyCLIP, data: Captioned, generator: torch.Generator, advance: Advance) -> None:
    """The first step: the convolutions learn which words are said about what is shown."""
    of_kind = {kind: multi_hot(model.words, data.sentences(kind)) for kind in ("person", "outfit")}
    both = of_kind["person"] | of_kind["outfit"]
    targets = {"whole": both, "shielded": of_kind["person"], "clothes": of_kind["outfit"]}
    head = nn.Linear(model.image.stripes, model.words.num_labels)
    optimizer = torch.optim.Adam(
        [*model.image.convolutions.parameters(), *head.parameters()], lr=LEARNING_RATE, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, WORD_STEPS)
    for step in range(WORD_STEPS):
        rows = torch.randint(len(data), (BATCH,), generator=generator)
        half, quarter = BATCH // 2, BATCH // 4
        parts = zip(VIEWS, rows.split([half, quarter, quarter]), strict=True)
        chosen = [(shown(data, part, view), targets[view][part]) for view, part in parts]
        images = torch.cat([images for images, _ in chosen])
        images = torch.where(
            (torch.rand(BATCH, generator=generator) < 0.5)[:, None, None, None], images.flip(3), images
        )
        logits = head(model.image.striped(model.image.maps(images)))
        loss = F.binary_cross_entropy_with_logits(logits, torch.cat([target for _, target in chosen]).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        advance("words", step + 1, WORD_STEPS)


def multi_hot(words: Words, sentences: list[str]) -> Tensor:
    """bool [N, labels]: which words each sentence has."""
    found = torch.zeros(len(sentences), words.num_labels, dtype=torch.bool)
    labels = {sentence: words.labels(sentence) for sentence in set(sentences)}
    for row, sentence in enumerate(sentences):
        found[row, labels[sentence]] = True
    return found


def learn_pairs(model: TinyCLIP, data: Captioned, generator: torch.Generator, advance: Advance) -> None:
    """The second step: text tower and projection, contrastively, on features that are kept."""
    kept = {view: striped(model, data, view) for view in VIEWS}
    parameters = [*model.text.parameters(), *model.image.projection.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE / 2, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PAIR_STEPS)
    for step in range(PAIR_STEPS):
        view, kind = PAIRS[step % len(PAIRS)]
        rows = torch.randint(len(data), (BATCH,), generator=generator)
        sentences = [data.sentences(kind)[row] for row in rows.tolist()]
        is_prompt = bool(torch.rand((), generator=generator) < 0.5)
        texts = sorted(set(sentences))
        column = {text: number for number, text in enumerate(texts)}
        own = torch.tensor([column[text] for text in sentences])
        features = model.image.projection(kept[view][rows])
        loss = contrast(features, encoded(model, texts, kind, is_prompt), own, model.text.scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.text.logit_scale.clamp_(max=torch.tensor(MOST_SCALE).log())
        advance("pairs", step + 1, PAIR_STEPS)


def contrast(images: Tensor, texts: Tensor, own: Tensor, scale: Tensor) -> Tensor:
    """Images [B, D] against the distinct texts [T, D], and texts against images: each with all of its own. own: int64 [B]."""
    logits = scale * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    of_image = F.cross_entropy(logits, own)
    is_own = F.one_hot(own, len(texts)).T.to(logits.dtype)
    of_text = -(is_own / is_own.sum(1, keepdim=True) * logits.T.log_softmax(1)).sum(1).mean()
    return (of_image + of_text) / 2


def encoded(model: TinyCLIP, sentences: list[str], kind: str, is_prompt: bool = False) -> Tensor:
    """Features [N, dim] of sentences, as they are or in the form of a prompt."""
    noun = "person" if kind == "person" else "clothes"
    texts = [model.words.encode(as_prompt(text, noun) if is_prompt else text) for text in sentences]
    longest = max(map(len, texts))
    filled = [text + text[-1:] * (longest - len(text)) for text in texts]
    embedded = model.text.embed([token for text in filled for token in text]).unflatten(0, (len(texts), longest))
    return model.text(embedded, torch.tensor([len(text) - 1 for text in texts]))


@torch.no_grad()
def striped(model: TinyCLIP, data: Captioned, view: str) -> Tensor:
    """What the projection sees of every image: [N, stripes]."""
    model.image.eval()
    found = torch.cat([model.image.striped(model.image.maps(shown(data, rows, view))) for rows in in_parts(len(data))])
    model.image.train()
    return found


def in_parts(number: int) -> Iterator[Tensor]:
    yield from torch.arange(number).split(256)


@torch.no_grad()
def recalls(model: TinyCLIP, data: Captioned, generator: torch.Generator) -> dict[str, float]:
    """Recall of sentences among images of as many people, or outfits, in each pair of view and kind."""
    model.image.eval()
    found: dict[str, float] = {}
    for view, kind in PAIRS:
        sentences = data.sentences(kind)
        rows = distinct(sentences, CANDIDATES, generator)
        images = model.image.projection(model.image.striped(model.image.maps(shown(data, torch.tensor(rows), view))))
        values = recall(images, encoded(model, [sentences[row] for row in rows], kind))
        found |= {f"{kind}/{view}/recall@{k}": value for k, value in values.items()}
        found[f"{kind}/candidates"] = len(rows)
    return found
