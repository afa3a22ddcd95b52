"""Quality: every metric of the task, from score rows that are kept for paired tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from trimtab.errors import DataError
from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.values.figure import Axis, Figure

BATCH = 64


class Quality(Meter):
    """Runs the whole split once and scores it; the names of its figures are those of the task's metrics.

    Metrics that compare two models, such as agreement, need rows of both and are left to the caller, as intervals
    are. In `details`, `undefined` lists metrics that these rows do not determine, and `stage_shares` how much of
    the split each stage of a cascade answered.
    """

    figures: ClassVar[Mapping[str, Axis]] = {}

    def read(self, session: Remote, probe: Probe) -> Reading:
        """Score the split in its order; raises DataError if it is empty."""
        task, scored, stages = probe.view.task, [], []
        for batch in probe.view.batches(probe.split, max(BATCH, probe.batch)):
            outputs = session.run(batch.inputs)
            scored.append(task.score(outputs, batch))
            stages.append(outputs.get("stage", np.zeros(0, np.int64)))
        if not scored:
            raise DataError(f"the {probe.split} split of {task.name} is empty; quality takes at least one example")
        rows = np.concatenate(scored)
        everything = np.ones((1, len(rows)))
        values = {m.name: float(m.reduce(rows, everything)[0]) for m in task.metrics if not m.paired}
        conditions = {"split": probe.split, "task": task.name}
        figures = tuple(
            Figure(m.name, values[m.name], m.unit, n=len(rows), conditions=conditions)
            for m in task.metrics
            if np.isfinite(values.get(m.name, np.nan))
        )
        undefined = [name for name, value in values.items() if not np.isfinite(value)]
        shares = np.bincount(np.concatenate(stages)) / len(rows)
        return Reading(figures, rows=rows, details={"undefined": undefined, "stage_shares": shares.tolist()})
