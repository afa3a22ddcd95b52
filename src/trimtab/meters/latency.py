"""Latency: how long one call takes, as its median and its 90th percentile, on real inputs of the split.

Of a model that takes another way for some examples (a cascade, an early exit) it is the mean over many examples, and
the conditions say so: the median would hide those that go the long way.

Texts and sequences that come alone are as long as they are: one from each eighth by length, unpadded unless the task
pads; the conditions state lengths and padding. Higher percentiles are left out: a block has too few calls to bound
them. Intervals are free of any distribution, but calls of one block are not independent, so `trimtab.race` replaces
them by intervals over blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trimtab.maths.intervals import mean_interval, quantile_interval
from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.run.timing import call_seconds, known, shape_conditions
from trimtab.values.figure import Axis, Figure

MEDIAN = 0.5
QUANTILES = {"latency_ms": MEDIAN, "latency_p90_ms": 0.9}


class Latency(Meter):
    """Times whole calls inside the worker, cycling over several batches of the split."""

    figures: ClassVar[Mapping[str, Axis]] = {name: Axis("ms") for name in QUANTILES}
    repeats = True

    def read(self, session: Remote, probe: Probe) -> Reading:
        """Time for about `probe.seconds`; samples are milliseconds a call."""
        batches = probe.batches()
        samples = 1e3 * call_seconds(session, batches, probe.seconds)
        conditions = {
            "batch": probe.batch,
            **shape_conditions(batches),
            "threads": probe.threads,
            "split": probe.split,
            "confidence": probe.confidence,
        }
        figures = []
        for name, quantile in QUANTILES.items():
            value, low, high = quantile_interval(samples, quantile, probe.confidence)
            said = conditions
            if probe.varies and quantile == MEDIAN and len(samples) > 1:
                value, low, high = mean_interval(samples, probe.confidence)
                said = conditions | {"statistic": "mean"}
            figures.append(Figure(name, value, "ms", known(low), known(high), len(samples), conditions=said))
        return Reading(tuple(figures), samples=samples)
