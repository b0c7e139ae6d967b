"""Which samples form a row group: whole persons up to a size; a larger person alone, cut between outfits or sequences."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from datasets.errors import DataError
from datasets.format.schema import Sample


class Labelled(Protocol):
    """Anything with a sample's labels: a Sample, or a file that is not read yet."""

    @property
    def person(self) -> str: ...
    @property
    def clothes(self) -> str | None: ...
    @property
    def sequence(self) -> str | None: ...
    @property
    def key(self) -> str: ...


def cluster_key(item: Labelled) -> tuple[str, str, str, str]:
    """The sort key that clusters samples as a data set stores them: person, clothes, sequence, key; null comes first."""
    return item.person, item.clothes or "", item.sequence or "", item.key


def payload(sample: Sample) -> int:
    """The bytes of image and mask, which are nearly all of a row group."""
    return len(sample.image) + len(sample.parsing or b"")


def row_groups(samples: Iterable[Sample], target_bytes: int, *, after: str | None = None) -> Iterator[list[Sample]]:
    """Cuts a clustered stream into row groups of at most target_bytes (one sample at least), one at a time in memory.

    A group holds whole persons. A person of more than target_bytes has groups of its own, cut where the clothes
    change, else where the sequence does, else between two samples. after: the last person of the previous row group, when
    the samples continue after it: a large person may have begun there.

    Raises: DataError when a person, an outfit or a sequence recurs after another began.
    """
    whole: list[Sample] = []  # complete persons
    person: list[Sample] = []  # the one under way
    sizes = {"whole": 0, "person": 0}
    is_large = False
    for sample in _clustered(samples):
        is_large = is_large or sample.person == after
        if person and sample.person != person[-1].person:
            if is_large:
                yield person
            else:
                whole, sizes["whole"] = whole + person, sizes["whole"] + sizes["person"]
            person, sizes["person"], is_large = [], 0, False
        if whole and sizes["whole"] + sizes["person"] + payload(sample) > target_bytes:
            yield whole
            whole, sizes["whole"] = [], 0
        if person and sizes["person"] + payload(sample) > target_bytes:
            cut = _cut([*person, sample])
            yield person[:cut]
            person, is_large = person[cut:], True
            sizes["person"] = sum(map(payload, person))
        person.append(sample)
        sizes["person"] += payload(sample)
    if is_large:
        yield person
    elif whole or person:
        yield whole + person


def _cut(person: list[Sample]) -> int:
    """The number of samples in this group: up to the last change of clothes, else of sequence, else all but one."""
    for labels in (lambda s: s.clothes, lambda s: (s.clothes, s.sequence)):
        for end in range(len(person) - 1, 0, -1):
            if labels(person[end]) != labels(person[end - 1]):
                return end
    return len(person) - 1


def _clustered(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Yields the samples; persons, outfits of a person and sequences of an outfit must each be contiguous."""
    seen: list[set[str | None]] = [set(), set(), set()]
    last: tuple[str | None, ...] = ()
    for sample in samples:
        labels = (sample.person, sample.clothes, sample.sequence)
        for level, (name, label) in enumerate(zip(("person", "clothes", "sequence"), labels, strict=True)):
            if last[: level + 1] == labels[: level + 1]:
                continue
            if label in seen[level]:
                raise DataError(
                    f"samples are not clustered: {name} {label!r} recurs with {sample.key} after another began; "
                    "sort the samples by person, clothes, sequence (grouping.cluster_key)"
                )
            seen[level].add(label)
            for deeper in seen[level + 1 :]:
                deeper.clear()
        if not sample.person or not sample.key:
            raise DataError(f"sample {sample.key!r} of person {sample.person!r}: person and key must not be empty")
        last = labels
        yield sample
