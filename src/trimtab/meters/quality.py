"""Quality: every metric of the task, from score rows that are kept for paired tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.run.score import BATCH, score_rows
from trimtab.values.figure import Axis, Figure


class Quality(Meter):
    """Runs the whole split once and scores it; the names of its figures are those of the task's metrics.

    Metrics that compare two models, such as agreement, need rows of both and are left to the caller, as intervals
    are. In `details`, `undefined` lists metrics that these rows do not determine.
    """

    figures: ClassVar[Mapping[str, Axis]] = {}

    def read(self, session: Remote, probe: Probe) -> Reading:
        """Score the split in its order; raises DataError if it is empty."""
        task = probe.view.task
        rows, _ = score_rows(session, probe.view, probe.split, batch=max(BATCH, probe.batch))
        everything = np.ones((1, len(rows)))
        values = {m.name: float(m.reduce(rows, everything)[0]) for m in task.metrics if not m.paired}
        conditions = {"split": probe.split, "task": task.name}
        figures = tuple(
            Figure(m.name, values[m.name], m.unit, n=len(rows), conditions=conditions)
            for m in task.metrics
            if np.isfinite(values.get(m.name, np.nan))
        )
        undefined = [name for name, value in values.items() if not np.isfinite(value)]
        return Reading(figures, rows=rows, details={"undefined": undefined})
