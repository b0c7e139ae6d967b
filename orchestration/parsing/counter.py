"""The count of finished images, in a process of its own. It imports nothing: with torch that process takes 5 s to start."""


class Counter:
    """Counts finished images while shards are written; a Ray actor."""

    def __init__(self) -> None:
        self.counts = {"parsed": 0, "kept": 0}

    def add(self, kind: str, images: int) -> None:
        self.counts[kind] += images

    def value(self) -> dict[str, int]:
        return self.counts
