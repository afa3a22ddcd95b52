"""70,000 photographs of clothes, 28x28 grey pixels, enlarged and coloured as a net pretrained on ImageNet wants them.

The test split is the data's own 10,000 images. Training images are limited, so that a net can be fitted on two cores.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import CorruptFile, DataError
from trimtab.packages import Parcel, fetch_many
from trimtab.tasks._data import Array, Data
from trimtab.tasks._labelled import Labelled
from trimtab.tasks._splits import cut, drawn

MEMBERS = tuple(
    f"usr/share/datasets/fashion-mnist/{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
PARCEL = Parcel(
    "debian",
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    MEMBERS[0],
)
LABELS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True, kw_only=True)
class FashionMnist(Labelled):
    """Tell ten kinds of clothes apart: `image` is float32 [3, size, size], (pixel - 127) / 128."""

    size: int = 64
    """Pixels of a side, enlarged bilinearly from 28."""
    limit: int = 6000
    """Training images, drawn with the seed, as many of each class."""
    validation: int = 2000
    """Images to validate on, drawn beside them from the data's training images."""
    test: int = 0
    """Images of the data's test split that are used, drawn with the seed, as many of each class; 0: all."""
    flip: bool = True
    """Mirror half of the training images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 8 or self.limit < 10 or self.validation < 10:
            raise DataError(f"size is from 8, limit and validation from 10 images; got {self}")

    @property
    def augmentation(self) -> Mapping[str, Any]:
        """Mirroring."""
        return {"flip": True} if self.flip else {}

    def read(self) -> Data:
        """Read the images; downloads 31 MB on first use."""
        train, train_labels, test, test_labels = (read_idx(path) for path in fetch_many(PARCEL, MEMBERS))
        images, targets = np.concatenate([train, test]), np.concatenate([train_labels, test_labels])
        count = len(train)
        ids = np.array([f"{'train' if row < count else 'test'}-{row % count}" for row in range(len(targets))])
        return Data(
            {"image": images},
            ids,
            targets.astype(np.int64),
            LABELS,
            given=self._given(ids, targets, count),
            fit=lambda train: self._steps(),
        )

    def _given(self, ids: Array, targets: Array, count: int) -> Array:
        rest = count - self.limit - self.validation
        if rest < 0:
            raise DataError(f"limit and validation are at most {count} images together, got {self}")
        pieces = cut(np.arange(count), ids, targets, self.seed, (self.limit, self.validation, rest))
        given = np.full(len(ids), "", dtype="U10")
        given[pieces[0]], given[pieces[1]] = "train", "validation"
        tests = drawn(self.test, np.arange(count, len(ids)), ids, targets, self.seed)
        given[tests] = "test"
        return given

    def _steps(self) -> tuple[dict[str, Any], ...]:
        return (
            {"op": "shape", "input": "image", "shape": [28, 28]},
            {"op": "channels", "input": "image"},
            {"op": "resize", "input": "image", "size": [self.size, self.size]},
            {"op": "repeat", "input": "image", "times": 3},
            {"op": "scale", "input": "image", "mean": 127, "std": 128},
        )


def read_idx(path: Path) -> Array:
    """Read a file in the IDX format, gzipped: two zeros, the type (8: bytes), how many axes, their sizes, the numbers.

    Raises:
        CorruptFile: not such a file.
    """
    try:
        with gzip.open(path) as file:
            raw = np.frombuffer(file.read(), dtype=np.uint8)
        axes = int(raw[3])
        sizes = raw[4 : 4 + 4 * axes].view(">u4")
        return raw[4 + 4 * axes :].reshape(sizes)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise CorruptFile(f"{path} cannot be read, delete it and it comes anew: {error}") from error
