"""640 spoken vowels of nine men, as series of 7 to 29 steps: the smallest real task for a net that reads sequences.

Kudo, Toyama and Shimbo (1999), Pattern Recognition Letters 20:1103: each step holds 12 coefficients of a linear
prediction of the sound. Who speaks? Train (270, a fifth of which validates) and test (370) are the data's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.errors import CorruptFile
from trimtab.packages import Parcel, fetch
from trimtab.tasks._data import Array, Data, fit_sequence
from trimtab.tasks._labelled import Labelled

FILES = {"train": "TRAIN", "test": "TEST"}
SHA256 = "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409"


@dataclass(frozen=True, kw_only=True)
class JapaneseVowels(Labelled):
    """Tell nine speakers apart: `sequence` is float32 [T, 12], standardised, and `length` int64."""

    shares: tuple[float, ...] = (0.32, 0.08, 0.6)

    def read(self) -> Data:
        """Read the series; downloads 6 MB on first use."""
        parts = {split: read_series(fetch(parcel(file))) for split, file in FILES.items()}
        series = [one for found, _ in parts.values() for one in found]
        targets = np.concatenate([speakers for _, speakers in parts.values()])
        given = np.repeat(list(parts), [len(found) for found, _ in parts.values()])
        column = np.empty(len(series), dtype=object)
        column[:] = series
        ids = np.array([f"{split}-{row}" for row, split in enumerate(given)])
        labels = tuple(map(str, range(1, 10)))
        return Data({"series": column}, ids, targets, labels, given=given, fit=lambda t: fit_sequence(t, ["series"]))


def parcel(part: str) -> Parcel:
    """Return where the series of `TRAIN` or `TEST` travel."""
    member = f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts"
    return Parcel("pypi", "aeon", "1.6.0", SHA256, member)


def read_series(path: Path) -> tuple[list[Array], Array]:
    """Read a .ts file: each series [T, D] and its class, int64[n] from 0, in the order the header names classes.

    A line holds the channels, each a list of T numbers, then the class, all parted by colons.

    Raises:
        CorruptFile: not such a file.
    """
    try:
        head, mark, body = path.read_text().partition("@data\n")
        classes = next(line.split()[2:] for line in head.splitlines() if line.lower().startswith("@classlabel true"))
        lines = [line.split(":") for line in body.splitlines() if line.strip()]
        series = [np.array([each.split(",") for each in line[:-1]], dtype=np.float32).T for line in lines]
        targets = np.array([classes.index(line[-1].strip()) for line in lines], dtype=np.int64)
        if not mark or len({one.shape[1] for one in series}) != 1:
            raise ValueError("its series have no channels, or not all as many")
    except (OSError, ValueError, StopIteration) as error:
        raise CorruptFile(f"{path} is no file of series (.ts): {error}") from error
    return series, targets
