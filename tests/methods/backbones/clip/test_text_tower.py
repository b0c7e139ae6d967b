"""CLIP's text tower and prompts: golden token ids, a transcription in plain sums, 12 positions against all 77."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.backbones.clip.prompts import CLOTHES, PERSON, VOCABULARY, Prompts, Template, X
from methods.backbones.clip.sizes import CONTEXT, TOWERS
from methods.backbones.clip.text_tower import TextTower
from methods.method import MethodError
from tests import golden
from tests.methods.backbones.clip import reference
from tests.methods.backbones.clip.reference import TINY

TEMPLATES = {"A photo of a X X X X person.": PERSON, "A photo of X X X X clothes.": CLOTHES}
templates = pytest.mark.parametrize("template", [PERSON, CLOTHES], ids=["person", "clothes"])


def tower(dtype: torch.dtype = torch.float64) -> TextTower:
    torch.manual_seed(0)
    made = TextTower(TINY, VOCABULARY).to(dtype)
    reference.randomised(made)
    return made


def prompts(template: Template, tokens: int = 4, dtype: torch.dtype = torch.float64) -> Prompts:
    torch.manual_seed(1)
    made = Prompts(template, 5, tokens, TINY.text.width).to(dtype)
    reference.randomised(made, seed=1)
    return made


@pytest.mark.parametrize("case", golden.cases("clip_layout", "prompt_layout"))
def test_golden_layout_of_prompts(case: golden.Case) -> None:
    template = case.choose(TEMPLATES, str(case.raw_inputs["text"]))
    ids = template.ids(4)
    case.check("token_ids", torch.tensor(ids))
    case.check("context_length", torch.tensor(CONTEXT))
    case.check("x_positions", torch.tensor([at for at, token in enumerate(ids) if token == X]))
    case.check("eot_position", torch.tensor(len(ids) - 1))
    assert ids.index(max(ids)) == len(ids) - 1, "published code reads the text at its largest id"
    case.check("prefix_len", torch.tensor(len(template.before)))
    case.check("suffix_len", torch.tensor(CONTEXT - len(template.before) - 4))


def test_the_vocabulary_is_what_the_templates_need() -> None:
    assert VOCABULARY == (269, 320, 539, 1125, 2533, 7080, 49406, 49407)


@templates
def test_a_prompt_is_its_templates_embeddings_around_its_own_tokens(template: Template) -> None:
    text, learnt = tower(), prompts(template)
    found = learnt.embedded(torch.tensor([3, 0, 3]), text)
    rows = {token: text.token_embedding.weight[row] for row, token in enumerate(VOCABULARY)}
    for at, cls in enumerate((3, 0, 3)):
        own = iter(learnt.tokens[cls])
        expected = torch.stack([next(own) if token == X else rows[token] for token in template.ids(4)])
        assert torch.equal(found[at], expected)


@templates
@pytest.mark.parametrize("tokens", [1, 4, 16])
def test_positions_up_to_the_end_of_text_give_what_all_77_give(template: Template, tokens: int) -> None:
    text, learnt = tower(), prompts(template, tokens)
    classes = torch.tensor([1, 4])
    embedded = learnt.embedded(classes, text)
    found = learnt(classes, text)
    assert found.shape == (2, TINY.dim)
    for at in range(2):
        whole = reference.padded(embedded[at].detach(), CONTEXT)
        expected = reference.text_feature(text.state_dict(), whole, embedded.shape[1] - 1, TINY.text.heads)
        torch.testing.assert_close(found[at], expected, rtol=1e-9, atol=1e-9)


def test_in_float32_12_positions_give_what_77_give_to_1e_6_of_their_size() -> None:
    text, learnt = tower(torch.float32), prompts(PERSON, dtype=torch.float32)
    embedded = learnt.embedded(torch.arange(5), text).detach()
    with torch.no_grad():
        whole = torch.stack([reference.padded(one, CONTEXT) for one in embedded]) + text.positional_embedding
        expected = text.ln_final(text.transformer(whole)[:, embedded.shape[1] - 1]) @ text.text_projection
        found = learnt(torch.arange(5), text)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_gradients_of_the_learnable_tokens_are_those_of_the_plain_sums() -> None:
    text, learnt = tower(), prompts(CLOTHES)
    text.requires_grad_(False)
    weights = torch.randn(TINY.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (learnt(torch.tensor([2, 4]), text) @ weights).sum().backward()
    assert learnt.tokens.grad is not None
    tokens = learnt.tokens.detach().clone().requires_grad_()
    rows = {token: text.token_embedding.weight[row] for row, token in enumerate(VOCABULARY)}
    for cls in (2, 4):
        own = iter(tokens[cls])
        embedded = torch.stack([next(own) if token == X else rows[token] for token in CLOTHES.ids(4)])
        (reference.text_feature(text.state_dict(), embedded, 10, TINY.text.heads) @ weights).backward()
    torch.testing.assert_close(learnt.tokens.grad, tokens.grad)
    assert all(parameter.grad is None for parameter in text.parameters())


def test_what_follows_the_end_of_a_text_changes_nothing_and_what_precedes_it_does() -> None:
    text = tower()
    embedded = torch.randn(1, 9, TINY.text.width, dtype=torch.float64)
    states: list[Tensor] = [text(embedded[:, :6])]
    changed = embedded.clone()
    changed[:, 6:] = 7.0
    states.append(text(changed[:, :6]))
    changed[:, 2] = 7.0
    states.append(text(changed[:, :6]))
    assert torch.equal(states[0], states[1])
    assert not torch.allclose(states[0], states[2])


def test_the_scale_starts_as_published_before_training() -> None:
    torch.testing.assert_close(TextTower(TINY, VOCABULARY).scale, torch.tensor(1 / 0.07))


def test_the_published_text_tower_has_its_size_but_for_the_rows_of_its_table() -> None:
    """CLIP's ViT-B/16: 63.4 M parameters of text, 25.3 M of them in the table of 49,408 tokens."""
    with torch.device("meta"):
        found = sum(parameter.numel() for parameter in TextTower(TOWERS["vit-b16"], VOCABULARY).parameters())
    width = 512
    assert found == 8 * width + 77 * width + 12 * (12 * width**2 + 13 * width) + 2 * width + width * 512 + 1
    assert found + (49408 - 8) * width == 63_428_097


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    text = tower()
    with pytest.raises(MethodError, match="a prompt of 78 tokens does not fit into CLIP's 77"):
        prompts(PERSON, 70)(torch.tensor([0]), text)


def test_learnable_tokens_start_small_and_apart() -> None:
    torch.manual_seed(0)
    tokens = Prompts(PERSON, 200, 4, 32).tokens
    assert tokens.std().item() == pytest.approx(0.02, rel=0.02)
    assert len(tokens.flatten(1).unique(dim=0)) == 200


def test_texts_of_different_lengths_are_read_at_their_own_ends() -> None:
    text = tower()
    texts = [(320, 1125, 49407), (320, 1125, 539, 320, 2533, 49407)]
    alone = torch.cat([text(text.embed(ids)[None]) for ids in texts])
    filled = torch.stack([text.embed([*ids, *[269] * (7 - len(ids))]) for ids in texts])
    together = text(filled, torch.tensor([len(ids) - 1 for ids in texts]))
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
