"""Throughput: examples a second when they come in larger batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trimtab.maths.intervals import median_interval
from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.run.timing import BATCHES, call_seconds, known
from trimtab.values.figure import Axis, Figure

BATCH = 32


class Throughput(Meter):
    """Times calls of at least 32 examples inside the worker."""

    figures: ClassVar[Mapping[str, Axis]] = {"throughput_per_s": Axis("1/s", "higher")}
    repeats = True

    def read(self, session: Remote, probe: Probe) -> Reading:
        """Time for about `probe.seconds`; samples are examples a second, one for each call."""
        size = max(BATCH, probe.batch)
        batches = [batch for batch in probe.view.batches(probe.split, size, size * BATCHES) if len(batch) == size]
        batches = batches or list(probe.view.batches(probe.split, size, size))
        seconds = call_seconds(session, [batch.inputs for batch in batches], probe.seconds)
        samples = len(batches[0]) / seconds
        value, low, high = median_interval(samples, probe.confidence)
        figure = Figure(
            "throughput_per_s",
            value,
            "1/s",
            low=known(low),
            high=known(high),
            n=len(samples),
            conditions={"batch": len(batches[0]), "threads": probe.threads, "split": probe.split},
        )
        return Reading((figure,), samples=samples)
