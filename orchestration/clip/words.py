"""The words of rendered people's captions, numbered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from methods.backbones.clip.prompts import CLOTHES_WORD, DOT, END, OF, PERSON_WORD, PHOTO, START, A

# The words of the prompts have the ids of OpenAI's encoding, so that prompts are the same for all towers.
OF_PROMPTS = {"a": A, "photo": PHOTO, "of": OF, "person": PERSON_WORD, "clothes": CLOTHES_WORD, ".": DOT}
FIRST_OWN = END + 1


@dataclass(frozen=True)
class Words:
    """A number for each word: those of the prompts as in OpenAI's encoding, all others from its end on."""

    ids: Mapping[str, int]

    @classmethod
    def of(cls, sentences: Iterable[str]) -> Words:
        found = sorted({word for sentence in sentences for word in split(sentence)} - OF_PROMPTS.keys())
        return cls(OF_PROMPTS | {word: FIRST_OWN + number for number, word in enumerate(found)})

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """All ids, ascending, with those of the start and the end of a text."""
        return tuple(sorted({START, END, *self.ids.values()}))

    def encode(self, sentence: str) -> list[int]:
        """The ids of a text, from its start to its end."""
        return [START, *(self.ids[word] for word in split(sentence)), END]

    def labels(self, sentence: str) -> list[int]:
        """Which own words a sentence has, each once: numbers from 0."""
        return sorted({self.ids[word] - FIRST_OWN for word in split(sentence) if self.ids[word] >= FIRST_OWN})

    @property
    def num_labels(self) -> int:
        return sum(number >= FIRST_OWN for number in self.ids.values())


def split(sentence: str) -> list[str]:
    return re.findall(r"[a-z-]+|\.", sentence.lower())


def as_prompt(sentence: str, noun: str) -> str:
    """A caption in the form of a prompt: "a photo of … person ."."""
    return f"a photo of {sentence.rstrip('.').lower()} {noun} ."
