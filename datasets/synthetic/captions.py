"""One sentence per identity and one per outfit, for text-image methods."""

from datasets.synthetic.outfits import WHOLE_BODY, Outfit
from datasets.synthetic.people import Person

_STYLES = {
    "bald": "a bald head",
    "buzz": "a {} buzz cut",
    "short": "short {} hair",
    "quiff": "a {} quiff",
    "curly": "curly {} hair",
    "bob": "chin-length {} hair",
    "long": "long {} hair",
    "ponytail": "a {} ponytail",
    "bun": "{} hair in a bun",
}
_BEARDS = {"stubble": "stubble", "moustache": "a moustache", "goatee": "a goatee", "full": "a full beard"}
_GLASSES = {"thin": "thin glasses", "thick": "thick-rimmed glasses"}


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def describe_person(person: Person) -> str:
    """A sentence on what stays: body, hair, face, gait; without clothes."""
    middle = 1.65 if person.female else 1.78
    tall = "tall " if person.stature > middle + 0.05 else "short " if person.stature < middle - 0.05 else ""
    build = "heavily built " if person.build > 0.6 else "slim " if person.build < -0.5 else ""
    kind = "woman" if person.female else "man"
    features = [_STYLES[person.hair_style].format(person.hair_name)]
    features += [words[name] for words, name in ((_BEARDS, person.beard), (_GLASSES, person.glasses)) if name in words]
    manner = []
    if person.stoop > 0.08:
        manner.append("stooping")
    if person.stride > 1.0:
        manner.append("taking long steps")
    elif person.stride < 0.7:
        manner.append("taking short steps")
    if person.swing > 1.05:
        manner.append("swinging the arms")
    gait = f", {_listed(manner)} while walking" if manner else ""
    return f"{_article(tall + build + kind).capitalize()} of {person.skin_name} skin with {_listed(features)}{gait}."


def describe_outfit(outfit: Outfit) -> str:
    """A sentence on what changes: garments, colours, patterns, shoes, bag and hat."""
    pattern = f"{outfit.pattern} " if outfit.pattern != "plain" else ""
    top = _article(f"{outfit.top_colour} {pattern}{outfit.top}")
    worn = [top]
    if outfit.top not in WHOLE_BODY:
        lower = f"{outfit.bottom_colour} {outfit.bottom}"
        worn.append(_article(lower) if outfit.bottom.endswith("skirt") else lower)
    worn.append(f"{outfit.shoe_colour} {outfit.shoes}")
    worn += ["a scarf"] if outfit.scarf else []
    worn += ["gloves"] if outfit.gloves else []
    worn += [f"a {outfit.hat}"] if outfit.hat != "none" else []
    worn += ["sunglasses"] if outfit.sunglasses else []
    worn += [_article(f"{outfit.bag_colour} {outfit.bag}")] if outfit.bag != "none" else []
    return f"{_listed(worn).capitalize()}."
