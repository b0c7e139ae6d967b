"""Samples as small as they can be, one by one or drawn by hypothesis, and what a data set of them says of itself."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from datasets.format.schema import Sample
from datasets.shards.grouping import cluster_key

ABOUT: dict[str, Any] = {"name": "x", "version": "1", "licence": "none", "label_map": None, "protocol": "general"}
EXAMPLES = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

names = st.text(alphabet="0129_aé-", min_size=1, max_size=4)
samples = st.builds(
    Sample,
    image=st.binary(min_size=1, max_size=60),
    parsing=st.none() | st.binary(max_size=30),
    person=names,
    clothes=st.none() | names,
    camera=st.none() | names,
    sequence=st.none() | names,
    frame=st.none() | names,
    key=names,
)
splits = st.lists(samples, min_size=1, max_size=40, unique_by=lambda s: s.key).map(lambda s: sorted(s, key=cluster_key))


def sample(**given) -> Sample:
    plain = {"image": b"image", "parsing": None, "person": "1", "clothes": None, "camera": None}
    return Sample(**(plain | {"sequence": None, "frame": None, "key": "key"} | given))
