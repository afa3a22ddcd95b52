"""Every error that trimtab raises on purpose.

    TrimtabError
    ├── UsageError            the request cannot be right                    exit status 2
    │   ├── RecipeError         a recipe that does not parse or does not fit
    │   ├── PromiseError        a promise that does not parse, or the wrong way round
    │   ├── UnknownName         no such pass, runtime, task, ...: says the near name
    │   ├── MissingExtra        a library that is not installed: says the pip line
    │   └── DataError           the user's data cannot be used: says where and why
    └── (failures)            the request is fine, its execution is not      exit status 1
        ├── UnsafeFile          a model file that may run code or leave its folder
        ├── CorruptFile         a hash, a length or a format that does not match
        ├── SealedSplit         the test split was asked for before verification
        ├── Busy                another process holds the run folder
        ├── OutputError         the output folder cannot be written
        ├── Refused             a pass or runtime cannot take this model: says why
        └── SessionError        a worker failed
            ├── WorkerDied        crashed, or was killed
            ├── WorkerHung        went past its time limit
            └── WorkerMemory      went past its memory limit

A message says what came, what fits, and how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrimtabError(Exception):
    """Base of all errors raised on purpose."""

    exit_status = 1


class UsageError(TrimtabError):
    """The request cannot be right."""

    exit_status = 2


class RecipeError(UsageError):
    """A recipe that does not parse, or whose steps do not fit."""


class PromiseError(UsageError):
    """A promise that does not parse, names no metric, or points the wrong way."""


class UnknownName(UsageError):
    """A name that is in no registry."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        super().__init__(f"unknown {kind} {name!r}{suggest(name, self.known)}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, tuple[str, ...]]]:
        """Let it be raised again in another process, which pickles what it was made of."""
        return type(self), (self.kind, self.name, self.known)


class MissingExtra(UsageError):
    """A library that this feature needs is not installed."""


class DataError(UsageError):
    """The user's data cannot be used as it is."""


class UnsafeFile(TrimtabError):
    """A model file that could run code, or reach outside its folder."""


class CorruptFile(TrimtabError):
    """A file whose hash, length or format is not what it should be."""


class SealedSplit(TrimtabError):
    """The test split was asked for by something that may not see it."""


class Busy(TrimtabError):
    """Another process holds this run folder."""


class OutputError(TrimtabError):
    """The output folder cannot be written."""


class Refused(TrimtabError):
    """A pass or a runtime cannot take this model on this machine."""


class SessionError(TrimtabError):
    """A worker process failed."""


class WorkerDied(SessionError):
    """The worker crashed or was killed."""


class WorkerHung(SessionError):
    """The worker went past its time limit."""


class WorkerMemory(SessionError):
    """The worker went past its memory limit."""


def suggest(name: str, known: Iterable[str]) -> str:
    """End a sentence with the nearest known name, or with all of them.

    >>> suggest("prun", ["prune", "quantize"])
    '; did you mean prune?'
    >>> suggest("xyz", ["prune", "quantize"])
    '; known: prune, quantize'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(names) or 'none'}"


def one_line(error: BaseException) -> str:
    """Return an error's first line, at most 300 characters."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:300]
