"""Throughput: examples a second when they come in larger batches.

Batches are in the split's order, as requests come, not sorted by length; each is padded to its longest example, and the
conditions state which share is padding. A block goes through eight of them, or as few as last four seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trimtab.maths.intervals import median_interval
from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.run.timing import call_seconds, known, real_batches, shape_conditions
from trimtab.values.figure import Axis, Figure

BATCH = 32
LONGEST_S = 4.0
"""Of a block, calls that warm up included."""


class Throughput(Meter):
    """Times calls of at least 32 examples inside the worker."""

    figures: ClassVar[Mapping[str, Axis]] = {"throughput_per_s": Axis("1/s", "higher")}
    repeats = True

    def read(self, session: Remote, probe: Probe) -> Reading:
        """Time for about `probe.seconds`; samples are examples a second, one for each call."""
        batches = real_batches(probe.view, probe.split, max(BATCH, probe.batch))
        if probe.example_s:
            batches = batches[: max(1, int(LONGEST_S / (2 * max(BATCH, probe.batch) * probe.example_s)))]
        seconds = call_seconds(session, batches, probe.seconds)
        size = len(next(iter(batches[0].values())))
        samples = size / seconds
        value, low, high = median_interval(samples, probe.confidence)
        figure = Figure(
            "throughput_per_s",
            value,
            "1/s",
            low=known(low),
            high=known(high),
            n=len(samples),
            conditions={
                "batch": size,
                **shape_conditions(batches),
                "order": "as in the split",
                "threads": probe.threads,
                "split": probe.split,
            },
        )
        return Reading((figure,), samples=samples)
