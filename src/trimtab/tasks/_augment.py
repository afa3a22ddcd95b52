"""Small movements of images for training, in numpy alone: the same seed always gives the same change."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def moved(images: Array, seed: int, shift: float = 0, degrees: float = 0, flip: bool = False) -> Array:
    """Shift each image by up to `shift` pixels, turn it by up to `degrees`, mirror it half of the time.

    Takes and gives [n, C, H, W]. Pixels are interpolated bilinearly; what comes in from outside repeats the edge.
    """
    random = np.random.default_rng(seed)
    count, _, height, width = images.shape
    angle = np.deg2rad(random.uniform(-degrees, degrees, (count, 1, 1)))
    down, right = random.uniform(-shift, shift, (2, count, 1, 1))
    mirror = np.where(random.random((count, 1, 1)) < 0.5, -1.0, 1.0) if flip else np.ones((count, 1, 1))
    y, x = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    rows = np.cos(angle) * y - np.sin(angle) * x * mirror + down + (height - 1) / 2
    columns = np.sin(angle) * y + np.cos(angle) * x * mirror + right + (width - 1) / 2
    return _sampled(images, np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))


def _sampled(images: Array, rows: Array, columns: Array) -> Array:
    """Read images[n, C, H, W] at the fractional places rows[n, H, W], columns[n, H, W]."""
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    bottom, right = np.minimum(top + 1, images.shape[2] - 1), np.minimum(left + 1, images.shape[3] - 1)
    each = np.arange(len(images))[:, None, None]
    pixels = np.moveaxis(images, 1, -1)
    lower, across = (rows - top)[..., None].astype(images.dtype), (columns - left)[..., None].astype(images.dtype)
    above = pixels[each, top, left] * (1 - across) + pixels[each, top, right] * across
    below = pixels[each, bottom, left] * (1 - across) + pixels[each, bottom, right] * across
    return np.ascontiguousarray(np.moveaxis(above * (1 - lower) + below * lower, -1, 1))
