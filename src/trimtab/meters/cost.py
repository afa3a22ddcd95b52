"""Cost: what a million answers cost on this machine, from the time they take and the machine's price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trimtab.maths.cost import money_usd, per_million
from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.run.timing import call_seconds
from trimtab.values.figure import Axis, Figure


class Cost(Meter):
    """Charges each answer the share of the machine that its threads hold, for as long as it takes."""

    figures: ClassVar[Mapping[str, Axis]] = {"usd_per_million": Axis("USD per million")}
    repeats = True

    def read(self, session: Remote, probe: Probe) -> Reading:
        """Return the price at a busy machine; nothing, with the reason in `details`, where it has no price."""
        machine = probe.machine
        if machine.usd_per_hour <= 0:
            return Reading((), details={"reason": f"machine {machine.name} has no usd_per_hour"})
        batches = probe.batches()
        seconds = call_seconds(session, batches, probe.seconds)
        share = min(1.0, probe.threads / machine.cores)
        samples = per_million(1.0, probe.batch) * share * money_usd(1.0, machine.usd_per_hour) * seconds
        conditions = {
            "batch": probe.batch,
            "threads": probe.threads,
            "usd_per_hour": machine.usd_per_hour,
            "share_of_machine": share,
            "price": machine.sources.get("usd_per_hour", "as given"),
        }
        value = float(samples.mean())
        figure = Figure(
            "usd_per_million", value, "USD per million", n=len(samples), origin="modelled", conditions=conditions
        )
        return Reading((figure,), samples=samples)
