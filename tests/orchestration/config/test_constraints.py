"""Each violated constraint is reported with a fix, and the fix is accepted."""

from __future__ import annotations

import pytest

from methods import METHODS
from orchestration.config.load import Experiment, load, recipes
from orchestration.errors import RequestError
from tests.orchestration.config.complaints import DATA, complaint, line

SMALL_TOWER = ("method.body=clip-cnn", "weights=null")


def test_lanes_divide_people_and_workers_divide_lanes() -> None:
    report = complaint("batch.people=12", "workers=2")
    assert "8 lanes cannot share 12 people × 8 images equally" in line(report, "batch.people = 12")
    assert "Set batch.lanes to 2, 4, 6 or 12, or batch.people to 8 or 16" in report
    report = complaint("batch.people=12", "batch.lanes=4", "workers=3")
    assert "3 workers cannot share 4 lanes equally. Set workers to 1, 2 or 4, or batch.lanes to 3, 6 or 12" in (
        line(report, "workers = 3")
    )


def test_batch_norm_has_two_samples_to_normalise() -> None:
    one = ("batch={people: 1, images: 1, lanes: 1}",)
    assert "batch of one sample. Set batch.images to at least 2" in line(complaint(*one), "batch.people = 1")
    each = ("batch={people: 4, images: 1, lanes: 4}", "workers=4", "sync_batch_norm=false")
    report = complaint(*each)
    assert "each of 4 workers has one of its own" in line(report, "sync_batch_norm = false")
    assert "Set sync_batch_norm=true, or batch.images to at least 2" in report
    load("cal-ltcc", [DATA, *one, "batch.images=2"])
    load("cal-ltcc", [DATA, *each, "batch.images=2"])
    load("cal-ltcc", [DATA, *each[:2], "sync_batch_norm=true"])
    load("cal-ltcc", [DATA, *one, "augment.clothes_sampling={}"])  # and the same sample in other clothes


def test_a_strategy_that_would_train_something_else_or_hold_nothing_is_refused() -> None:
    report = complaint("strategy.name=zero", "precision=float64")
    assert "32-bit copies of the weights" in line(report, "strategy.name = zero")
    assert "Set strategy.name=fsdp" in report
    assert "Set strategy.name=zero" in line(complaint("strategy.stage=2"), "strategy.stage = 2")
    assert "Set strategy.name=fsdp or zero" in line(complaint("strategy.offload=cpu"), "strategy.offload = cpu")
    load("cal-ltcc", [DATA, "strategy.name=fsdp", "precision=float64", "strategy.offload=cpu"])
    load("cal-ltcc", [DATA, "strategy={name: zero, stage: 2}", "precision=bfloat16"])
    assert "1 or 2" in complaint("strategy={name: zero, stage: 3}")


def test_memory_is_saved_where_the_training_stays_the_same() -> None:
    load("cal-ltcc", [DATA, "batch.recompute=true"])
    load("cal-ltcc", [DATA, "batch.recompute=true", "strategy.name=fsdp", "workers=2"])
    report = complaint("batch.recompute=true", *SMALL_TOWER)
    assert "has no blocks between which activations could be dropped" in line(report, "batch.recompute = true")
    assert "Set batch.recompute=false, or method.body to one made of a ResNet or a transformer" in report
    load("cal-ltcc", [DATA, *SMALL_TOWER])

    report = complaint("batch.micro_batch=16")
    assert "would normalise 16 images at a time" in line(report, "batch.micro_batch = 16")
    assert "batch.recompute=true, which keeps every number, workers to more, or method.body to clip-vit" in report
    tower = ("method.body=clip-vit", "batch.micro_batch=16", "weights=null")
    load("cal-ltcc", [DATA, *tower])
    report = complaint(*tower, "strategy.name=fsdp", "workers=2")
    assert "gather the weights of each block for every micro-batch" in line(report, "batch.micro_batch = 16")
    assert "or strategy.name=data-parallel" in report
    assert "batch.micro_batch = 0" in complaint("batch.micro_batch=0")


def test_a_mend_is_a_mend() -> None:
    """What the messages about batches advise is accepted."""
    for words in (
        ["workers=5", "batch.people=10", "batch.lanes=5"],
        ["batch.people=12", "workers=2", "batch.lanes=6"],
        ["batch.people=12", "workers=3", "batch.lanes=12"],
        ["epochs=20", "method.adversarial_from_epoch=19"],
        ["select=best:val_query/clothes-changing/mAP", "checkpoint.keep=2"],
        ["select=best:query/general/rank-1", "select_on_test=true"],
        ["method.width=0.5", "weights=null"],
    ):
        load("cal-ltcc", [DATA, *words])


def test_outfits_are_asked_of_the_sampler_that_minds_them() -> None:
    report = complaint("batch.appearances=2")
    assert "sampler 'chunks' does not sample by outfit" in line(report, "batch.appearances = 2")
    assert "Set batch.appearances=null, or batch.sampler=appearance" in report
    assert "Set batch.appearances=2" in line(complaint("batch.sampler=appearance"), "batch.sampler = appearance")
    report = complaint("batch.sampler=appearance", "batch.appearances=9")
    assert "8 images of a person cannot show 9 outfits" in line(report, "batch.appearances = 9")
    assert "Set batch.appearances to at most 8, or batch.images to at least 9" in report
    load("cal-ltcc", [DATA, "batch.sampler=appearance", "batch.appearances=2"])


def test_clips_are_for_methods_that_take_them() -> None:
    for name, method in METHODS.items():
        recipe = next(r for r in recipes() if load(r, [DATA]).method.name == name)
        if method.takes_clips:
            assert load(recipe, [DATA, "batch.clip={length: 4}"]).batch.clip is not None
        else:
            with pytest.raises(RequestError, match=r"takes images, not clips. Set batch.clip=null.*cal"):
                load(recipe, [DATA, "batch.clip={length: 4}"])


@pytest.mark.parametrize("given", ["null", "{beside: false}"])
def test_other_clothes_come_where_a_method_compares_them(given: str) -> None:
    with pytest.raises(RequestError) as raised:
        load("pixel-sampling-prcc", [DATA, f"augment.clothes_sampling={given}"])
    told = line(str(raised.value), "augment.clothes_sampling")
    assert "compares each image with a copy in other clothes. Set augment.clothes_sampling={}" in told
    assert told.endswith("or method.consistency_weight=0")
    load("pixel-sampling-prcc", [DATA, f"augment.clothes_sampling={given}", "method.consistency_weight=0"])
    load("cal-prcc", [DATA, f"augment.clothes_sampling={given}"])


def test_a_stage_that_would_never_come_is_no_stage() -> None:
    report = complaint("epochs=20")
    assert "stage 'adversarial' would never start: it begins at epoch 25, training ends with epoch 19" in line(
        report, "epochs = 20"
    )
    assert "Set method.adversarial_from_epoch below 20, or epochs above 25" in report
    assert line(complaint("method.adversarial_from_epoch=60"), "method.adversarial_from_epoch = 60")


def test_optimizers_are_those_that_the_method_trains() -> None:
    report = complaint("optimizers.clothes_classifier=null", "optimizers.head={name: sgd, lr: 0.1}")
    assert '"cal" trains these parameters. Set optimizers.clothes_classifier.name=adam' in line(
        report, "optimizers.clothes_classifier"
    )
    assert "Set optimizers.head=null" in line(report, "optimizers.head")


def test_choosing_by_the_test_set_is_said_openly() -> None:
    report = complaint("select=best:query/general/rank-1")
    assert "'query' belongs to the test set" in report
    assert "select_on_test=true" in report
    assert "has no effect while select is last" in line(complaint("select_on_test=true"), "select_on_test = true")
    report = complaint("select=best:val_query/general/rank-1", "select_on_test=true")
    assert "'val_query' does not belong to the test set" in line(report, "select_on_test = true")


def test_the_best_checkpoint_and_the_newest_are_kept() -> None:
    best = "select=best:val_query/general/rank-1"
    assert "Set checkpoint.keep to at least 2, or to null" in line(
        complaint(best, "checkpoint.keep=1"), "checkpoint.keep"
    )
    load("cal-ltcc", [DATA, "checkpoint.keep=1"])
    for keep in ("2", "3", "null"):
        load("cal-ltcc", [DATA, best, f"checkpoint.keep={keep}"])


def test_published_weights_fit_published_shapes_alone() -> None:
    assert "Set weights=null" in complaint("method.width=0.5")


def elastic(*words: str) -> tuple[int, ...]:
    return load("cal-ltcc", [DATA, *words]).group_sizes()


def test_a_range_of_workers_means_those_that_divide_the_lanes() -> None:
    batch = "batch={people: 12, images: 4, lanes: 12}"
    assert elastic(batch, "workers={min: 2, max: 8}") == (2, 3, 4, 6)
    assert elastic(batch, "workers={max: 3}") == (1, 2, 3)
    assert elastic(batch, "workers=4") == (4,)
    assert elastic("workers={min: 2, max: 2}") == (2,)
    resolved = load("cal-ltcc", [DATA, batch, "workers={min: 2, max: 8}"]).resolved()
    assert resolved["workers"] == {"min": 2, "max": 8}
    assert Experiment.from_resolved(resolved).group_sizes() == (2, 3, 4, 6)


def test_a_range_that_no_group_fits_is_refused_with_lanes_that_have_more_divisors() -> None:
    report = complaint("workers={min: 5, max: 7}")
    told = line(report, "workers")
    assert "none of 5 to 7 workers can share 8 lanes equally" in told
    assert "include 1, 2, 4 or 8, or batch.lanes to a number with more divisors, such as 12, 24 or 48" in told
    assert elastic("workers={min: 5, max: 7}", "batch.lanes=12", "batch.people=12") == (6,)
    assert elastic("workers={min: 4, max: 7}") == (4,)
    assert "no number is 6 to 4 workers. Set workers.min to at most 4" in complaint("workers={min: 6, max: 4}")
    assert "is required" in line(complaint("workers={min: 2}"), "workers.max")
    assert "must be at least 1" in line(complaint("workers=0"), "workers = 0")
    assert "expected a whole number" in line(complaint("workers=many"), "workers = many")
    assert "it has min, max" in complaint("workers={min: 2, mx: 4}")


def test_people_are_shared_by_lanes_whatever_the_range() -> None:
    assert "8 lanes cannot share 12 people" in complaint("workers={max: 4}", "batch.people=12")


def test_a_range_needs_norms_that_do_not_depend_on_the_number() -> None:
    report = complaint("workers={min: 2, max: 4}", "sync_batch_norm=false")
    assert "the result would depend on how many there are" in line(report, "sync_batch_norm = false")
    assert "Set sync_batch_norm=true, or workers to 2 or 4" in report
    assert elastic("workers={min: 2, max: 3}", "sync_batch_norm=false") == (2,)


def test_every_size_of_a_range_shares_the_rows_of_a_stage() -> None:
    words = ["batch={people: 12, images: 2, lanes: 12}", "weights=null", "method.prompt_batch=16"]
    told = complaint(*words, "workers={min: 2, max: 4}", name="ccaf-demo")
    assert "3 workers cannot share the 16 rows of a batch of stage 'prompts' equally" in told
    assert "Set workers.min and workers.max to 1, 2, 4, 8 or 16" in told
