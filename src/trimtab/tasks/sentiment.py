"""Is a sentence friendly or not? Sentences of four domains, each rated by twenty people (Hutto and Gilbert 2014).

The mean rating lies between -4 and 4; its sign is the label. A sentence rated exactly 0 says neither and is left out,
and with `band` all those whose rating is nearer to 0, on which people did not agree. Sentences of one article or
product review stay together; of the movie reviews the data does not say which belong together. The domains together
show what a model does when its texts change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.errors import CorruptFile, DataError
from trimtab.packages import NESTED, Parcel, fetch
from trimtab.tasks._columns import as_text
from trimtab.tasks._data import Data
from trimtab.tasks._labelled import computed
from trimtab.tasks._texts import Texts

FILES: Mapping[str, str] = {
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
    "tweets": "tweets",
}
ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
LABELS = ("negative", "positive")


def parcel(domain: str) -> Parcel:
    """Return where the sentences of a domain lie: lines of identifier, mean rating and text."""
    member = f"{ARCHIVE}{NESTED}hutto_ICWSM_2014/{FILES[domain]}_GroundTruth.txt"
    return Parcel("pypi-sdist", "vaderSentiment", "3.3.2", SHA256, member)


@dataclass(frozen=True)
class Sentiment(Texts):
    """Tell negative sentences from positive ones: `input_ids` and `attention_mask`, int64 [T]."""

    domain: str = "movie"
    """`movie` (10,605 sentences of reviews), `amazon`, `nyt` or `tweets`."""
    band: float = 0.0
    """Sentences whose mean rating is at most so far from 0 are left out."""
    max_length: int = 64
    unique: bool = True
    shares: tuple[float, ...] = (0.5, 0.15, 0.35)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.domain not in FILES:
            raise DataError(f"domain is {self.domain!r}; it takes {', '.join(map(repr, FILES))}")
        if not 0 <= self.band < 4:
            raise DataError(f"band is a rating from 0 to below 4, got {self.band}")

    def read(self) -> Data:
        """Read the sentences that are left; downloads 2.5 MB on first use."""
        ids, ratings, texts = self._sentences
        kept = np.flatnonzero(np.abs(ratings) > self.band)
        targets = (ratings[kept] > 0).astype(np.int64)
        documents = np.array([name.partition("_")[0] for name in ids[kept]])
        together = documents if len(np.unique(documents)) < len(np.unique(ids[kept])) else None
        return Data({"text": texts[kept]}, ids[kept], targets, LABELS, clusters=together, fit=self.steps)

    def describe(self) -> Mapping[str, Any]:
        """Return JSON: as any task of texts, and how many sentences were left out as neutral."""
        ratings = self._sentences[1]
        neutral = int((np.abs(ratings) <= self.band).sum())
        return {**super().describe(), "ratings": {"read": len(ratings), "neutral": neutral, "band": self.band}}

    @computed
    def _sentences(self) -> tuple[Any, Any, Any]:
        path = fetch(parcel(self.domain))
        try:
            lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            names, ratings, texts = zip(*lines, strict=True)
            return np.array(names), np.array(ratings, dtype=np.float64), as_text(texts)
        except (OSError, ValueError) as error:
            raise CorruptFile(f"{path} cannot be read, delete it and it comes anew: {error}") from error
