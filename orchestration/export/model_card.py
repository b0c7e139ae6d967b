"""The model card: what people need to know before they use a registered model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets.images.decode import KINDS
from datasets.images.label_maps import LABEL_MAPS
from orchestration.measures import MEASURES, modes_of

DESCRIPTION_LIMIT = 5000  # characters of a description that MLflow's databases hold
CUT = "\n\nThe card continues in `artifacts/card.md` beside the model.\n"
CLIPS_NOTE = " An entry may be a clip, consecutive frames of one person: [T, 3, H, W], or a list of files."


@dataclass(frozen=True)
class Provenance:
    """The origin of a model.

    checkpoint: its address. weights: SHA-256 of the weights' file. settings: the resolved experiment. label_map: of the
    training set's parsing masks. seen_in_training: a warning where test people are in train. metrics: fractions by the
    protocol's names.
    """

    run_id: str
    checkpoint: str = ""
    weights: str = ""
    experiment: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    data_name: str = ""
    data_fingerprint: str = ""
    licence: str = "unknown"
    label_map: str | None = None
    seen_in_training: str | None = None
    source_digest: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    select: str = "last"
    select_on_test: bool = False


def write_card(
    name: str,
    provenance: Provenance,
    *,
    size: tuple[int, int],
    dimensions: int,
    inputs: tuple[str, ...],
    clips: bool = False,
) -> str:
    """Markdown. size: (height, width) in pixels."""
    parts = [
        f"# {escaped(name)}",
        "A network for clothes-changing person re-identification. It maps a cropped image of a person to a descriptor; "
        "descriptors of the same person are similar, whatever the person wears.",
        "## Use",
        f"Input: `images`, RGB 0…255, {size[0]} × {size[1]} pixels (height × width), or `bytes`, encoded images of any "
        f"size ({', '.join(KINDS)}), whose pixels are taken as they are stored{parsing_note(inputs, provenance.label_map)}."
        f"{CLIPS_NOTE if clips else ''} Output: {dimensions} numbers per "
        f"{'clip' if clips else 'image'}, L2-normalised; the dot product of two is their similarity.",
        "For runtimes without torch, `artifacts/model.onnx` is the same graph: inputs "
        f"{' and '.join(f'`{name}`' for name in inputs)} as above (images as float32), output `features`.",
        "Intended for research on person re-identification and for review by people. **Not** intended for surveillance of "
        "individuals, for decisions about a person without human review, or for use without a legal basis for processing "
        "images of the people shown. A similarity is not proof of identity.",
        "## Data",
        data_note(provenance),
        "## Results",
        results(provenance.metrics),
        selection_note(provenance),
        seen_note(provenance),
        "## Limits",
        "Trained on the cameras, crops, people and clothes of one data set: expect lower accuracy on others. Errors are not "
        "distributed evenly over people. Check the results per camera and per change of clothes before you rely on them. "
        "An image without a person, with several people or with a bad crop gets a descriptor like any other.",
        "## Trust",
        "Before loading, the graph is checked against its digest and for code. Nevertheless, **whoever may write to the "
        "registry may run code in a service that loads from it.** Protect write access like that to a deployment.",
        "## Origin",
        table({"run": provenance.run_id, "experiment": provenance.experiment, "source": provenance.source_digest}),
        "### Method and settings",
        table({key: json.dumps(value) for key, value in shown_settings(provenance.settings).items()}),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_description(card: str) -> str:
    """A card, and a review above it, within the limit of a description: the last lines, of settings, may be omitted."""
    if len(card) <= DESCRIPTION_LIMIT:
        return card
    kept, _, _ = card.removesuffix(CUT)[: DESCRIPTION_LIMIT - len(CUT)].rpartition("\n")
    return kept + CUT


def parsing_note(inputs: tuple[str, ...], label_map: str | None) -> str:
    if "parsing" not in inputs:
        return ""
    meaning = f" by label map {label_map}: {numbered(label_map)}" if label_map else ""
    return f", together with `parsing`, the image's parsing mask{meaning}"


def numbered(label_map: str) -> str:
    return ", ".join(f"{number} {label}" for number, label in enumerate(LABEL_MAPS[label_map].labels))


def data_note(provenance: Provenance) -> str:
    return (
        table(
            {
                "data set": provenance.data_name,
                "fingerprint": provenance.data_fingerprint,
                "licence": provenance.licence,
            }
        )
        + "\n\nReal data sets show people who were recorded under the terms of the data set's authors. Those terms state "
        "whether and to what the people consented. Follow them, and delete images on request. A rendered data set shows no "
        "real people."
    )


def results(metrics: Mapping[str, float]) -> str:
    """A row per mode, a column per measure, in percent."""
    modes = sorted(modes_of(metrics))
    measures = [measure for measure in MEASURES if any(f"{mode}/{measure}" in metrics for mode in modes)]
    if not modes or not measures:
        return "Not evaluated."
    lines = [f"| mode | {' | '.join(measures)} |", "|---|" + "---:|" * len(measures)]
    for mode in modes:
        values = [f"{100 * metrics[f'{mode}/{m}']:.1f}" if f"{mode}/{m}" in metrics else "" for m in measures]
        lines.append(f"| {mode} | {' | '.join(values)} |")
    return "\n".join(lines)


def selection_note(provenance: Provenance) -> str:
    if provenance.select_on_test:
        return "**These numbers are optimistic: the model was selected on the test set** (`select_on_test`)."
    return f"Selected within its run by `select: {provenance.select}`, without the test set."


def seen_note(provenance: Provenance) -> str:
    seen = provenance.seen_in_training
    return f"**These numbers are optimistic:** {escaped(seen)}." if seen else ""


def shown_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that shape the network, flat."""
    chosen = {
        key: settings[key] for key in ("method", "batch", "augment", "optimizers", "epochs", "seed") if key in settings
    }
    flat: dict[str, Any] = {}
    for key, value in chosen.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{k}": v for k, v in value.items()}
        else:
            flat[key] = value
    return flat


def escaped(text: object) -> str:
    """A text of a data set's as one line of Markdown that is shown as it is: it opens no heading, link, cell or tag."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(str(text).split()))


def table(rows: Mapping[str, object]) -> str:
    lines = [f"| {key} | {escaped(value)} |" for key, value in rows.items() if value not in ("", None)]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""
