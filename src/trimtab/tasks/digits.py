"""1,797 handwritten digits of 8x8 pixels that come with scikit-learn: real data without a download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits

from trimtab.tasks._data import Data
from trimtab.tasks._labelled import Labelled

STEPS = (
    {"op": "shape", "input": "image", "shape": [8, 8]},
    {"op": "channels", "input": "image"},
    {"op": "scale", "input": "image", "by": 1 / 16},
)


@dataclass(frozen=True, kw_only=True)
class Digits(Labelled):
    """Tell ten digits apart: `image` is float32 [1, 8, 8] in 0..1; 800 train, 247 validate, 750 test."""

    shares: tuple[float, ...] = (0.445, 0.1375, 0.4175)

    def read(self) -> Data:
        """Read the images, pixels 0..16."""
        digits = load_digits()
        ids = np.arange(len(digits.target)).astype(str)
        labels = tuple(map(str, range(10)))
        images, targets = digits.images.astype(np.uint8), digits.target.astype(np.int64)
        return Data({"image": images}, ids, targets, labels, fit=lambda train: STEPS)
