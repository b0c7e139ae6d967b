"""The targets by name."""

from __future__ import annotations

from tests.fuzz.data_set import INDEX_TARGET, MANIFEST_TARGET, SHARDS_TARGET
from tests.fuzz.images import IMAGES_TARGET
from tests.fuzz.runs import CHECKPOINTS_TARGET, JOURNALS_TARGET
from tests.fuzz.sources import ARCHIVES_TARGET, TABLES_TARGET
from tests.fuzz.target import Target
from tests.fuzz.words import ADDRESSES_TARGET, OVER_TARGET, OVERRIDES_TARGET, RECIPES_TARGET

TARGETS: dict[str, Target] = {
    "recipes": RECIPES_TARGET,
    "overrides": OVERRIDES_TARGET,
    "over": OVER_TARGET,
    "addresses": ADDRESSES_TARGET,
    "manifests": MANIFEST_TARGET,
    "indexes": INDEX_TARGET,
    "shards": SHARDS_TARGET,
    "tables": TABLES_TARGET,
    "archives": ARCHIVES_TARGET,
    "images": IMAGES_TARGET,
    "checkpoints": CHECKPOINTS_TARGET,
    "journals": JOURNALS_TARGET,
}
