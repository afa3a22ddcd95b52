"""Three small clouds of points: learnt in a second, so that every verb can be tried and tested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trimtab.tasks._data import Data
from trimtab.tasks._labelled import Labelled


@dataclass(frozen=True)
class Toy(Labelled):
    """Points around one centre for each class; `features` are float32.

    >>> Toy(examples=90).split("train")[0].inputs["features"].shape
    (4,)
    """

    examples: int = 600
    """In all splits together."""
    features: int = 4
    """Numbers in an example."""
    classes: int = 3
    """Each as frequent as the others."""
    spread: float = 1.0
    """Standard deviation around the centres, which lie about 3 from the middle."""

    def read(self) -> Data:
        """Draw the points; the seed is also that of the splits."""
        random = np.random.default_rng(self.seed)
        centres = random.standard_normal((self.classes, self.features))
        centres *= 3 / np.linalg.norm(centres, axis=1, keepdims=True)
        targets = np.arange(self.examples) % self.classes
        points = centres[targets] + self.spread * random.standard_normal((self.examples, self.features))
        ids = np.arange(self.examples).astype(str)
        labels = tuple(map(str, range(self.classes)))
        return Data({"features": points.astype(np.float32)}, ids, targets.astype(np.int64), labels)
