"""The worker process: holds one loaded model and answers over its stdin and stdout (`python -m trimtab.run.worker`).

Each measurement runs in a process of its own, because runtimes in one process spoil each other's thread pools, and
because a crash, a hang or a full memory must end one candidate and not the run. Nothing heavy is imported here: the
runtime's library comes in with `load`. Messages are those of `trimtab.run.wire`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import Refused, TrimtabError
from trimtab.run import wire
from trimtab.run.program import drive
from trimtab.run.weather import counters
from trimtab.values.machine import Machine
from trimtab.values.model import Model
from trimtab.values.registry import registry
from trimtab.values.session import Session

MEGABYTE = 1e6
PR_SET_PDEATHSIG = 1
MEMORY_SIGNS = re.compile(
    r"bad_alloc|bad allocation|MemoryError|[Ff]ailed to allocate|[Cc]annot allocate memory"
    r"|can't allocate memory|[Nn]ot enough memory|[Oo]ut of memory"
)
"""What the libraries say when an allocation fails; few of them raise MemoryError."""

Reply = tuple[dict[str, Any], Mapping[str, NDArray[Any]]]


class Worker:
    """Carries out the commands: `load` once, then `run`, `time` and `usage`."""

    def __init__(self) -> None:
        self.base_memory = status_bytes("VmRSS")
        self.session: Session | None = None
        self.model: Model | None = None

    def load(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reply:
        """Load a model folder with a runtime; the memory limit counts from after the runtime's import."""
        machine = Machine.from_json(header["machine"])
        arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in header["arguments"].items()}
        runtime = registry("runtimes").take(header["runtime"])(**arguments)
        self.model = Model.open(Path(header["folder"]))
        self.base_memory = status_bytes("VmRSS")
        limit_memory(float(header["memory_limit_mb"]))
        wrong = next((p.format for p in self.model.parts.values() if p.format not in runtime.formats), None)
        if wrong is not None:
            raise Refused(f"{runtime} takes {' or '.join(sorted(runtime.formats))}; this model is {wrong}")
        reason = runtime.refuses(self.model, machine)
        if reason:
            raise Refused(reason)
        self.session = runtime.load(self.model, machine)
        return {}, {}

    def run(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reply:
        """Answer one batch."""
        return {}, self._drive(arrays)

    def time(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reply:
        """Call again and again for about `seconds`, at least once; the first `warmup` calls are not counted.

        Warming up ends early once it has taken half the time, but never before one call.
        """
        nanoseconds = float(header["seconds"]) * 1e9
        begin = time.perf_counter_ns()
        for _ in range(int(header["warmup"])):
            self._drive(arrays)
            if time.perf_counter_ns() - begin > nanoseconds / 2:
                break
        gc.disable()
        try:
            return {}, {"seconds": self._timed(arrays, nanoseconds)}
        finally:
            gc.enable()

    def usage(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reply:
        """Memory and processor time so far, and how busy the machine is."""
        used = {
            "peak_memory_mb": status_bytes("VmHWM") / MEGABYTE,
            "base_memory_mb": self.base_memory / MEGABYTE,
            "cpu_seconds": time.process_time(),
            "pid": os.getpid(),
            **counters(),
        }
        return {"usage": used}, {}

    def _timed(self, arrays: Mapping[str, NDArray[Any]], nanoseconds: float) -> NDArray[np.float64]:
        now = time.perf_counter_ns
        taken: list[int] = []
        start = last = now()
        while not taken or last - start < nanoseconds:
            self._drive(arrays)
            end = now()
            taken.append(end - last)
            last = end
        return np.array(taken, dtype=np.float64) / 1e9

    def _drive(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self.model is None or self.session is None:
            raise ValueError("nothing is loaded yet")
        return drive(self.model, self.session, arrays)


def status_bytes(field: str) -> int:
    """Return a size from /proc/self/status; elsewhere, for any field, the peak memory that the system tells.

    The peak of `getrusage` is no substitute on Linux: a new process inherits there that of its parent.
    """
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def limit_memory(megabytes: float) -> None:
    """Let private data grow by so much from here; 0 means no limit. Only Linux enforces it."""
    if megabytes > 0 and sys.platform == "linux":
        limit = status_bytes("VmData") + int(megabytes * MEGABYTE)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def die_with(parent: int) -> None:
    """Be killed when the parent dies, even while stopped or computing (Linux); elsewhere the end of stdin tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def describe(error: BaseException) -> dict[str, str]:
    """Return the error as data: its kind is a class of `trimtab.errors`, or `memory`, or `other`."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or MEMORY_SIGNS.search(text):
        return {"kind": "memory", "message": text}
    if isinstance(error, TrimtabError):
        return {"kind": type(error).__name__, "message": str(error)}
    return {"kind": "other", "message": text}


def private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout for messages; libraries that read or print meet nothing and stderr instead."""
    taken, given = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return taken, given


def serve(taken: BinaryIO, given: BinaryIO) -> None:
    """Answer commands until the client closes the stream."""
    worker = Worker()
    commands = {"load": worker.load, "run": worker.run, "time": worker.time, "usage": worker.usage}

    def fill(buffer: memoryview) -> None:
        if taken.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
            raise EOFError

    while True:
        try:
            header, arrays = wire.receive(fill)
        except EOFError:
            return
        try:
            reply, outputs = commands[header["command"]](header, arrays)
            message = list(wire.pieces(reply, outputs))
        except Exception as error:  # whatever a runtime raises is the answer
            message = list(wire.pieces({"error": describe(error)}, {}))
        for piece in message:
            given.write(piece)
        given.flush()


def main() -> None:
    """Serve the process that started this one; its id is the only argument."""
    die_with(int(sys.argv[1]))
    taken, given = private_streams()
    serve(taken, given)


if __name__ == "__main__":
    main()
    os._exit(0)  # libraries' threads and exit handlers have nothing left to say
