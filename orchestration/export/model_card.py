"""The model card: what a person has to know before using a registered model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets.images.label_maps import LABEL_MAPS
from orchestration.measures import MEASURES

DESCRIPTION_LIMIT = 5000  # characters of a description that MLflow's databases hold
CUT = "\n\nThe card goes on in `artifacts/card.md` beside the model.\n"
CLIPS_NOTE = " An entry may be a clip, several frames of one person in a row: [T, 3, H, W], or a list of files."


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from. `settings`: the resolved experiment; `metrics`: fractions by the protocol's names;
    `checkpoint`: its address; `weights`: the SHA-256 of its weights' file; `label_map`: what the numbers in the training
    set's parsing masks mean."""

    run_id: str
    checkpoint: str = ""
    weights: str = ""
    experiment: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    data_name: str = ""
    data_fingerprint: str = ""
    licence: str = "unknown"
    label_map: str | None = None
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
        f"# {name}",
        "A network that describes a cropped image of a person so that images of the same person lie close together, "
        "whatever the person wears.",
        "## Use",
        f"Input: `images`, RGB 0…255, {size[0]} × {size[1]} pixels (height × width), or `bytes`, encoded JPEG or PNG of any "
        f"size{parsing_note(inputs, provenance.label_map)}.{CLIPS_NOTE if clips else ''} Output: {dimensions} numbers per "
        f"{'clip' if clips else 'image'}, L2-normalised; the dot product of two is their similarity.",
        "For runtimes without torch the same graph lies beside it as `artifacts/model.onnx`: inputs "
        f"{' and '.join(f'`{name}`' for name in inputs)} as above (images as float32), output `features`.",
        "Intended for research on person re-identification and for review by people. **Not** intended for surveillance of "
        "individuals, for decisions about a person without a human check, or for use without a legal ground for processing "
        "images of the people shown. A similarity is no proof of identity.",
        "## Data",
        data_note(provenance),
        "## Results",
        results(provenance.metrics),
        selection_note(provenance),
        "## Limits",
        "Trained on one data set's cameras, crops, people and clothes: on others expect less. Errors are not spread evenly "
        "over people; look at the results per camera and per change of clothes before relying on them. Frames without a "
        "person, with several, or badly cropped get a descriptor like any other.",
        "## Trust",
        "The graph is checked against its digest and for foreign code before it is loaded. All the same: **whoever may "
        "write to the registry may run code in a service that loads from it.** Guard write access like a deployment.",
        "## Origin",
        table({"run": provenance.run_id, "experiment": provenance.experiment, "source": provenance.source_digest}),
        "### Method and settings",
        table({key: json.dumps(value) for key, value in interesting(provenance.settings).items()}),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_description(card: str) -> str:
    """A card (and what may stand above it) as a description holds it: its last lines, of settings, may be left out."""
    if len(card) <= DESCRIPTION_LIMIT:
        return card
    kept, _, _ = card.removesuffix(CUT)[: DESCRIPTION_LIMIT - len(CUT)].rpartition("\n")
    return kept + CUT


def parsing_note(inputs: tuple[str, ...], label_map: str | None) -> str:
    if "parsing" not in inputs:
        return ""
    meaning = f", whose numbers are those of {label_map}: {numbered(label_map)}" if label_map else ""
    return f", together with `parsing`, the image's map of labels{meaning}"


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
        + "\n\nThe people in a data set of real images were recorded under its authors' terms; whether they consented, and "
        "to what, is for those terms to say. Follow them, and delete what they ask to delete. A rendered data set shows "
        "no real person."
    )


def results(metrics: Mapping[str, float]) -> str:
    """A row per mode, a column per measure, in percent."""
    modes = sorted({name.rpartition("/")[0] for name in metrics if "/" in name})
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
        return "**These numbers are too good: the model was chosen on the test set** (`select_on_test`)."
    return f"Chosen within its run by `select: {provenance.select}`; in that the test set had no part."


def interesting(settings: Mapping[str, Any]) -> dict[str, Any]:
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


def table(rows: Mapping[str, object]) -> str:
    lines = [
        f"| {key} | {str(value).replace('|', chr(92) + '|')} |"
        for key, value in rows.items()
        if value not in ("", None)
    ]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""
