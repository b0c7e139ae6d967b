"""Random draws keyed by what they belong to, so that no image depends on the order or the process it is rendered in."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Colour = tuple[float, float, float]

# One number per kind of draw: the first entry of the key. Never renumber: it would change every image.
IDENTITY, OUTFIT, CAMERA, WALK, FRAME, SCENE, CLUTTER, CLOTH, PLAN, NOISE = range(1, 11)


def draws(*key: int) -> np.random.Generator:
    """A generator that is a pure function of `key` (non-negative integers), the same on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """One uniform draw from [low, high), as a Python float."""
    return low + (high - low) * float(rng.random())


def spread(rng: np.random.Generator, sigma: float, limit: float = 2.0) -> float:
    """A bell-shaped draw with standard deviation near `sigma`, cut at ±limit·sigma.

    The sum of uniform draws instead of a normal one: additions alone, so every libm gives the same value.
    """
    total = float(rng.random()) + float(rng.random()) + float(rng.random()) + float(rng.random()) - 2.0
    return max(-limit, min(limit, total * 1.7320508)) * sigma


def choose(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One key of `weights`, drawn in proportion to its value (in the order of the dict)."""
    mark = float(rng.random()) * sum(weights.values())
    for name, weight in weights.items():
        mark -= weight
        if mark < 0:
            return name
    return next(reversed(weights))


def jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    """`colour` (RGB in 0..1) moved by up to ±amount in brightness and ±amount/2 in each channel."""
    light = between(rng, -amount, amount)
    red, green, blue = (min(1.0, max(0.02, c + light + between(rng, -amount / 2, amount / 2))) for c in colour)
    return red, green, blue


def tint(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    """`colour` moved by up to ±amount in brightness and an eighth of that in each channel: walls, floors, cars."""
    light = between(rng, -amount, amount)
    red, green, blue = (min(1.0, max(0.02, c + light + between(rng, -amount / 8, amount / 8))) for c in colour)
    return red, green, blue


def smooth_noise(rng: np.random.Generator, height: int, width: int, rows: int, columns: int) -> Array:
    """Value noise in 0..1, float32 [height, width]: a rows × columns grid of draws, interpolated smoothly."""
    grid = rng.random((rows + 2, columns + 2), dtype=np.float32)
    y = np.arange(height, dtype=np.float32) * np.float32(rows / height)
    x = np.arange(width, dtype=np.float32) * np.float32(columns / width)
    i, j = y.astype(np.int64), x.astype(np.int64)
    v, u = y - i, x - j
    v, u = v * v * (3 - 2 * v), u * u * (3 - 2 * u)
    across = grid[:, j] + (grid[:, j + 1] - grid[:, j]) * u
    return across[i] + (across[i + 1] - across[i]) * v[:, None]
