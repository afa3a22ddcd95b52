"""Memory: the most that the worker ever held, and how much of it the model brought."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.values.figure import Axis, Figure


class Memory(Meter):
    """Reads the resident memory of a worker that has answered one batch, and nothing before it."""

    figures: ClassVar[Mapping[str, Axis]] = {"memory_mb": Axis("MB"), "memory_model_mb": Axis("MB")}
    fresh = True

    def read(self, session: Remote, probe: Probe) -> Reading:
        """Return the peak, and the peak above what interpreter and runtime took before loading."""
        for batch in probe.view.batches(probe.split, probe.batch, probe.batch):
            session.run(batch.inputs)
        usage = session.usage()
        peak, base = usage["peak_memory_mb"], usage["base_memory_mb"]
        conditions = {"batch": probe.batch, "threads": probe.threads}
        return Reading(
            (
                Figure("memory_mb", peak, "MB", n=1, conditions=conditions),
                Figure("memory_model_mb", max(0.0, peak - base), "MB", n=1, conditions=conditions),
            )
        )
