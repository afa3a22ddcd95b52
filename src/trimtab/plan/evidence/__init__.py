"""Published measurements that the planner is held against: one file reads one table, or a few of one source.

A module has `FILES`, the names of its tables, and `cases(table, rows)`, which yields for each row what was measured and
what the planner says of it, or the reason why it says nothing. Adding a table is adding a file.
"""

from __future__ import annotations

import csv
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from trimtab.errors import DataError, TrimtabError
from trimtab.plan.training import Training

Row = Mapping[str, str]
GUESSED = "guessed-layout"
"""The regime of trainings whose layout is not told, so that it is the planner's own."""


@dataclass(frozen=True)
class Case:
    """One measured value beside the planner's."""

    table: str
    """What is scored together, by the name of the file and what was measured."""
    quantity: str
    label: str
    system: str
    """A model on a kind of chip: its rows are fitted on, or held out, together."""
    regime: str
    """What intervals are told apart by."""
    observed: float
    predicted: float
    ideal: float
    """The value at the chips' peak, from the same work: what naive baselines scale."""
    chip: str
    grows: bool = False
    """A rate, which falls as the time grows; else a time, or something like it."""

    def __post_init__(self) -> None:
        if not (0 < self.observed < math.inf and math.isfinite(self.predicted)):
            raise ValueError(f"{self.label}: measured {self.observed}, predicted {self.predicted}")

    @property
    def error(self) -> float:
        """Signed, as a share of what was measured."""
        return self.predicted / self.observed - 1


@dataclass(frozen=True)
class Skipped:
    """A row that is not scored."""

    reason: str


class NotPlanned(TrimtabError):
    """Raised of a row that the planner cannot plan for; its message is the reason."""


Found = Iterator[Case | Skipped]


def modules() -> Iterator[ModuleType]:
    """Yield every module of this folder, which are imported now."""
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not found.name.startswith("_"):
            yield importlib.import_module(f"{__name__}.{found.name}")


def read(folder: Path, only: Sequence[str] = ()) -> Iterator[tuple[str, Case | Skipped]]:
    """Yield (file, case) of every table in a folder, or of some; what no module knows is skipped with a reason.

    Raises:
        DataError: there is no table, or one lacks a column or has a number that cannot be read: says where.
    """
    known = {name: module for module in modules() for name in module.FILES}
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise DataError(f"no tables (*.csv) in {folder}; the names that are known: {', '.join(sorted(known))}")
    for path in paths:
        if only and not path.name.startswith(tuple(only)):
            continue
        rows = read_rows(path)
        if path.name in known:
            yield from ((path.name, one) for one in _cases(known[path.name], path, rows))
        else:
            yield from ((path.name, Skipped(f"{path.name} holds no quantity that is planned")) for _ in rows)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a table, cells that are missing as empty; raises DataError where it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"table {path} cannot be read: {error}") from error


def _cases(module: ModuleType, path: Path, rows: list[Row]) -> Iterator[Case | Skipped]:
    try:
        yield from module.cases(path.stem, rows)
    except KeyError as error:
        raise DataError(f"{path} lacks the column {error}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: {error}") from error


def by_row(read_row: Callable[[str, Row], Iterator[Case | Skipped]]) -> Callable[[str, Sequence[Row]], Found]:
    """Make a reader of tables of a reader of rows: what is not planned, or cannot be read, is skipped with a reason.

    A table of which no row can be read is not what its name says: that is a ValueError, which names the first line.
    """

    def cases(table: str, rows: Sequence[Row]) -> Found:
        unread: list[ValueError] = []
        for line, row in enumerate(rows, 2):
            try:
                yield from read_row(table, row)
            except TrimtabError as reason:
                yield Skipped(str(reason))
            except ZeroDivisionError:
                yield Skipped("degrees of parallelism that its chips cannot have")
            except (ValueError, TypeError, AttributeError) as error:
                unread.append(ValueError(f"line {line}: {error}"))
                yield Skipped(f"{table}, line {line}: {error}")
        if unread and len(unread) == len(rows):
            raise unread[0]

    return cases


def known(words: Mapping[str, str], text: str, what: str) -> str:
    """Return what a table's word stands for; raises NotPlanned for one that is not known."""
    found = words.get(text.strip().lower())
    if found is None:
        raise NotPlanned(f"{what} {text!r} is not known")
    return found


def whole(text: str, default: int = 1) -> int:
    """Return the whole number that a cell begins with; `default` where it holds none."""
    first = (text or "").strip().split(" ")[0]
    return int(float(first)) if first and first.lower() not in ("n/a", "na", "-") else default


def system_of(job: Training) -> str:
    """Return the system of a training: which model on which chip, whatever table tells it."""
    return f"{job.arch.layers}x{job.arch.hidden}-{job.chip.name}"
