"""Published CLIP weights in the layouts in use, brought to OpenAI's names and loaded into the towers.

Two layouts hold both towers: OpenAI's own names, which open_clip's safetensors files have, too, and those of Hugging Face's
`CLIPModel`. A third is that of the small CLIP. They are told apart by one key each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from methods.backbones.clip.image_tower import ImageTower
from methods.backbones.clip.text_tower import TextTower
from methods.backbones.weights import load_weights
from methods.method import MethodError

OPENAI, HUGGING_FACE = "OpenAI's names", "Hugging Face's CLIPModel"
TINY = "the small CLIP of `redress clip train-tiny`"  # OpenAI's names but for the image tower
LAYOUTS = {  # a key that only this layout has
    "visual.class_embedding": OPENAI,
    "vision_model.embeddings.class_embedding": HUGGING_FACE,
    "visual.convolutions.0.weight": TINY,
}
REFUSED = {
    "patch_embed.proj.weight": "timm's layout, which has CLIP's image tower alone",
    "visual.attnpool.positional_embedding": "CLIP's ResNet, and the towers here are vision transformers",
    "layer1.0.conv1.weight": "a ResNet, named as torchvision names it",
    "text_model.embeddings.token_embedding.weight": "Hugging Face's layout without an image tower",
}
VISUAL = "visual."
OF_TEXT = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection", "logit_scale")
REMEDY = "Give a state dict of CLIP's ViT-B/16 or ViT-L/14 as safetensors, with OpenAI's names or as Hugging Face's CLIPModel"
BLOCK = {  # of Hugging Face's layout, in each block
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
OUTSIDE = {  # of the blocks
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # spelt so
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "logit_scale": "logit_scale",
}
TRANSPOSED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
TOWER_OF = {"vision_model": VISUAL, "text_model": ""}


def load_image_tower(tower: ImageTower, state: Mapping[str, Any]) -> None:
    """Load the image tower of a state dict in either layout. The tower changes only if everything fits.

    Raises: MethodError naming the layout that is not taken, the sizes that differ, or the keys that do not fit.
    """
    named_so, layout = openai_names(state)
    if layout == TINY:
        raise MethodError(
            f"these weights are of {TINY}, whose image tower is a body of its own: set method.body=clip-cnn"
        )
    own = {key.removeprefix(VISUAL): value for key, value in named_so.items() if key.startswith(VISUAL)}
    refuse_other_sizes("image tower", image_sizes(own), image_sizes(tower.state_dict()), layout)
    load_weights(tower, own, remedy=REMEDY)


def load_text_tower(tower: TextTower, state: Mapping[str, Any]) -> None:
    """Load the text tower of a state dict in either layout, and of its token table the rows of the tower's vocabulary.

    A table of exactly as many rows is taken as those rows, in ascending order of their ids.
    Raises: MethodError as `load_image_tower`, and where there is no text tower.
    """
    named_so, layout = openai_names(state)
    own = {key: value for key, value in named_so.items() if key.startswith(OF_TEXT)}
    if "token_embedding.weight" not in own:
        raise MethodError(
            f"these weights ({layout}) have no text tower: their keys begin with {beginnings(state)}, and none with "
            f"token_embedding or text_model. {REMEDY}"
        )
    own["token_embedding.weight"] = rows_of(own["token_embedding.weight"], tower.vocabulary)
    refuse_other_sizes("text tower", text_sizes(own), text_sizes(tower.state_dict()), layout)
    load_weights(tower, own, remedy=REMEDY)


def openai_names(state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state under OpenAI's names, and the layout that it had. Raises: MethodError where that is neither of the two."""
    layout = layout_of(state)
    return (from_hugging_face(state) if layout == HUGGING_FACE else dict(state)), layout


def layout_of(state: Mapping[str, Any]) -> str:
    """OPENAI or HUGGING_FACE. Raises: MethodError naming what it is instead, or the beginnings of its keys."""
    for key, layout in LAYOUTS.items():
        if key in state:
            return layout
    for key, what in REFUSED.items():
        if key in state:
            raise MethodError(f"these weights are of {what} ({key}). {REMEDY}")
    raise MethodError(
        f"these weights are in no layout of CLIP: their keys begin with {beginnings(state)}; expected "
        f"{' or '.join(LAYOUTS)}. {REMEDY}"
    )


def beginnings(state: Mapping[str, Any], shown: int = 4) -> str:
    found = list(dict.fromkeys(key.partition(".")[0] for key in state))
    return (", ".join(found[:shown]) or "nothing") + (" …" if len(found) > shown else "")


def from_hugging_face(state: Mapping[str, Any]) -> dict[str, Any]:
    """Hugging Face's names → OpenAI's: query, key and value in one, projections transposed. Unknown keys keep their names."""
    found: dict[str, Any] = {}
    attention: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        if key.endswith("position_ids"):  # 0, 1, 2 … in files of older versions
            continue
        if key in TRANSPOSED:
            found[TRANSPOSED[key]] = value.T if isinstance(value, Tensor) else value
        elif block := re.fullmatch(r"(\w+_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key):
            tower, number, part, kind = block.groups()
            place = f"{TOWER_OF.get(tower, tower)}transformer.resblocks.{number}"
            if part.endswith(("q_proj", "k_proj", "v_proj")):
                attention.setdefault(f"{place}.attn.in_proj_{kind}", {})[part[-6]] = value
            else:
                found[f"{place}.{BLOCK.get(part, part)}.{kind}"] = value
        else:
            place, _, kind = key.rpartition(".")
            found[OUTSIDE.get(key) or (f"{OUTSIDE[place]}.{kind}" if place in OUTSIDE else key)] = value
    for key, parts in attention.items():
        if len(parts) == 3:
            found[key] = torch.cat([parts[one] for one in "qkv"])
    return found


def rows_of(table: Tensor, vocabulary: tuple[int, ...]) -> Tensor:
    """The rows of a token table that a vocabulary needs. Raises: MethodError where the table is too small for its ids."""
    if table.shape[0] == len(vocabulary):
        return table
    if table.shape[0] <= max(vocabulary):
        raise MethodError(
            f"these weights have a table of {table.shape[0]} tokens; expected CLIP's 49408, or the {len(vocabulary)} of the "
            f"prompts alone. {REMEDY}"
        )
    return table[list(vocabulary)]


def image_sizes(state: Mapping[str, Any]) -> dict[str, str]:
    """What tells one image tower from another, from its state dict under OpenAI's names."""
    positions = rows(state, "positional_embedding") - 1
    side = math.isqrt(max(positions, 0))
    grid = f"{side} × {side}" if side**2 == positions else f"of {positions} places, no square"
    return {
        "grid": grid,
        "width": str(rows(state, "class_embedding")),
        "patch": str(columns(state, "conv1.weight")),
        "layers": str(layers(state)),
        "dim": str(columns(state, "proj")),
    }


def text_sizes(state: Mapping[str, Any]) -> dict[str, str]:
    """What tells one text tower from another, from its state dict under OpenAI's names."""
    return {
        "context": str(rows(state, "positional_embedding")),
        "width": str(columns(state, "positional_embedding")),
        "layers": str(layers(state)),
        "dim": str(columns(state, "text_projection")),
    }


def rows(state: Mapping[str, Any], key: str) -> int:
    return dimension(state, key, 0)


def columns(state: Mapping[str, Any], key: str) -> int:
    return dimension(state, key, -1)


def dimension(state: Mapping[str, Any], key: str, at: int) -> int:
    value = state.get(key)
    return value.shape[at] if isinstance(value, Tensor) and value.ndim else 0


def layers(state: Mapping[str, Any]) -> int:
    return len({key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")})


def refuse_other_sizes(tower: str, given: dict[str, str], own: dict[str, str], layout: str) -> None:
    """Raises: MethodError naming each size that differs, of the weights and of the tower."""
    differing = [f"{name} {given[name]}, expected {own[name]}" for name in own if given[name] != own[name]]
    if differing:
        raise MethodError(
            f"the {tower} of these weights ({layout}) is of another size: {'; '.join(differing)}. Give weights of the tower "
            "that the method is set to, or set the method's tower to theirs"
        )
