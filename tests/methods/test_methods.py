"""What every method in METHODS must keep to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.export import Dim, export
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from methods import METHODS
from methods.backbones.bodies import BodySettings
from methods.method import Batch, DataFacts, Method, MethodError, Update
from tests.methods.variants import NUM_PERSONS, VARIANTS, batch, begin, build, facts

# What decides which operations a method's network for inference has.
SIZES = {"backbone", "width", "last_stride", "neck_bias", "triplet_before_neck", "patch_stride"}
EMBEDDING_SETTINGS = (*BodySettings.model_fields.keys() - SIZES, "knowledge_transfer")
variants = pytest.mark.parametrize("variant", VARIANTS)
README = Path(__file__).resolve().parents[2] / "methods" / "README.md"


def epochs_of(method: Method) -> list[int]:
    return [stage.first_epoch for stage in method.stages()]


def steps(method: Method, epoch: int, whole: Batch) -> list[Update]:
    """The updates of one step, each back-propagated and stepped with SGD as a loop would."""
    begin(method, epoch)
    owned = method.parameters_of()
    optimizers = {name: torch.optim.SGD([p for _, p in pairs], lr=0.01) for name, pairs in owned.items()}
    made = []
    for update in method.updates(whole):
        optimizers[update.optimizer].zero_grad()
        update.loss.backward()
        optimizers[update.optimizer].step()
        made.append(update)
    return made


def test_every_method_has_a_variant_here_and_a_row_in_the_readme() -> None:
    assert {name for name, _ in VARIANTS.values()} == set(METHODS)
    table = README.read_text(encoding="utf-8")
    for name in METHODS:
        assert f"| `{name}` |" in table, f"methods/README.md has no row for {name}"


@variants
def test_each_loss_depends_only_on_its_own_optimizers_parameters(variant: str) -> None:
    method = build(variant)
    owned = {optimizer: {name for name, _ in pairs} for optimizer, pairs in method.parameters_of().items()}
    everything = dict(method.named_parameters())
    trained: dict[str, set[str]] = {optimizer: set() for optimizer in owned}
    for epoch in epochs_of(method):
        begin(method, epoch)
        for update in method.updates(batch()):
            names = [name for name, parameter in everything.items() if parameter.requires_grad]
            gradients = torch.autograd.grad(
                update.loss, [everything[n] for n in names], retain_graph=True, allow_unused=True
            )
            reached = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
            foreign = reached - owned[update.optimizer]
            assert not foreign, f"{update.optimizer} in epoch {epoch}: {sorted(foreign)}"
            trained[update.optimizer] |= reached
    assert trained == owned, "a parameter that no stage trains"


class DifferingOperations(TorchDispatchMode):
    """Notes every operation that makes a float32 number other than 0 and 1, which masks have, and every square root: MKL's
    differs between processors (`orchestration.numerics`)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and made.dtype == torch.float32 and ((made != 0) & (made != 1)).any():
                self.found.append(str(func))
        if func in (torch.ops.aten.sqrt.default, torch.ops.aten.sqrt_.default):
            self.found.append(str(func))
        return result


@variants
def test_in_float64_no_number_of_a_loss_is_rounded_to_float32_and_none_is_a_square_root(variant: str) -> None:
    method, whole = build(variant), batch()
    for epoch in epochs_of(method):
        begin(method, epoch)
        with DifferingOperations() as noted:
            for update in method.updates(whole):
                update.loss.backward()
        assert not noted.found


@variants
def test_every_trainable_parameter_belongs_to_one_optimizer(variant: str) -> None:
    method = build(variant)
    owned = [pair for pairs in method.parameters_of().values() for pair in pairs]
    trained = {name: id(p) for name, p in method.named_parameters() if p.requires_grad}
    assert sorted(name for name, _ in owned) == sorted(trained)
    assert all(trained[name] == id(parameter) for name, parameter in owned)


@variants
def test_stages_begin_at_0_in_order_and_name_the_optimizers_that_step(variant: str) -> None:
    method = build(variant)
    starts = epochs_of(method)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    for stage in method.stages():
        assert method.stage_at(stage.first_epoch) == stage
        assert method.stage_at(stage.first_epoch + 1).first_epoch >= stage.first_epoch
        updates = steps(method, stage.first_epoch, batch())
        assert [u.optimizer for u in updates] == sorted(stage.optimizers, key=[u.optimizer for u in updates].index), (
            "each optimizer of the stage steps once"
        )


@variants
def test_losses_and_logs_are_finite_scalars(variant: str) -> None:
    method = build(variant, torch.float32)
    for epoch in epochs_of(method):
        for update in steps(method, epoch, batch(torch.float32)):
            for name, value in {"loss": update.loss, **update.logs}.items():
                assert value.shape == (), name
                assert value.isfinite(), name
            assert not any(value.requires_grad for value in update.logs.values())


@variants
def test_a_dozen_steps_lower_the_identity_loss(variant: str) -> None:
    method = build(variant, torch.float32)
    whole = batch(torch.float32)
    optimizers = {name: torch.optim.Adam([p for _, p in ps], 3e-3) for name, ps in method.parameters_of().items()}
    seen: list[float] = []
    begin(method, epochs_of(method)[-1])
    for _ in range(12):
        for update in method.updates(whole):
            method.zero_grad()
            update.loss.backward()
            optimizers[update.optimizer].step()
        seen.append(float(update.logs["loss/identity"]))
    assert seen[-1] < 0.9 * seen[0]


@variants
def test_the_stage_is_looked_up_once_an_epoch_also_where_training_resumes(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, resumed = build(variant), build(variant)
    last = epochs_of(method)[-1]
    assert method.stage == method.stages()[0]
    for epoch in range(last + 2):
        begin(method, epoch)
        assert method.stage == method.stage_at(epoch)
    begin(resumed, last + 1)
    assert resumed.stage == method.stage == method.stages()[-1]
    calls: list[None] = []
    stages = method.stages()
    monkeypatch.setattr(method, "stages", lambda: calls.append(None) or stages)
    losses = [[update.loss.item() for update in one.updates(batch())] for one in (method, resumed)]
    assert losses[0] == losses[1]
    assert not calls


def test_called_as_a_module_a_method_is_its_embed() -> None:
    for method in METHODS.values():
        assert method.forward is method.embed, f"{method.__name__} overrides embed: repeat `forward = embed` behind it"


@variants
def test_state_comes_back_whole_from_a_state_dict(variant: str) -> None:
    method = build(variant)
    steps(method, epochs_of(method)[-1], batch())
    other = build(variant)
    other.load_state_dict({name: value.clone() for name, value in method.state_dict().items()})
    again = [update.loss for update in steps(method, epochs_of(method)[-1], batch(seed=1))]
    assert [u.loss for u in steps(other, epochs_of(other)[-1], batch(seed=1))] == again


def embedding_networks() -> list[str]:
    """One variant for each network that embeds. Losses, classifiers and optimizers are no part of it, and tracing takes
    seconds."""
    found: dict[tuple[Any, ...], str] = {}
    for variant, (name, settings) in VARIANTS.items():
        method = METHODS[name]
        code = (method.embed, method.describe, method.maps)
        found.setdefault((*code, *(settings.get(key) for key in EMBEDDING_SETTINGS)), variant)
    return list(found.values())


def graphs() -> list[Any]:
    """Each body under the baseline and each method on its first body; the other pairs take long."""
    first = {name: variant for variant, (name, _) in reversed(VARIANTS.items())}
    alone = [one for one in embedding_networks() if VARIANTS[one][0] == "baseline" or one in first.values()]
    return [one if one in alone else pytest.param(one, marks=pytest.mark.long) for one in embedding_networks()]


@pytest.mark.parametrize("variant", graphs())
def test_embedding_is_a_graph_for_any_batch_that_needs_nothing_of_ours(variant: str) -> None:
    method = build(variant, torch.float32).eval()
    example = embed_inputs(method, batch(torch.float32))
    with torch.no_grad():
        program = export(method, example, dynamic_shapes=tuple({0: Dim("batch")} for _ in example))
        for images in (1, 3, 16):
            given = tuple(tensor[:images] for tensor in example)
            torch.testing.assert_close(program.module()(*given), method.embed(*given))


def embed_inputs(method: Method, whole: Batch) -> tuple[Tensor, ...]:
    """What `embed` takes, by the names the method gives; labels are never among them."""
    assert set(method.inputs) <= {"images", "parsing"}
    return tuple(getattr(whole, name) for name in method.inputs)


@variants
def test_an_embedding_depends_on_its_image_alone(variant: str) -> None:
    method = build(variant).eval()
    example = embed_inputs(method, batch())
    together = method.embed(*example)
    assert together.shape[0] == 16
    assert not torch.allclose(together.norm(dim=1), torch.ones(16, dtype=together.dtype)), "embed must not normalise"
    torch.testing.assert_close(method.embed(*(tensor[5:6] for tensor in example)), together[5:6])


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_frozen_and_refuse_unknown_names(name: str) -> None:
    settings = METHODS[name].Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.backbone = "resnet18"
    with pytest.raises(ValidationError, match="epsilonn"):
        METHODS[name].Settings(epsilonn=0.2)


@pytest.mark.parametrize("name", METHODS)
def test_facts_that_do_not_fit_are_refused(name: str) -> None:
    method = METHODS[name]
    first = next(settings for other, settings in VARIANTS.values() if other == name)
    settings = method.Settings(**first)
    with pytest.raises(MethodError, match=r"clothes_owner is from 0 to 4; expected persons from 0 to 3"):
        method(settings, DataFacts(NUM_PERSONS - 1, facts().clothes_owner))
    without_clothes = DataFacts(NUM_PERSONS, torch.zeros(0, dtype=torch.int64))
    if method.needs(settings).clothes:
        with pytest.raises(MethodError, match="needs clothes labels"):
            method(settings, without_clothes)
    else:
        method(settings, without_clothes)
