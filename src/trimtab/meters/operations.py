"""Operations: how many parameters a model has and how many multiply-accumulates one example takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.values.figure import Axis, Figure


class Operations(Meter):
    """Reads the counts off the parts' facts; needs no session."""

    figures: ClassVar[Mapping[str, Axis]] = {"operations": Axis("MAC"), "parameters": Axis("1")}

    def read(self, session: Remote, probe: Probe) -> Reading:
        """Return the sums over parts: a decoder's or a cascade's true work depends on the example."""
        facts = [part.facts for part in probe.model.parts.values()]
        conditions = {"program": type(probe.model.program).__name__.lower(), "each part": "once, or once a step"}
        sums = {
            "operations": sum(f.operations * f.calls for f in facts),
            "parameters": sum(f.parameters for f in facts),
        }
        return Reading(
            tuple(
                Figure(name, float(value), self.figures[name].unit, n=1, conditions=conditions)
                for name, value in sums.items()
            )
        )
