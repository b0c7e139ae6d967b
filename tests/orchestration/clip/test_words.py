"""The words of captions as tokens of a text tower and as labels."""

from __future__ import annotations

from datasets.synthetic.captions import describe_outfit, describe_person
from datasets.synthetic.jobs import make_jobs
from datasets.synthetic.people import person
from datasets.synthetic.presets import find_preset
from methods.backbones.clip.prompts import CLOTHES, END, PERSON, START, VOCABULARY
from orchestration.clip.words import FIRST_OWN, Words, as_prompt, split

SENTENCES = [
    "Tall woman of fair skin with long hair.",
    "A red striped shirt, blue trousers and black thick-soled shoes.",
]


def test_words_of_the_prompts_have_the_ids_of_openais_encoding() -> None:
    words = Words.of(SENTENCES)
    assert set(VOCABULARY) <= set(words.vocabulary)
    assert words.vocabulary == tuple(sorted(words.vocabulary))
    assert words.encode("a photo of a person .") == [*PERSON.before, *PERSON.behind]
    assert words.encode("a photo of clothes .") == [*CLOTHES.before, *CLOTHES.behind]


def test_a_sentence_is_its_words_from_start_to_end() -> None:
    words = Words.of(SENTENCES)
    text = words.encode(SENTENCES[1])
    assert (text[0], text[-1]) == (START, END)
    assert len(text) == 2 + len(split(SENTENCES[1]))
    back = {number: word for word, number in words.ids.items()}
    assert [back[number] for number in text[1:-1]] == split(SENTENCES[1])
    assert "thick-soled" in split(SENTENCES[1])


def test_labels_are_the_own_words_each_once() -> None:
    words = Words.of(SENTENCES)
    own = {number for number in words.ids.values() if number >= FIRST_OWN}
    assert words.num_labels == len(own)
    assert set(words.labels(SENTENCES[0])) | set(words.labels(SENTENCES[1])) == set(range(len(own)))
    assert words.labels("a of . tall tall") == words.labels("tall")


def test_a_caption_as_a_prompt() -> None:
    assert as_prompt("A red shirt.", "clothes") == "a photo of a red shirt clothes ."


def test_every_caption_of_the_renderer_can_be_said() -> None:
    jobs = make_jobs(find_preset("tiny"), "ltcc", 1)
    said = [
        text for job in jobs["train"] for text in (describe_outfit(job.wears), describe_person(person(1, job.person)))
    ]
    words = Words.of(said)
    assert all(len(words.encode(text)) > 4 for text in said)
