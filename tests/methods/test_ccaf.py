"""CCAF as a method: both stages against the paper's sums, what is frozen, what is encoded how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.backbones.body import Body
from methods.backbones.clip.image_tower import ImageTower
from methods.backbones.clip.prompts import VOCABULARY
from methods.backbones.clip.sizes import TOWERS
from methods.backbones.clip.text_tower import TextTower
from methods.backbones.clip_vit import CLIPViT
from methods.ccaf import CCAF, CCAFSettings
from methods.masking import WHITE
from methods.method import Batch, MethodError
from tests.methods.variants import CLIP_REID, NUM_CLOTHES, NUM_PERSONS, PROMPTED, batch, begin, facts, of_rows

CLOTHING = torch.tensor([5, 9], dtype=torch.uint8)  # of the facts in `variants`
PROMPTS, TUNING = 0, 2  # epochs in which the two stages begin


def ccaf(**settings: Any) -> CCAF:
    torch.manual_seed(1)
    return CCAF(CCAFSettings(**PROMPTED | {"mask_margin": 0} | settings), facts()).double()


def begun(epoch: int, **settings: Any) -> CCAF:
    method = ccaf(**settings)
    begin(method, epoch)
    return method


def tower(body: Body) -> ImageTower:
    assert isinstance(body, CLIPViT)
    return body.tower


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([torch.stack([x @ y / x.norm() / y.norm() for y in b]) for x in a])


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    target = torch.full_like(log_p, smoothing / log_p.shape[1])
    target[torch.arange(len(labels)), labels] += 1 - smoothing
    return -(target * log_p).sum(1).mean()


def hard_triplet(features: Tensor, labels: Tensor, margin: float) -> Tensor:
    terms = []
    for i, own in enumerate(labels):
        distances = [(f - features[i]).norm() if j != i else f.sum() * 0 for j, f in enumerate(features)]
        positive = max(d for d, label in zip(distances, labels, strict=True) if label == own)
        negative = min(d for d, label in zip(distances, labels, strict=True) if label != own)
        terms.append((margin + positive - negative).clamp(min=0))
    return torch.stack(terms).mean()


def normalised(features: Tensor) -> Tensor:
    """Batch norm in training, as it starts."""
    return (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-5).sqrt()


def painted(whole: Batch, is_hidden: Tensor) -> Tensor:
    return torch.where(is_hidden[:, None], torch.tensor(WHITE, dtype=torch.float64)[:, None, None], whole.images)


# The first stage


@pytest.mark.parametrize("shown", ["shielding", "raw"])
def test_prompts_learn_from_images_without_clothes_or_as_they_are_and_from_clothes_alone(shown: str) -> None:
    method, whole = begun(PROMPTS, shown_to_prompts=shown), batch()
    assert whole.parsing is not None
    is_clothing = torch.isin(whole.parsing, CLOTHING)
    given = {"persons": painted(whole, is_clothing) if shown == "shielding" else whole.images}  # Eq. 4
    given["outfits"] = painted(whole, ~is_clothing)  # Eq. 11
    assert list(method.tables) == list(given)
    for name, images in given.items():
        torch.testing.assert_close(method.tables[name], tower(method.encoder)(images).projected[:, 0])


def test_the_margin_belongs_to_neither_view_and_neither_shows_the_others_side_of_it() -> None:
    """Painted over where clothes are hidden, and not shown where nothing but clothes is."""
    whole = batch()
    assert whole.parsing is not None
    parsing = torch.zeros_like(whole.parsing)
    parsing[:, 8:24, 4:12] = CLOTHING[0]
    method = ccaf(mask_margin=2)
    shown = method.shown(Batch(whole.images, whole.person, whole.clothes, parsing, rows=whole.rows))
    inside, around = torch.zeros(32, 16, dtype=torch.bool), torch.zeros(32, 16, dtype=torch.bool)
    inside[8:24, 4:12], around[6:26, 2:14] = True, True
    is_kept = {name: (images == whole.images).all(0).all(0) for name, images in shown.items()}
    assert torch.equal(is_kept["outfits"], inside)
    assert torch.equal(is_kept["persons"], ~around)


@pytest.mark.parametrize(
    ("settings", "scale"), [({}, 1 / 0.07), ({"similarity_scale": 3.0}, 3.0), ({"similarity": "dot"}, 0.0)]
)
def test_the_first_stage_minimises_eq_16(settings: dict[str, Any], scale: float) -> None:
    method, whole = begun(PROMPTS, **settings), batch()
    rows = torch.tensor([3, 0, 9, 9, 14, 6])
    some = replace(of_rows(whole, rows), images=torch.empty(0, 3, 32, 16), parsing=None)
    (update,) = method.updates(some)
    expected = torch.zeros((), dtype=torch.float64)
    for name, labels in (("persons", some.person), ("outfits", some.clothes)):
        features, texts = method.tables[name][rows], method.prompts[name](labels, method.text)
        s = scale * cosines(features, texts) if scale else features @ texts.T
        for i in range(len(rows)):
            expected = expected - (s[i, i].exp() / s[i].exp().sum()).log() / len(rows)  # Eqs. 5, 12
            expected = expected - (s[i, i].exp() / s[:, i].exp().sum()).log() / len(rows)  # Eqs. 6, 13
    torch.testing.assert_close(update.loss, expected)
    assert update.optimizer == "prompts"
    parameters = [parameter for _, parameter in method.parameters_of()["prompts"]]
    gradients = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (update.loss, expected)]
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(sum(update.logs.values()), update.loss.detach())


def test_every_image_is_encoded_once_for_each_view_and_each_class_once_in_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, whole = ccaf(), batch()
    images: list[int] = []
    texts: list[int] = []

    def noted(function: Callable[[Tensor], Tensor], seen: list[int]) -> Callable[[Tensor], Tensor]:
        def call(given: Tensor) -> Tensor:
            seen.append(len(given))
            return function(given)

        return call

    monkeypatch.setattr(tower(method.encoder), "before_last", noted(tower(method.encoder).before_last, images))
    monkeypatch.setattr(method.text, "forward", noted(method.text.forward, texts))
    begin(method, PROMPTS)
    assert sum(images) == 2 * 16
    for _ in range(3):
        next(method.updates(whole))
    assert sum(images) == 2 * 16
    assert texts == 3 * [4, 7]  # four persons, seven outfits of 16 images
    texts.clear()
    begin(method, TUNING)
    assert texts == [NUM_PERSONS, NUM_CLOTHES]
    list(method.updates(whole))
    assert texts == [NUM_PERSONS, NUM_CLOTHES]


def test_features_stand_at_their_rows_whatever_the_order_and_size_of_the_surveys_batches() -> None:
    method, whole = begun(PROMPTS), batch()
    expected = {name: table.clone() for name, table in method.tables.items()}
    pieces = [of_rows(whole, torch.tensor(rows)) for rows in ([9, 2, 4], [0], [*range(10, 16), 1, 3], [5, 6, 7, 8])]
    with torch.no_grad():
        method.eval().begin_stage(method.stages()[0], pieces)
    for name, table in method.tables.items():
        torch.testing.assert_close(table, expected[name], rtol=1e-12, atol=1e-12)


def test_prompts_of_whole_batches_come_to_describe_their_own_images() -> None:
    """Thirty steps on sixteen images."""
    method, whole = begun(PROMPTS), batch()
    optimizer = torch.optim.Adam([p for _, p in method.parameters_of()["prompts"]], 0.05)

    def loss() -> Tensor:
        return next(method.updates(whole)).loss

    before = loss().item()
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.8 * before


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_first_stage_ends_with_fig_5(similarity: str) -> None:
    """Own against other similarities of texts of persons with images without clothes, clothes alone, whole images."""
    method, whole = begun(PROMPTS, similarity=similarity), batch()
    assert whole.parsing is not None
    is_clothing = torch.isin(whole.parsing, CLOTHING)
    views = {"shielding": painted(whole, is_clothing), "clothes": painted(whole, ~is_clothing), "whole": whole.images}
    method.eval()
    found = method.end_stage(method.stage, [of_rows(whole, torch.arange(9)), of_rows(whole, torch.arange(9, 16))])
    assert found.keys() == {f"persons-{name}" for name in views}
    texts = method.prompts["persons"](torch.arange(NUM_PERSONS), method.text).detach()
    for name, images in views.items():
        features = tower(method.encoder)(images).projected[:, 0].detach()
        similar = cosines(features, texts) if similarity == "cosine" else features @ texts.T
        is_own = torch.arange(NUM_PERSONS) == whole.person[:, None]
        own, other = similar[is_own], similar[~is_own]
        expected = ((own[:, None] > other).double() + (own[:, None] == other).double() / 2).mean()
        assert found[f"persons-{name}"].auc == pytest.approx(float(expected), abs=1e-4)
        assert int(found[f"persons-{name}"].own.sum()) == 16


def test_without_masks_texts_are_compared_with_whole_images_alone() -> None:
    method, whole = begun(PROMPTS, shown_to_prompts="raw", image_alignment=False, clothes_minimisation=False), batch()
    found = method.eval().end_stage(method.stage, [replace(whole, parsing=None)])
    assert found.keys() == {"persons-whole"}


def test_a_stage_without_texts_of_persons_ends_without_figures() -> None:
    texts_of_outfits = ccaf(text_alignment=False, shielding_text_alignment=False)
    assert texts_of_outfits.end_stage(texts_of_outfits.stages()[0], [batch()]) == {}
    tuning = begun(TUNING)
    assert tuning.end_stage(tuning.stage, [batch()]) == {}


# The second stage


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"disentangle": "orthogonal", "lambda_dis": 0.7, "lambda_con": 0.3, "label_smoothing": 0.0},
        {"disentangle": "printed", "similarity": "dot"},
    ],
)
def test_the_second_stage_minimises_eqs_14_and_17(settings: dict[str, Any]) -> None:
    method, whole = begun(TUNING, **settings), batch()
    with torch.no_grad():
        method.projection.add_(0.1 * torch.randn(method.projection.shape, dtype=torch.float64))
    method.train()
    examined, update = method.updates(whole)
    chosen, who, what = method.settings, whole.person, whole.clothes
    assert whole.parsing is not None
    f = tower(method.encoder)(whole.images).projected[:, 0]
    f_s = tower(method.shielding)(painted(whole, torch.isin(whole.parsing, CLOTHING))).projected[:, 0]
    persons = method.prompts["persons"](torch.arange(NUM_PERSONS), method.text).detach()
    outfits = method.prompts["outfits"](torch.arange(NUM_CLOTHES), method.text).detach()

    def s(features: Tensor, texts: Tensor) -> Tensor:
        return features @ texts.T if chosen.similarity == "dot" else cosines(features, texts) / 0.07

    clothes = f.detach() @ method.projection
    examination = cross_entropy(s(clothes, outfits), what)  # Eq. 14
    total = torch.zeros((), dtype=torch.float64)
    for features, classifier in ((f, method.classifier), (f_s, method.shielding_classifier)):
        assert isinstance(classifier, torch.nn.Linear)
        total = total + cross_entropy(
            normalised(features) @ classifier.weight.T, who, chosen.label_smoothing
        )  # Eqs. 1, 8
        total = total + hard_triplet(features, who, 0.3)  # Eqs. 2, 8
        total = total + cross_entropy(s(features, persons), who, chosen.label_smoothing)  # Eqs. 7, 9
    centres = [(f[who == one].mean(0) - f_s[who == one].mean(0)).square().sum() for one in who.unique()]
    total = total + chosen.lambda_con * torch.stack(centres).mean()  # Eq. 10
    held = f @ method.projection.detach()
    cos = torch.stack([a @ b / a.norm() / b.norm() for a, b in zip(f, held, strict=True)])
    dis = {"away": cos, "printed": -cos, "orthogonal": cos**2}[chosen.disentangle].mean()  # Eq. 15
    total = total + chosen.lambda_dis * dis
    for found, expected in ((examined, examination), (update, total)):
        torch.testing.assert_close(found.loss, expected)
        parameters = [p for _, p in method.parameters_of()[found.optimizer]]
        gradients = [
            torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True) for x in (found.loss, expected)
        ]
        for one, other in zip(*gradients, strict=True):
            if other is not None:  # the necks are not in the sums here
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    assert (examined.optimizer, update.optimizer) == ("projection", "model")


def test_disentangling_uses_what_the_examination_has_just_learnt() -> None:
    method, whole = begun(TUNING), batch()
    updates = method.updates(whole)
    next(updates)
    with torch.no_grad():
        method.projection.copy_(-torch.eye(len(method.projection), dtype=torch.float64))
    assert next(updates).logs["loss/disentangle"].item() == pytest.approx(-1)


def test_as_clip_reid_prompts_see_images_as_they_are_and_the_descriptor_is_two_features_before_their_necks() -> None:
    settings = CLIP_REID | {"similarity": "dot", "clip_features": "both"}
    method, whole = begun(PROMPTS, **settings), batch()
    assert list(method.tables) == ["persons"]
    method.eval()
    tokens = [one[:, 0] for one in tower(method.encoder)(whole.images)]
    torch.testing.assert_close(method.tables["persons"], tokens[2])
    torch.testing.assert_close(method.embed(whole.images), torch.cat(tokens[1:], 1))


# What is frozen, and what starts from what


def test_what_is_frozen_gets_no_gradient_and_keeps_its_bits_in_both_stages() -> None:
    method, whole = ccaf(), batch()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    for epoch, moves in ((PROMPTS, ("prompts.",)), (TUNING, ("encoder.", "shielding", "classifier.", "projection"))):
        begin(method, epoch)
        assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items()), "the survey"
        for owned in method.parameters_of().values():
            optimizer = torch.optim.Adam([p for _, p in owned], 1e-2, weight_decay=0.1)
            for update in method.updates(whole):
                method.zero_grad()
                update.loss.backward()
                optimizer.step()
        reached = {name for name, parameter in method.named_parameters() if parameter.grad is not None}
        assert not [name for name in reached if name.startswith("text.")]
        changed = {name for name, value in method.state_dict().items() if not torch.equal(value, state[name])}
        assert changed
        assert not [name for name in changed if not name.startswith(moves)]
        state = {name: value.clone() for name, value in method.state_dict().items()}
    assert not any(parameter.requires_grad for parameter in method.text.parameters())


def published(factor: float = 1 / 16) -> dict[str, Tensor]:
    torch.manual_seed(5)
    size = TOWERS["vit-b16"].scaled(factor)
    image, text = ImageTower(size), TextTower(size, VOCABULARY)
    return {f"visual.{key}": value for key, value in image.state_dict().items()} | text.state_dict()


def test_both_image_towers_and_the_text_tower_start_from_the_same_weights() -> None:
    method, state = ccaf().float(), published()
    method.load_backbone(state)
    for body in (method.encoder, method.shielding):
        for name, value in tower(body).state_dict().items():
            assert torch.equal(value, state[f"visual.{name}"])
    for name, value in method.text.state_dict().items():
        assert torch.equal(value, state[name])
    assert tower(method.encoder).proj is not tower(method.shielding).proj
    with pytest.raises(MethodError, match="no text tower"):
        method.load_backbone({key: value for key, value in state.items() if key.startswith("visual.")})


# At test time, under autocast, and what cannot be


def test_the_descriptor_is_the_projected_class_token_before_its_neck_of_the_raw_stream_alone() -> None:
    method, whole = ccaf(), batch()
    method.eval()
    with torch.no_grad():
        expected = tower(method.encoder)(whole.images).projected[:, 0]
        torch.testing.assert_close(method.embed(whole.images), expected)
        for parameter in [*method.shielding.parameters(), *method.text.parameters(), *method.prompts.parameters()]:
            parameter.fill_(torch.nan)
        torch.testing.assert_close(method.embed(whole.images), expected)
    assert method.inputs == ("images",)


@pytest.mark.parametrize("rows", [[*range(15), 14], [*range(1, 17)]])
def test_a_survey_without_each_row_once_is_refused(rows: list[int]) -> None:
    whole = replace(batch(), rows=torch.tensor(rows))
    with pytest.raises(MethodError, match="does not have each row once"):
        begin(ccaf(), PROMPTS, whole)


def test_images_without_masks_are_refused() -> None:
    with pytest.raises(MethodError, match="CCAF needs each image's parsing map"):
        begin(ccaf(), PROMPTS, replace(batch(), parsing=None))


def test_features_under_autocast_are_compared_in_float32() -> None:
    method = ccaf().float()
    for epoch in (PROMPTS, TUNING):
        with torch.autocast("cpu", torch.bfloat16):
            begin(method, epoch)
            for update in method.updates(batch(torch.float32)):
                assert update.loss.dtype == torch.float32
                update.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)
