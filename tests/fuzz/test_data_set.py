"""Damage of a data set that random changes seldom find."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets.errors import CorruptData, DataError
from datasets.format.manifest import MANIFEST
from tests.fuzz.data_set import index_of, index_table, put, use, with_column, with_index


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"schema_version":' + "[" * 100_000, "1" * 10_000, "NaN", "\ufeff{}", ""]
)
def test_text_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"manifest\.json is not a manifest"):
        use(put(tmp_path, {MANIFEST: text.encode()}))


@pytest.mark.parametrize("name", ["offset", "length"])
def test_a_place_beyond_all_memory_is_refused_before_it_is_asked_for(tmp_path: Path, name: str) -> None:
    table = with_column(index_table(), name, [1 << 62] * len(index_table()))
    with pytest.raises(
        CorruptData, match=r"index\.parquet is inconsistent: .* is outside the shard; convert the data set again"
    ):
        use(put(tmp_path, with_index(index_of(table))))
