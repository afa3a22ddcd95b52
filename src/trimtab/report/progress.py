"""Progress of long work on stderr: what is being done, how many candidates, the best so far, the time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from trimtab.report.numbers import duration
from trimtab.search import Search
from trimtab.trimmer import Progress as Silent

LOG_EVERY_S = 5.0
TOLD_S = 5.0
"""Seconds of a step after which it tells how long it has to go."""


class Live(Silent):
    """A live line on a terminal; elsewhere one plain line for each thing begun."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        what = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True))
        columns = (SpinnerColumn(), what, BarColumn(20), TextColumn("{task.fields[best]}"), TimeElapsedColumn())
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not sys.stderr.isatty())
        self.line = self.bar.add_task("", total=1.0, best="")
        self.last, self.at = "", 0.0
        self.begun = (0.0, 1.0, 1.0)
        """When the present step was first heard of, how far it was, and how far it is."""

    def __enter__(self) -> Live:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def doing(self, what: str, share: float | None = None) -> None:
        """Show the step, with a bar and the time it has left where its share is known."""
        text = what + self._left(share)
        self.bar.update(self.line, description=text, completed=share or 0.0)
        self._log(text)

    def searched(self, search: Search, seconds_left: float) -> None:
        """Show how many candidates are done, the best of them, and the time left."""
        likely = [trial for trial in search.eligible() if trial.chance > 0.5]
        name = search.aim.objective
        best = ""
        if likely:
            trial = min(likely, key=search.price)
            times = search.aim.cost(search.bench.base_figures[name].value) / search.cost(trial)
            best = f"best {times:.1f}x in {name}, "
        text = f"{len(search.trials)} tried, {best}{max(0, seconds_left):.0f} s left"
        self.bar.update(self.line, best=text)
        self._log(text)

    def _left(self, share: float | None) -> str:
        """Return how long a step has to go at the pace so far; empty where that is not known."""
        now = time.monotonic()
        since, first, last = self.begun
        if share is None or share < last:
            far = 1.0 if share is None else share
            self.begun = (now, far, far)
            return ""
        self.begun = (since, first, share)
        if share == first or now - since < TOLD_S:
            return ""
        return f", {duration((now - since) * (1 - share) / (share - first))} to go"

    def _log(self, text: str) -> None:
        """Without a terminal: a line for each new kind of work, and one every few seconds of the same."""
        kind = text.partition(" ")[0]
        if not self.bar.disable or (kind == self.last and time.monotonic() - self.at < LOG_EVERY_S):
            return
        self.last, self.at = kind, time.monotonic()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
