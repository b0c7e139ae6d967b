"""IFD as a method: golden attention and clothing features, what each stream sees and learns from, stages, ablations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from datasets.images.augment import Augmentation, augment, draw
from methods.distributed import synchronise
from methods.ifd import IFD, BiasDiminishing, IFDSettings, KnowledgeTransfer, resized
from methods.losses.cosine import cosines
from methods.losses.ifd import clothing_contrastive_loss
from methods.losses.supervised_contrastive import supervised_contrastive_loss
from methods.masking import label_table
from methods.method import Batch, MethodError
from tests import golden
from tests.methods.variants import SMALL, batch, build, facts

dtypes = pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
JOINT = {"joint_from_epoch": 0}


def ifd(**settings: Any) -> IFD:
    torch.manual_seed(1)
    return IFD(IFDSettings(**SMALL | JOINT | settings), facts()).double()


def gradients(loss: Tensor, method: IFD, part: str) -> list[Tensor | None]:
    parameters = [p for name, p in method.named_parameters() if name.startswith(part) and p.requires_grad]
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True))


# Eqs. 1 to 3


@dtypes
@pytest.mark.parametrize("case", golden.cases("ifd_ikt_cbd", "ifd_ikt"))
def test_golden_knowledge_transfer(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    transfer = KnowledgeTransfer(case.params["kernel"], bias=True).to(dtype)
    transfer.convolution.weight.data = given["conv_weight"]
    transfer.convolution.bias.data.fill_(given["conv_bias"])
    attention = transfer(given["attention_features"])
    case.check("attention", attention)
    case.check("refined", attention * given["main_features"])


@dtypes
@pytest.mark.parametrize("case", golden.cases("ifd_ikt_cbd", "ifd_cbd"))
def test_golden_bias_diminishing(case: golden.Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    maps = given["refined_features"]
    clothing = label_table(case.params["clothing_labels"])[given["parsing_labels"]]
    case.check("mask", clothing.to(dtype))
    for resize in ("nearest", "bilinear", "area"):
        case.check(f"mask_{resize}", resized(clothing, maps, resize)[:, 0])
        module = BiasDiminishing(maps.shape[1], resize).to(dtype)
        state = {name: given[f"bn_{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
        module.norm.load_state_dict({**state, "num_batches_tracked": torch.tensor(1)})
        assert module.norm.eps == case.params["bn_eps"]
        case.check(f"fc_eval_bn_gap_{resize}", module.eval()(maps, clothing))
        if resize != "area":
            case.check(f"fc_train_bn_gap_{resize}", module.train()(maps, clothing))


def test_the_papers_formula_has_no_bias_and_the_default_kernel_is_cbams() -> None:
    convolution = ifd().knowledge_transfer.convolution
    assert convolution.bias is None
    assert convolution.weight.shape == (1, 2, 7, 7)


# What each stream sees


def test_the_attention_stream_does_not_see_clothes_and_the_main_stream_does() -> None:
    method, whole = ifd(mask_margin=0), batch()
    method.eval()
    is_clothing = torch.isin(whole.parsing, torch.tensor([5, 9], dtype=torch.uint8))
    other = torch.where(is_clothing[:, None], torch.randn_like(whole.images), whole.images)
    views = method.views(whole.images, whole.parsing)
    assert views["attention W_I"].shape == (16, 2, 1)
    assert views["without clothes"].shape == whole.images.shape
    for title, view in method.views(other, whole.parsing).items():
        assert torch.equal(view, views[title])
    assert not torch.equal(method.embed(whole.images, whole.parsing), method.embed(other, whole.parsing))


def dressed(colour: int) -> tuple[Tensor, Tensor]:
    """Eight crops, 48 × 24, of one scene whose clothes have a colour; and their masks."""
    random = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (8, 3, 48, 24), dtype=torch.uint8, generator=random)
    parsing = torch.zeros(8, 48, 24, dtype=torch.uint8)
    parsing[:, 14:30, 6:17], parsing[:, 31:44, 8:15] = 5, 9
    images[:, :, 14:30, 6:17], images[:, :, 31:44, 8:15] = colour, 255 - colour
    return images, parsing


@pytest.mark.parametrize(
    "how",
    [
        Augmentation(48, 24, pad=6, erase=1.0),
        Augmentation(32, 16, pad=0, erase=1.0),  # made smaller, antialiased: colours run over the edge of a garment
        Augmentation(32, 16, pad=0, enlarge=1.125, crop_probability=0.5, erase=0.5),  # CAL's
    ],
)
@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_augmentation_and_random_erasing_do_not_reveal_clothes_to_the_attention_stream(
    how: Augmentation, fill: str
) -> None:
    method = ifd(mask_fill=fill, mask_margin=2 if how.enlarge > 1 else 1)
    seen = []
    method.attention.backbone.forward = lambda images: seen.append(images) or images  # type: ignore[func-returns-value]
    for colour in (0, 200):
        images, parsing = augment(*dressed(colour), draw(how, 8, (1, 2)), how, torch.float64)
        assert parsing is not None
        method.attention_maps(images, method.clothing(parsing))
    assert torch.equal(*seen)
    assert seen[0].std() > 0.1  # of what is no clothes, enough is left


def test_a_method_without_a_map_of_each_image_says_so() -> None:
    method, whole = ifd(), batch()
    with pytest.raises(MethodError, match="IFD needs each image's parsing map"):
        method.embed(whole.images)
    with pytest.raises(MethodError, match="IFD needs each image's parsing map"):
        next(method.updates(replace(whole, parsing=None)))


# What each stream learns from


def test_alone_the_attention_stream_learns_identities_and_nothing_else_moves() -> None:
    method, whole = ifd(joint_from_epoch=3), batch()
    (update,) = method.updates(whole)
    assert set(update.logs) == {"loss/attention-identity", "accuracy/attention-person"}
    for part in ("main", "classifier", "knowledge_transfer", "bias_diminishing"):
        assert not any(g is not None for g in gradients(update.loss, method, part)), part
    assert all(g is not None for g in gradients(update.loss, method, "attention"))
    assert method.main.backbone.bn1.num_batches_tracked == 0


def test_joint_training_minimises_eq_6() -> None:
    method, whole = ifd(clothing_weight=0.7), batch()
    (update,) = method.updates(whole)
    parts = [update.logs[f"loss/{name}"] for name in ("attention-identity", "identity", "clothing")]
    torch.testing.assert_close(update.loss.detach(), parts[0] + parts[1] + 0.7 * parts[2])


@pytest.mark.parametrize("trains", [True, False])
def test_the_main_streams_losses_train_the_attention_stream_only_where_set(trains: bool) -> None:
    method, whole = ifd(main_trains_attention=trains, mask_margin=0), batch()
    (update,) = method.updates(whole)
    alone, _ = method.attention_identification(
        method.attention_maps(whole.images, method.clothing(whole.parsing)), whole.person
    )
    pairs = zip(gradients(update.loss, method, "attention."), gradients(alone, method, "attention."), strict=True)
    assert all(torch.allclose(joint, own, atol=1e-12) for joint, own in pairs) is not trains
    assert all(g.abs().max() > 0 for g in gradients(update.loss, method, "knowledge_transfer"))


@pytest.mark.parametrize("kind", ["clothing", "supervised"])
def test_the_clothing_loss_is_of_the_normalised_clothing_features(kind: str) -> None:
    method, whole = ifd(clothing_loss=kind, tau=0.3, T=0.25), batch()
    (update,) = method.updates(whole)
    maps = method.maps(whole.images, whole.parsing)
    clothing = method.clothing(whole.parsing)
    features, shows = method.bias_diminishing(maps, clothing), method.bias_diminishing.shows(maps, clothing)
    logits = cosines(features, features) / 0.3
    who, what = whole.person, whole.clothes
    expected = (
        clothing_contrastive_loss(logits, who, what, who, what, 0.25, present_G=shows)
        if kind == "clothing"
        else supervised_contrastive_loss(logits, who, who, present_G=shows)
    )
    assert expected > 0
    torch.testing.assert_close(update.logs["loss/clothing"], expected.detach())


def with_clothes_on(shown: list[int]) -> Batch:
    """A batch in which only these images show clothes, all over; each of the others has a speck that the maps lose."""
    whole = batch()
    parsing = torch.zeros(16, 32, 16, dtype=torch.uint8)
    parsing[:, 1, 1], parsing[shown] = 5, 5
    return replace(whole, parsing=parsing)


@pytest.mark.parametrize("kind", ["clothing", "supervised"])
def test_images_without_clothes_at_the_maps_size_are_in_no_pair(kind: str) -> None:
    method, shown = ifd(clothing_loss=kind, knowledge_transfer=False), [0, 1, 4, 6, 9, 12]
    whole = with_clothes_on(shown)
    (update,) = method.updates(whole)
    features = method.bias_diminishing(method.maps(whole.images), method.clothing(whole.parsing))[shown]
    logits, who, what = cosines(features, features) / 0.1, whole.person[shown], whole.clothes[shown]
    expected = (
        clothing_contrastive_loss(logits, who, what, who, what, 0.5)
        if kind == "clothing"
        else supervised_contrastive_loss(logits, who, who)
    )
    assert expected > 0
    torch.testing.assert_close(update.logs["loss/clothing"], expected.detach())
    assert update.logs["share/without-clothes"] == 10 / 16


def test_a_batch_without_clothes_has_no_clothing_loss_and_no_gradient_of_it() -> None:
    method = ifd(knowledge_transfer=False)
    (update,) = method.updates(with_clothes_on([]))
    assert update.logs["loss/clothing"] == 0
    assert update.logs["share/without-clothes"] == 1
    assert not any(g.any() for g in gradients(update.loss, method, "bias_diminishing") if g is not None)


# Stages and ablations


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"joint_from_epoch": 20}, [("attention", 0), ("joint", 20)]),
        ({}, [("joint", 0)]),
        ({"joint_from_epoch": 20, "knowledge_transfer": False}, [("joint", 0)]),
    ],
)
def test_stages_follow_the_settings(settings: dict[str, Any], expected: list[tuple[str, int]]) -> None:
    assert [(stage.name, stage.first_epoch) for stage in ifd(**settings).stages()] == expected


def test_without_its_parts_ifd_is_the_baseline() -> None:
    method, baseline, whole = ifd(knowledge_transfer=False, clothing_loss="none"), build("baseline"), batch()
    state = method.state_dict()
    baseline.load_state_dict({name.replace("main.", "encoder."): value for name, value in state.items()})
    (update,) = method.updates(whole)
    torch.testing.assert_close(update.loss, next(baseline.updates(whole)).loss)
    assert torch.equal(method.eval().embed(whole.images), baseline.eval().embed(whole.images))
    assert not method.views(whole.images)


@pytest.mark.parametrize(
    ("settings", "parts", "inputs"),
    [
        ({}, {"knowledge_transfer", "bias_diminishing"}, ("images", "parsing")),
        ({"clothing_loss": "none"}, {"knowledge_transfer"}, ("images", "parsing")),
        ({"knowledge_transfer": False}, {"bias_diminishing"}, ("images",)),
        ({"knowledge_transfer": False, "clothing_loss": "none"}, set(), ("images",)),
    ],
)
def test_a_part_that_is_left_out_has_no_parameters(
    settings: dict[str, Any], parts: set[str], inputs: tuple[str, ...]
) -> None:
    method = ifd(**settings)
    found = {name.partition(".")[0] for name, _ in method.named_parameters()}
    assert found & {"knowledge_transfer", "bias_diminishing"} == parts
    assert ("attention" in found) is ("knowledge_transfer" in parts)
    assert method.inputs == inputs


def test_no_weight_is_shared_between_the_streams_and_both_start_from_the_same_backbone() -> None:
    method, other = ifd(), ifd(knowledge_transfer=False)
    method.load_backbone({**other.main.backbone.state_dict(), "fc.weight": torch.zeros(1)})
    streams = [dict(stream.backbone.named_parameters()) for stream in (method.main, method.attention)]
    for name, parameter in streams[0].items():
        assert torch.equal(parameter, streams[1][name])
        assert parameter is not streams[1][name]


def test_features_under_autocast_are_normalised_and_compared_in_float32() -> None:
    method = IFD(IFDSettings(**SMALL | JOINT), facts())
    synchronise(method)
    with torch.autocast("cpu", torch.bfloat16):
        (update,) = method.updates(batch(torch.float32))
    assert update.loss.dtype == torch.float32
    update.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": 4}, "a kernel of 4 has no centre, and would shift the attention: set it to 5"),
        ({"T": 0}, "greater than 0"),
        ({"tau": -1}, "greater than 0"),
        ({"mask_fill": "black"}, "'zero', 'mean' or 'white'"),
        ({"clothing_loss": "triplet"}, "'clothing', 'supervised' or 'none'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_mend(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        IFDSettings(**settings)
