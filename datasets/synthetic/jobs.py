"""The jobs of rendering: who wears what, past which camera, in which split; a pure function of preset, logic and seed."""

from collections.abc import Callable
from dataclasses import dataclass

from datasets.errors import DataError
from datasets.synthetic.draws import PLAN, draws
from datasets.synthetic.outfits import Outfit, outfit, resembling
from datasets.synthetic.people import person
from datasets.synthetic.presets import Preset

TEST = 100_000  # the first test person's number: test persons do not depend on the number of train persons


@dataclass(frozen=True, slots=True)
class Job:
    """A walk of a split: the frames of one person in one outfit past one camera. size: (height, width) in pixels."""

    split: str
    seed: int
    person: int
    clothes: int  # the outfit's number; constant for persons that never change
    session: int
    camera: int
    frames: tuple[int, ...]
    wears: Outfit
    size: tuple[int, int]

    @property
    def person_name(self) -> str:
        """The person's label."""
        return f"t{self.person - TEST + 1:04d}" if self.person >= TEST else f"p{self.person + 1:04d}"

    @property
    def clothes_name(self) -> str:
        """The clothes label: outfits are numbered per person."""
        return f"o{self.clothes + 1}"

    @property
    def camera_name(self) -> str:
        """The camera's label."""
        return f"c{self.camera + 1}"

    @property
    def sequence_name(self) -> str:
        """The walk's label."""
        return f"{self.person_name}-{self.clothes_name}-{self.camera_name}-s{self.session + 1}"


def _never_changes(preset: Preset, place: int) -> bool:
    return preset.unchanging > 0 and place % preset.unchanging == preset.unchanging - 1


def _wardrobe(preset: Preset, seed: int, numbers: list[int]) -> dict[tuple[int, int], Outfit]:
    """All outfits by (person, outfit), each drawn for its person."""
    worn: dict[tuple[int, int], Outfit] = {}
    for place, number in enumerate(numbers):
        female = person(seed, number).female
        for one in range(1 if _never_changes(preset, place) else preset.outfits):
            others = [worn[number, earlier] for earlier in range(one)]
            worn[number, one] = _unlike(others, seed, number, one, female)
    return worn


def _unlike(others: list[Outfit], seed: int, number: int, one: int, female: bool) -> Outfit:
    """An outfit in other colours than the person's others, so that every change is visible."""
    worn = {(other.top_colour, other.bottom_colour) for other in others}
    for attempt in range(8):
        drawn = outfit(seed, number, one + 100 * attempt, female)
        if (drawn.top_colour, drawn.bottom_colour) not in worn:
            break
    return drawn


def _share(preset: Preset, seed: int, worn: dict[tuple[int, int], Outfit]) -> dict[tuple[int, int], Outfit]:
    """Makes pairs of persons of one sex nearly share an outfit, until the share `preset.shared` of outfits is paired."""
    rng = draws(seed, PLAN, 0)
    keys = [list(worn)[i] for i in rng.permutation(len(worn))]
    wanted = round(preset.shared * len(keys) / 2)
    shared = dict(worn)
    while keys and wanted:
        first = keys.pop()
        female = person(seed, first[0]).female
        second = next((k for k in keys if k[0] != first[0] and person(seed, k[0]).female == female), None)
        if second is not None:
            keys.remove(second)
            shared[second] = resembling(worn[first], seed, *second)
            wanted -= 1
    return shared


def _walks(preset: Preset, seed: int, number: int, session: int) -> list[int]:
    """The cameras of a session; the first session passes camera 0, PRCC's A."""
    rng = draws(seed, PLAN, 1 + number, session)
    order = [int(c) for c in rng.permutation(preset.cameras)]
    if session == 0:
        order.remove(0)
        order.insert(0, 0)
    return sorted(order[: preset.cameras_per_outfit])


def _ltcc(job: Job) -> list[tuple[str, tuple[int, ...]]]:
    """LTCC: the first frame of each walk is a query, the others are gallery."""
    return [("query", job.frames[:1]), ("gallery", job.frames[1:])]


def _prcc(job: Job) -> list[tuple[str, tuple[int, ...]]]:
    """PRCC: the gallery is camera A with the first outfit; query_same has the same outfit, query_diff another one."""
    if job.camera == 0:
        return [("gallery", job.frames)] if job.session == 0 else []
    if job.clothes > 0:
        return [("query_diff", job.frames)]
    return [("query_same", job.frames)]


LOGICS: dict[str, tuple[tuple[str, ...], Callable[[Job], list[tuple[str, tuple[int, ...]]]]]] = {
    "ltcc": (("query", "gallery"), _ltcc),
    "prcc": (("query_same", "query_diff", "gallery"), _prcc),
}


def make_jobs(preset: Preset, logic: str, seed: int) -> dict[str, list[Job]]:
    """The walks of every split, sorted by person, clothes and sequence.

    logic: a name of LOGICS, which divides the test persons' walks into query and gallery.
    Raises: DataError for an unknown logic.
    """
    if logic not in LOGICS:
        raise DataError(f"there is no split logic {logic!r} of the rendered data set; there are {', '.join(LOGICS)}")
    names, assign = LOGICS[logic]
    splits: dict[str, list[Job]] = {"train": _jobs(preset, seed, list(range(preset.train_persons)), 0.0)}
    splits |= {name: [] for name in names}
    for job in _jobs(preset, seed, [TEST + i for i in range(preset.test_persons)], preset.shared):
        for name, frames in assign(job):
            splits[name].append(_part(job, name, frames))
    order = {
        name: sorted(jobs, key=lambda job: (job.person_name, job.clothes_name, job.sequence_name))
        for name, jobs in splits.items()
    }
    return {name: jobs for name, jobs in order.items() if jobs}


def _part(job: Job, split: str, frames: tuple[int, ...]) -> Job:
    return Job(split, job.seed, job.person, job.clothes, job.session, job.camera, frames, job.wears, job.size)


def _jobs(preset: Preset, seed: int, numbers: list[int], shared: float) -> list[Job]:
    worn = _wardrobe(preset, seed, numbers)
    if shared:
        worn = _share(preset, seed, worn)
    jobs = []
    for place, number in enumerate(numbers):
        for session in range(preset.outfits):
            clothes = 0 if _never_changes(preset, place) else session
            for camera in _walks(preset, seed, number, session):
                frames = tuple(range(preset.frames))
                jobs.append(
                    Job(
                        "train",
                        seed,
                        number,
                        clothes,
                        session,
                        camera,
                        frames,
                        worn[number, clothes],
                        (preset.height, preset.width),
                    )
                )
    return jobs
