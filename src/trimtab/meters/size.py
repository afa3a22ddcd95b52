"""Size: what the model takes on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.values.figure import Axis, Figure


class Size(Meter):
    """Adds up the files of every part; needs no session."""

    figures: ClassVar[Mapping[str, Axis]] = {"size_mb": Axis("MB")}

    def read(self, session: Remote, probe: Probe) -> Reading:
        """Return megabytes (1e6 bytes); a file that two parts share counts once."""
        folders = {part.path.resolve() for part in probe.model.parts.values()}
        files = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
        return Reading((Figure("size_mb", sum(path.stat().st_size for path in files) / 1e6, "MB", n=1),))
