"""Workers on another machine: `--on ssh:user@host:2222` trains here and measures there, for a laptop and an edge box.

Messages are those of a local worker, through `trimtab.run.keeper` over there. A model's folder is sent once, by its
content, and only data travels: no code, and no pickles.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np

from trimtab.errors import Refused
from trimtab.run import wire
from trimtab.run.address import LOST, Address
from trimtab.run.client import RuntimeLike, Worker, named
from trimtab.run.keeper import SIGNALLED, content
from trimtab.values.machine import Machine

SLOWEST_BYTES_S = 250_000.0
"""Bytes a second that a connection must reach for a model to be sent before time is up."""


class RemoteWorker(Worker):
    """A worker over ssh; the same session for meters as one that runs here."""

    def __init__(self, address: Address, threads: int = 1, seconds: float = 60.0, label: str = "worker") -> None:
        command = address.command("-m", "trimtab.run.keeper", str(threads))
        super().__init__(threads, seconds, f"{label} on {address.host}", command)

    def load(self, folder: Path, runtime: RuntimeLike, machine: Machine, memory_limit_mb: float = 0.0) -> None:
        """Send the folder, unless the machine has it, and load it there; raises as `Worker.load`."""
        _check_code(folder)
        about = {"machine": machine.to_json(), "memory_limit_mb": memory_limit_mb}
        self._call("load", {"folder": self._sent(folder), **named(runtime), **about}, {})

    def pause(self) -> None:
        """Stop the process there; once this returns, it takes no processor time."""
        if self.alive and not self._paused:
            self._call("pause", {}, {})
            self._paused = True

    def resume(self) -> None:
        """Let it go on."""
        if self._paused and self.alive:
            with contextlib.suppress(OSError):  # a lost connection shows at the next call
                self._send(wire.pieces({"command": "resume"}, {}))
        self._paused = False

    def _sent(self, folder: Path) -> str:
        """Return the folder's path over there."""
        files = content(folder)
        key = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        found = self._call("have", {"key": key}, {})[0]["folder"]
        if found:
            return str(found)
        for name in files:
            array = np.fromfile(folder / name, np.uint8)
            self._call("file", {"key": key, "name": name}, {"bytes": array}, more=array.nbytes / SLOWEST_BYTES_S)
        return str(self._call("seal", {"key": key, "content": files}, {})[0]["folder"])

    def _ending(self, code: int | None) -> str:
        if code == LOST:
            return "lost its connection"
        return super()._ending(SIGNALLED - code if code is not None and code > SIGNALLED else code)


def _check_code(folder: Path) -> None:
    """Raise Refused where a torch part is built by a file of the user's: it is not on the other machine."""
    for path in folder.glob("*/torch.json"):
        place = str(json.loads(path.read_text())["build"]["ref"]).rpartition(":")[0]
        if place.endswith(".py"):
            raise Refused(
                f"the model is built by the code in {place}, which a remote machine does not have; "
                "measure it as ONNX (put `| onnx` behind the model), or give trimtab.trim the module itself"
            )
