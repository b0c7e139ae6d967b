"""From the painted scene to the sensor: light, cast, contrast, blur, noise."""

import numpy as np

from datasets.synthetic.draws import Array, Colour


def blur(image: Array, variance: float) -> Array:
    """Binomial blur of about `variance` (pixels²): three taps, spread further apart where it is strong."""
    while variance > 0.02:
        step = 1 if variance < 1.0 else 2 if variance < 5.0 else 3
        share = min(0.25, variance / (2 * step * step))
        for axis in (1, 2):
            image = _three_taps(image, axis, step, share)
        variance -= 2 * share * step * step
    return image


def _three_taps(image: Array, axis: int, step: int, share: float) -> Array:
    padding = [(0, 0), (0, 0), (0, 0)]
    padding[axis] = (step, step)
    padded = np.pad(image, padding, mode="edge")
    size = image.shape[axis]
    before, after = (padded[:, a : a + size] if axis == 1 else padded[:, :, a : a + size] for a in (0, 2 * step))
    return image * np.float32(1 - 2 * share) + (before + after) * np.float32(share)


def smear(image: Array, pixels: float) -> Array:
    """Motion blur along the rows."""
    return _three_taps(image, 2, max(1, round(pixels)), 0.25) if pixels >= 0.5 else image


def expose(image: Array, gain: float, cast: Colour, contrast: float) -> Array:
    """Light and colour cast, then contrast about the middle."""
    image = image * np.array([gain * c for c in cast], np.float32)[:, None, None]
    image -= np.float32(0.45)
    image *= np.float32(contrast)
    image += np.float32(0.45)
    return image


def grain(image: Array, rng: np.random.Generator, amount: float) -> Array:
    """Sensor noise: most of it brightness, some of it colour. Sums of random bytes, exact everywhere."""
    height, width = image.shape[1:]
    raw = np.frombuffer(rng.bytes(4 * height * width), np.uint8).reshape(4, height, width).astype(np.float32)
    luma, chroma = raw[0] - np.float32(127.5), raw[1:] - np.float32(127.5)
    luma[1:] += luma[:-1] * np.float32(0.5)  # lines of a cheap sensor are correlated
    image += (luma + np.float32(0.6) * chroma) * np.float32(amount / 80)
    return image
