"""A module that lives only in the user's process, such as a notebook's: `live:KEY`, made by the Python API."""

from __future__ import annotations

from pathlib import Path

from trimtab.errors import DataError
from trimtab.fit import module as artefact
from trimtab.sources import Source
from trimtab.values.model import Model
from trimtab.values.task import TaskView


class Live(Source):
    """Saves a registered module as data, with an exported program for workers."""

    def open(self, ref: str, scratch: Path, task: TaskView) -> Model:
        """Write the module registered under the key `ref` into `scratch`."""
        self._check(ref)
        build = artefact.live_build(ref)
        module = artefact.live(build)
        signature = artefact.signature(module, task)
        part = artefact.save(module, scratch / "main", signature, build, [], artefact.example(task))
        return Model({"main": part}, frontend=task.task.frontend())

    def fingerprint(self, ref: str) -> str:
        """Return the key, which is a hash of the module's structure and weights."""
        self._check(ref)
        return ref

    def _check(self, ref: str) -> None:
        if ref not in artefact.LIVE:
            raise DataError(f"live:{ref} is not in this process; give the module itself to trimtab.trim")
