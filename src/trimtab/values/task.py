"""What a model must do: examples, metrics and the sealed view that passes and the search hold."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, overload

from trimtab.errors import PromiseError, SealedSplit, UnknownName
from trimtab.values.figure import Better

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Floats = NDArray[np.float64]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """One example: what goes in, what should come out, and what it belongs to."""

    id: str
    inputs: Mapping[str, Array]
    """Arrays without a batch axis, prepared by the task."""
    target: Any = None
    cluster: str = ""
    """The resampling unit (document, user, clip); empty means that the example stands alone."""
    slices: Mapping[str, str] = field(default_factory=dict)
    """Declared groups, such as {"class": "7", "sex": "female"}."""


@dataclass(frozen=True)
class Batch:
    """Examples put together: arrays with a batch axis in front."""

    inputs: Mapping[str, Array]
    targets: Array | None
    ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(next(iter(self.inputs.values())).shape[0])


class Metric(ABC):
    """A number computed from score rows; direction and unit are not optional."""

    name: str
    better: Better
    unit: str
    paired: bool = False
    """True: `reduce` takes [model rows | base rows] side by side, as agreement does."""
    binary: bool = False
    """True: the mean of a column of zeros and ones, so exact tests for proportions apply."""

    @abstractmethod
    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Reduce rows[n, k] under weights[R, n] to one value for each of R weightings: float[R]."""

    def values(self, rows: Floats) -> Floats | None:
        """Return float[n], the example values whose weighted mean the metric is; None for a set metric."""
        return None

    def support(self, rows: Floats) -> Floats | None:
        """Return how many rows stand behind each part of a set metric (a class, a query), float[m]; None if unknown.

        A part with few rows may hide a loss that none of them shows: `verify` widens the interval by what it could be.
        """
        return None


class Task(ABC):
    """What the model must do. Subclasses are frozen dataclasses: their fields are the reference's arguments."""

    name: str
    objective: str
    """`cross_entropy`, `token_nll`, `mse`, ...: `fit/` maps it to a loss."""
    labels: tuple[str, ...] = ()
    class_weights: tuple[float, ...] | None = None

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that `score` supports."""

    @abstractmethod
    def split(self, name: Split) -> Sequence[Example]:
        """Return one split. Splits are disjoint and the same at every call."""

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Batch:
        """Put examples together, padding where needed."""

    @abstractmethod
    def score(self, outputs: Mapping[str, Array], batch: Batch) -> Floats:
        """Return sufficient statistics float[n, k], one row an example, in the batch's order."""

    def augment(self, batch: Batch, seed: int) -> Batch:
        """Return a randomly changed copy for training; the same seed gives the same change."""
        return batch

    def frontend(self) -> Mapping[str, Any]:
        """Return JSON for `Model.frontend`: how raw inputs become model inputs, and the labels."""
        return {"steps": [], "labels": list(self.labels)}

    def describe(self) -> Mapping[str, Any]:
        """Return JSON about the data: cleaning, augmentation, duplicates found, class balance."""
        return {}

    def metric(self, name: str) -> Metric:
        """Return the metric of that name; raises UnknownName, or PromiseError where there are no targets."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        known = [metric.name for metric in self.metrics]
        if self.objective == "none":
            raise PromiseError(
                f"{name} needs targets, and {self.name} has none: a table takes target='COLUMN', an .npz file an array "
                f"named target; without them there is {', '.join(known)}"
            )
        raise UnknownName("metric", name, known)

    def fingerprint(self, name: Split) -> str:
        """Return a sha256 of the split's content: identifiers, inputs and targets, in order."""
        return hash_examples(self.split(name))


def hash_examples(examples: Iterable[Example]) -> str:
    """Return a sha256 over identifiers, inputs and targets, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.id.encode())
        for key in sorted(example.inputs):
            array = example.inputs[key]
            digest.update(f"{key}{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
        digest.update(repr(example.target).encode())
    return digest.hexdigest()


class Lazy(Sequence[Example]):
    """Examples that are each made when they are asked for."""

    @abstractmethod
    def example(self, index: int) -> Example:
        """Make one, by its place from 0 on."""

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.example(range(len(self))[index])


@dataclass(frozen=True, eq=False)
class Drawn(Lazy):
    """Some examples of a split."""

    whole: Sequence[Example]
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def example(self, index: int) -> Example:
        """Make one."""
        return self.whole[self.places[index]]


@dataclass(frozen=True)
class TaskView:
    """The task as passes, meters and the search see it: splits that are not `allowed` raise SealedSplit."""

    task: Task
    allowed: frozenset[str] = frozenset({"train", "validation"})
    drawn: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Split -> places of the examples that stand for it; a split that is not named is whole."""

    def split(self, name: Split) -> Sequence[Example]:
        """Return an allowed split, or what is drawn of it."""
        if name not in self.allowed:
            raise SealedSplit(f"the {name} split of {self.task.name} is sealed here; it opens only for verification")
        whole = self.task.split(name)
        return Drawn(whole, self.drawn[name]) if name in self.drawn else whole

    def size(self, name: Split) -> int:
        """Return how many examples `split` gives."""
        return len(self.drawn[name]) if name in self.drawn else len(self.task.split(name))

    def largest(self, name: str) -> int:
        """Return the largest number of an input in any split, at least 0: a table of ids needs a row for each.

        It, `lengths` and `size` are all that is told of a sealed split.
        """
        found = (example.inputs[name].max(initial=0) for split in SPLITS for example in self.task.split(split))
        return max(map(int, found), default=0)

    def lengths(self, name: str, split: Split) -> list[int]:
        """Return the length of an input's first axis in each example of a split, sealed or not."""
        examples = self.split(split) if split in self.allowed else self.task.split(split)
        return [len(example.inputs[name]) for example in examples]

    def batches(self, name: Split, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield the split in order, in batches of at most `size` examples, `limit` examples in all."""
        examples = self.split(name)
        stop = len(examples) if limit is None else min(limit, len(examples))
        for start in range(0, stop, size):
            yield self.task.collate([examples[i] for i in range(start, min(start + size, stop))])
