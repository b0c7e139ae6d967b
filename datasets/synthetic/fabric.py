"""Cloth: patterns and folds as small textures, front half and back half side by side."""

import numpy as np

from datasets.synthetic.draws import CLOTH, Array, Colour, between, draws, smooth_noise
from datasets.synthetic.outfits import Outfit


def _stripes(size: int, period: int, share: float) -> Array:
    return ((np.arange(size) % period) < period * share).astype(np.float32)


def _pattern(outfit: Outfit, rows: int, columns: int) -> Array:
    """Share of the second colour, float32 [rows, 2 · columns]."""
    rng = draws(outfit.fabric)
    mask = np.zeros((rows, 2 * columns), np.float32)
    period = max(4, int(rows * between(rng, 0.10, 0.24)))
    share = between(rng, 0.3, 0.6)
    if outfit.pattern == "striped":
        mask += _stripes(rows, period, share)[:, None]
    elif outfit.pattern == "pinstriped":
        mask += _stripes(2 * columns, max(4, columns // 5), 0.35) * np.float32(0.7)
    elif outfit.pattern == "checked":
        mask += 0.5 * _stripes(rows, period, 0.5)[:, None] + 0.5 * _stripes(2 * columns, max(4, period * 3 // 4), 0.5)
    elif outfit.pattern == "dotted":
        step = max(4, rows // 7)
        y, x = np.arange(rows)[:, None] % step - step / 2, np.arange(2 * columns) % step - step / 2
        mask += (x * x + y * y < step * step * 0.09).astype(np.float32)
    elif outfit.pattern == "printed":
        top, height = between(rng, 0.15, 0.3), between(rng, 0.12, 0.35)
        left = between(rng, 0.15, 0.4)
        mask[int(rows * top) : int(rows * (top + height)), int(columns * left) : int(columns * (1 - left))] = 1
        if rng.random() < 0.4:
            mask[:, columns:] = mask[:, :columns]
    elif outfit.pattern == "two-tone":
        edge = int(rows * between(rng, 0.25, 0.6))
        mask[edge:] = 1 if rng.random() < 0.5 else mask[edge:]
        mask[:edge] = 1 - mask[-1]
    elif outfit.pattern == "camouflage":
        mask += (smooth_noise(rng, rows, 2 * columns, 7, 9) > 0.55).astype(np.float32)
    return mask


def folds(walk: tuple[int, ...], part: int, rows: int, columns: int, depth: float) -> Array:
    """Light and dark of creases, around 1, float32 [rows, 2 · columns]: new ones for each walk."""
    rng = draws(*walk, CLOTH, part)
    creases = smooth_noise(rng, rows, 2 * columns, 6, 9) + smooth_noise(rng, rows, 2 * columns, 11, 5)
    return 1 + np.float32(depth) * (creases - 1)


def _mix(base: Colour, second: Colour, mask: Array) -> Array:
    first = np.array(base, np.float32)[:, None, None]
    return first + mask * (np.array(second, np.float32)[:, None, None] - first)


def trunk(outfit: Outfit, walk: tuple[int, ...], size: int) -> Array:
    """The upper garment's texture, float32 [3, size, 2 · size/2]."""
    rows, columns = size, size // 2
    image = _mix(outfit.colour, outfit.second, _pattern(outfit, rows, columns))
    middle = columns // 2
    half = max(1, columns // 12)
    if outfit.top in ("jacket", "coat", "vest"):  # worn open over something else, or closed with a seam
        if outfit.loose > 0.65:
            open_half = max(1, int(columns * 0.13))
            image[:, :, middle - open_half : middle + open_half] = np.array(outfit.inner, np.float32)[:, None, None]
        else:
            image[:, :, middle - half : middle + half] *= np.float32(0.6)
    elif outfit.top in ("shirt", "polo shirt", "blouse"):
        end = rows if outfit.top == "shirt" else rows // 4
        image[:, :end, middle : middle + half] *= np.float32(0.72)
    elif outfit.top == "hoodie":
        image[:, int(rows * 0.62) : int(rows * 0.66), columns // 4 : -columns // 4] *= np.float32(0.75)
        image[:, : rows // 5, columns + columns // 4 : 2 * columns - columns // 4] *= np.float32(0.78)
    elif outfit.top == "jumpsuit":
        image[:, int(rows * 0.72) : int(rows * 0.78)] *= np.float32(0.6)
    return image * folds(walk, 0, rows, columns, 0.30)


def sleeve(outfit: Outfit, walk: tuple[int, ...], size: int) -> Array:
    """The sleeves' texture: stripes and checks continue on them, prints do not."""
    mask = _pattern(outfit, size, size // 2)
    if outfit.pattern in ("printed", "two-tone"):
        mask[:] = 0
    return _mix(outfit.colour, outfit.second, mask) * folds(walk, 1, size, size // 2, 0.32)


def lower(outfit: Outfit, walk: tuple[int, ...], size: int) -> Array:
    """Trousers', skirts' or the dress's texture, rows from the waist to the ground."""
    rows, columns = size, size // 2
    if outfit.top in ("dress", "jumpsuit"):
        mask = _pattern(outfit, rows, columns)
        image = _mix(outfit.colour, outfit.second, mask if outfit.pattern not in ("printed", "two-tone") else mask * 0)
    else:
        image = _mix(outfit.lower, outfit.second, np.zeros((rows, 2 * columns), np.float32))
    if outfit.bottom == "jeans":  # washed thighs and knees
        fade = np.arange(rows, dtype=np.float32)[:, None] / np.float32(rows)
        image += np.maximum(0, np.float32(0.10) - np.abs(fade - np.float32(0.4)) * np.float32(0.3))
    elif outfit.bottom == "joggers":
        image[:, :, columns // 2 - 1 : columns // 2 + 1] *= np.float32(1.5)
    return image * folds(walk, 2, rows, columns, 0.30)
