"""A tiny CLIP in a moment: its losses, its file, what it refuses. How well it learns is measured in `benchmarks/`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from datasets.shards.dataset import Dataset
from datasets.synthetic.dataset import render_dataset
from methods.backbones.clip.image_tower import ImageTower
from methods.backbones.clip.prompts import VOCABULARY
from methods.backbones.clip.sizes import TINY, TOWERS
from methods.backbones.clip.state import load_image_tower, load_text_tower
from methods.backbones.clip.text_tower import TextTower
from methods.backbones.clip_cnn import CLIPCNN
from methods.method import MethodError
from orchestration.clip import tiny
from orchestration.errors import RequestError
from tests.tiny import tiny_dataset


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> str:
    address = str(tmp_path_factory.mktemp("data") / "people")
    render_dataset(address, preset="tiny", seed=3, workers=1)
    return address


def trained(address: str, monkeypatch: pytest.MonkeyPatch, seed: int = 1) -> tuple[tiny.TinyCLIP, dict[str, float]]:
    monkeypatch.setattr(tiny, "WORD_STEPS", 3)
    monkeypatch.setattr(tiny, "PAIR_STEPS", 5)
    return tiny.train_tiny(Dataset.open(address), seed, lambda what, done, total: None)


def test_its_file_is_what_weights_take(rendered: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, recalls = trained(rendered, monkeypatch)
    safetensors.torch.save_file(model.state(), tmp_path / "tiny.safetensors")
    state = safetensors.torch.load_file(tmp_path / "tiny.safetensors")
    body, text = CLIPCNN(), TextTower(TINY, VOCABULARY)
    body.load(state)
    load_text_tower(text, state)
    images = torch.randn(2, 3, 96, 48)
    model.image.eval(), body.eval()
    assert torch.equal(body.embeddings(images).before_neck, model.image.embeddings(images).before_neck)
    prompt = VOCABULARY[1:3]
    assert torch.equal(text(text.embed(prompt)[None]), model.text(model.text.embed(prompt)[None]))
    assert state["token_embedding.weight"].shape == (len(VOCABULARY), TINY.text.width)
    assert set(recalls) >= {"person/shielded/recall@10", "outfit/whole/recall@1"}
    assert all(0 <= value <= 1 for name, value in recalls.items() if "recall" in name)


def test_the_same_seed_gives_the_same_towers(rendered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, other = (trained(rendered, monkeypatch, seed)[0].state() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_views_show_what_they_say(rendered: str) -> None:
    dataset = Dataset.open(rendered)
    data = tiny.read(dataset, ("query",), tiny.check(dataset), lambda what, done, total: None)
    rows = torch.arange(3)
    whole, shielded, clothes = (tiny.shown(data, rows, view) for view in tiny.VIEWS)
    clothing = data.clothing[rows][:, None].expand_as(whole)
    assert torch.equal(shielded[~clothing], whole[~clothing])
    assert torch.equal(clothes[clothing], whole[clothing])
    white = torch.tensor([(1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)])
    assert torch.allclose(shielded.permute(0, 2, 3, 1)[data.clothing[rows]], white)
    assert torch.allclose(clothes.permute(0, 2, 3, 1)[~data.clothing[rows]], white)


def test_the_contrast_is_that_of_clip_where_no_sentence_is_said_twice() -> None:
    torch.manual_seed(0)
    images, texts = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    own = torch.tensor([3, 0, 5, 1, 2, 4])
    unit = [x / x.square().sum(1, keepdim=True).sqrt() for x in (images, texts[own])]
    logits = 7 * unit[0] @ unit[1].T
    expected = -(logits.softmax(1).diagonal().log().mean() + logits.softmax(0).diagonal().log().mean()) / 2
    torch.testing.assert_close(tiny.contrast(images, texts, own, torch.tensor(7.0)), expected)


def test_all_images_of_a_sentence_are_its_own() -> None:
    images = torch.eye(3, dtype=torch.float64)
    texts = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    own = torch.tensor([0, 0, 1])
    near = tiny.contrast(images, texts, own, torch.tensor(50.0))
    assert near == pytest.approx(0.5 * 0.5 * torch.log(torch.tensor(2.0)).item(), abs=1e-6)  # two images share a text


def test_data_without_captions_or_masks_are_refused(rendered: str, tmp_path: Path) -> None:
    without = tiny_dataset(tmp_path / "drawn", persons=3)
    with pytest.raises(RequestError, match=r"no captions.*redress data synth OUT --preset clip"):
        tiny.check(Dataset.open(without))
    dataset = Dataset.open(rendered)
    dataset.manifest = replace(dataset.manifest, label_map=None)
    with pytest.raises(RequestError, match="no parsing masks"):
        tiny.check(dataset)


def test_its_weights_in_another_body_are_refused_with_the_body_that_takes_them() -> None:
    with pytest.raises(MethodError, match=r"redress clip train-tiny.*method.body=clip-cnn"):
        load_image_tower(ImageTower(TOWERS["vit-b16"].scaled(1 / 16)), CLIPCNN().tower_state())
    with pytest.raises(MethodError, match="not of the small image tower"):
        CLIPCNN().load({"visual.class_embedding": torch.zeros(1)})
