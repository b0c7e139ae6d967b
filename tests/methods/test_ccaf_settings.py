"""What CCAF's settings make of it: parts and stages of the paper's ablations, what training then needs, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from methods.ccaf import CCAF, CCAFSettings
from methods.method import DataFacts, MethodError, Needs, Stage
from tests.methods.variants import CLIP_REID, NUM_CLOTHES, PROMPTED, WITHOUT, batch, begin, facts


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({}, {"shielding", "projection", "persons", "outfits"}),
        (dict.fromkeys(WITHOUT, False), set()),  # Table 3: B
        (dict.fromkeys(WITHOUT[1:], False), {"persons"}),  # B + I2T
        ({"clothes_minimisation": False}, {"shielding", "persons"}),  # B + I2T + I2I
        ({"clothes_targets": "one-hot"}, {"shielding", "projection", "clothes_classifier", "persons"}),  # Table 4, row by row
        ({"clothes_targets": "one-hot", "shielding_text_alignment": False},
         {"shielding", "projection", "clothes_classifier", "persons"}),
        ({"clothes_targets": "one-hot", "shielding_text_alignment": False, "text_alignment": False},
         {"shielding", "projection", "clothes_classifier"}),
    ],
)  # fmt: skip
def test_a_part_that_is_left_out_has_no_parameters_and_no_stage(settings: dict[str, Any], parts: set[str]) -> None:
    method = CCAF(CCAFSettings(**PROMPTED | settings), facts())
    found = {name.partition(".")[0] for name, _ in method.named_parameters()} | set(method.prompts)
    names = {"shielding", "projection", "clothes_classifier", "persons", "outfits"}
    assert found & names == parts
    has_text = bool(parts & {"persons", "outfits"})
    assert ("text" in found) is has_text
    others = ("model", "projection") if "projection" in parts else ("model",)
    tuning = Stage("fine-tuning", 2 if has_text else 0, others)
    prompts = Stage("prompts", 0, ("prompts",), samples=8, changes_embedding=False)
    stages = method.stages()
    assert [replace(one, optimizers=tuple(sorted(one.optimizers))) for one in stages] == (
        [prompts, tuning] if has_text else [tuning]
    )


def test_the_defaults_are_the_papers() -> None:
    settings = CCAFSettings()
    assert (settings.encoder_from_epoch, settings.prompt_batch) == (120, 64)  # Sec. 4.2
    assert (settings.lambda_con, settings.lambda_dis, settings.triplet.margin) == (0.1, 1.0, 0.3)
    assert (settings.tower, settings.triplet.weight, settings.triplet.distance) == ("vit-b16", 1.0, "euclidean")
    known = facts()
    with torch.device("meta"):
        method = CCAF(settings, known)
        assert method.encoder.dim == 512
        assert method.projection.shape == (512, 512)
        assert method.prompts["outfits"].tokens.shape == (NUM_CLOTHES, 4, 512)


def test_more_classes_than_a_worker_can_hold_are_refused_with_the_number_and_the_fix() -> None:
    many = DataFacts(30_000, torch.arange(30_000), clothing_labels=(5,))
    with pytest.raises(MethodError, match=r"60,000 persons and outfits.*at most 50,000.*clothes_targets=one-hot"):
        CCAF(CCAFSettings(**PROMPTED), many)
    CCAF(CCAFSettings(**PROMPTED, clothes_targets="one-hot"), many)
    more = DataFacts(60_000, torch.arange(60_000))
    with pytest.raises(
        MethodError, match=r"^60,000 persons need a prompt each.*at most 50,000.*Train on fewer people$"
    ):
        CCAF(CCAFSettings(**PROMPTED | CLIP_REID), more)


@pytest.mark.parametrize(
    ("settings", "views", "fix"),
    [
        ({}, 2, r"Train on fewer images, or set method\.clothes_targets=one-hot.*"),
        ({"clothes_targets": "one-hot"}, 1, "Train on fewer images"),
        (CLIP_REID, 1, "Train on fewer images"),
    ],
)
def test_a_table_larger_than_a_worker_can_hold_is_refused_by_the_constructor(
    settings: dict[str, Any], views: int, fix: str
) -> None:
    """A feature has 32 numbers, of 4 bytes each."""
    most = (4 << 30) // (4 * 32 * views)
    wanted, fits, exceeds = (
        CCAFSettings(**PROMPTED | settings),
        *(replace(facts(), num_images=most + n) for n in (0, 1)),
    )
    with torch.device("meta"):
        CCAF(wanted, fits)
        with pytest.raises(
            MethodError, match=rf"features of {most + 1:,} images, {views} × 32 numbers.*at most 4,096\. {fix}$"
        ):
            CCAF(wanted, exceeds)


def test_a_method_without_texts_needs_no_table() -> None:
    known = replace(facts(), num_images=1 << 40)
    with torch.device("meta"):
        CCAF(CCAFSettings(**PROMPTED | dict.fromkeys(WITHOUT, False)), known)


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({}, Needs(clothes=True, parsing=True)),
        ({"shown_to_prompts": "raw"}, Needs(clothes=True, parsing=True)),
        (dict.fromkeys(WITHOUT, False), Needs()),  # Table 3: B
        (dict.fromkeys(WITHOUT[1:], False), Needs(parsing=True)),  # B + I2T
        (CLIP_REID, Needs()),
        (CLIP_REID | {"image_alignment": True}, Needs(parsing=True)),
        (CLIP_REID | {"clothes_minimisation": True}, Needs(clothes=True, parsing=True)),
        (CLIP_REID | {"clothes_minimisation": True, "clothes_targets": "one-hot"}, Needs(clothes=True)),
    ],
)
def test_the_settings_say_whether_training_needs_clothes_labels_and_masks(
    settings: dict[str, Any], needs: Needs
) -> None:
    """Without what is not needed both stages train, and without what is needed there is no method."""
    wanted = CCAFSettings(**PROMPTED | settings)
    assert CCAF.needs(wanted) == needs
    known = replace(facts(), clothing_labels=facts().clothing_labels if needs.parsing else ())
    known = known if needs.clothes else replace(known, clothes_owner=torch.empty(0, dtype=torch.int64))
    method, whole = CCAF(wanted, known).double(), batch()
    whole = replace(whole, parsing=whole.parsing if needs.parsing else None)
    whole = whole if needs.clothes else replace(whole, clothes=torch.full_like(whole.clothes, -1))
    for stage in method.stages():
        begin(method, stage.first_epoch, whole)
        assert all(update.loss.isfinite() for update in method.updates(whole))
    if needs.parsing:
        with pytest.raises(MethodError, match="CCAF needs parsing maps"):
            CCAF(wanted, replace(known, clothing_labels=()))
    if needs.clothes:
        with pytest.raises(MethodError, match="CCAF needs clothes labels"):
            CCAF(wanted, replace(known, clothes_owner=torch.empty(0, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"prompt_tokens": 70}, "less than or equal to 69"),
        ({"disentangle": "apart"}, "'away', 'orthogonal' or 'printed'"),
        ({"body": "global"}, "'clip-vit' or 'clip-cnn'"),
        ({"encoder_from_epoch": 0}, "greater than or equal to 1"),
        ({"similarity_scale": 0}, "greater than 0"),
        ({"backbone": "resnet18"}, "body 'clip-vit' has no backbone"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        CCAFSettings(**settings)
