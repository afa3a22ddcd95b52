"""Starts workers, talks to them and outlives them: a crash, a hang or a full memory becomes a sentence.

    with open_worker(folder, runtime, machine) as worker:
        outputs = worker.run({"image": images})

A worker dies with the thread that started it (on Linux; see prctl(2), PR_SET_PDEATHSIG): open it from a thread that
lives as long.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from trimtab import errors
from trimtab.errors import SessionError, WorkerDied, WorkerHung, WorkerMemory
from trimtab.run import wire
from trimtab.run.address import PREFIX, Address
from trimtab.run.worker import MEMORY_SIGNS
from trimtab.values.machine import Machine

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
LAST_WORDS = 2000
"""Characters of the worker's stderr that are read after its death."""
WARMUP = 1
"""Calls before a timing that are not counted."""

Arrays = Mapping[str, NDArray[Any]]


class RuntimeLike(Protocol):
    """What is needed of a runtime to name it in another process: a dataclass whose fields are JSON."""

    @property
    def threads(self) -> int:
        """Threads that it computes with."""
        ...

    def name(self) -> str:
        """The runtime's name in its registry."""
        ...


class Worker:
    """A process that holds one model; `run`, `time` and `usage` make it a session for meters."""

    def __init__(
        self, threads: int = 1, seconds: float = 60.0, label: str = "worker", command: Sequence[str] = ()
    ) -> None:
        """Start the process, or `command` instead; `seconds` limits each call, `label` names the worker in errors."""
        self.seconds = seconds
        self.label = label
        self._paused = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        self._process = subprocess.Popen(
            command or [sys.executable, "-P", "-m", "trimtab.run.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=environment(threads),
            process_group=0,
        )
        pipes = (self._process.stdin, self._process.stdout)
        self._to, self._from = (pipe.fileno() for pipe in pipes if pipe is not None)
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    @property
    def alive(self) -> bool:
        """Whether it can still be asked: it was not closed, by its user or by a failure."""
        return not self._errors.closed

    @property
    def pid(self) -> int:
        """The worker's process."""
        return self._process.pid

    def load(self, folder: Path, runtime: RuntimeLike, machine: Machine, memory_limit_mb: float = 0.0) -> None:
        """Load a model folder.

        Raises:
            Refused: the runtime cannot serve this model on this machine.
            MissingExtra: the runtime's library is not installed.
            SessionError: the worker died, hung, or went past its memory.
        """
        about = {"machine": machine.to_json(), "memory_limit_mb": memory_limit_mb}
        self._call("load", {"folder": str(folder.resolve()), **named(runtime), **about}, {})

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the model's whole program on a batch; raises SessionError, or DataError where inputs do not fit."""
        return self._call("run", {}, inputs)[1]

    def time(self, inputs: Arrays, seconds: float, warmup: int = WARMUP) -> NDArray[np.float64]:
        """Return the wall time in seconds of each call made inside the worker for about `seconds`."""
        wanted = {"seconds": seconds, "warmup": warmup}
        return self._call("time", wanted, inputs, more=2 * seconds)[1]["seconds"]

    def usage(self) -> Mapping[str, float]:
        """Return `peak_memory_mb`, `base_memory_mb` (before loading), `cpu_seconds` so far, `pid`, and the machine's
        counters (`trimtab.run.weather`).
        """
        used: Mapping[str, float] = self._call("usage", {}, {})[0]["usage"]
        return used

    def pause(self) -> None:
        """Stop the process, so that it takes no processor time while another one is measured."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        """Let it go on."""
        if self._paused and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
        self._paused = False

    def close(self) -> None:
        """Kill the process and wait for its end; there is nothing in it to save."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, command: str, header: Mapping[str, Any], arrays: Arrays, more: float = 0.0) -> wire.Message:
        """Send a command and wait for its answer, at most `self.seconds + more`."""
        if self._errors.closed:
            raise WorkerDied(f"{self.label} is closed; open a new one before {command}")
        self.resume()
        message = list(wire.pieces({"command": command, **header}, arrays))
        try:
            reply, outputs = wire.receive(self._send(message, more).read)
        except TimeoutError:
            self.close()
            raise WorkerHung(f"{self.label} gave no answer to {command} in {self.seconds + more:g} s") from None
        except (EOFError, BrokenPipeError):
            self._bury(command)
        except wire.Garbled as garbled:
            self.close()
            raise WorkerDied(f"{self.label} answered {command} with no message: {garbled}") from garbled
        except BaseException:
            self.close()  # a message half sent or half read cannot be mended
            raise
        if "error" in reply:
            self._complain(command, **reply["error"])
        return reply, outputs

    def _send(self, message: Iterable[memoryview], more: float = 0.0) -> _Pipe:
        pipe = _Pipe(self._to, self._from, time.monotonic() + self.seconds + more)
        for piece in message:
            pipe.write(piece)
        return pipe

    def _bury(self, command: str) -> NoReturn:
        """Say how the worker died, and close what is left of it."""
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            code = None
        words = self._last_words()
        self.close()
        full = bool(MEMORY_SIGNS.search(words))
        how = f"ran out of memory and {self._ending(code)}" if full else self._ending(code)
        told = f"; its last words: {words}" if words else ""
        message = f"{self.label} {how} during {command}{told}"
        raise WorkerMemory(message) if full else WorkerDied(message)

    def _ending(self, code: int | None) -> str:
        if code is None:
            return "closed its stream"
        if code >= 0:
            return f"exited with status {code}"
        name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else f"signal {-code}"
        hint = ", perhaps by the system for want of memory," if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"

    def _complain(self, command: str, kind: str, message: str) -> NoReturn:
        if kind == "memory":
            self.close()  # libraries do not promise a sound state after a failed allocation
            raise WorkerMemory(f"{self.label} ran out of memory during {command}: {message}")
        known = getattr(errors, kind, None)
        if known is errors.UnknownName:
            raise errors.UsageError(message)
        if known is not None:
            raise known(message)
        raise SessionError(f"{self.label} failed during {command}: {message}")

    def _last_words(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - LAST_WORDS))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in lines[-5:])


class _Pipe:
    """Writes and reads whole buffers on non-blocking descriptors before a deadline."""

    def __init__(self, to: int, back: int, deadline: float) -> None:
        self.to, self.back, self.deadline = to, back, deadline

    def write(self, buffer: memoryview) -> None:
        """Write all of it; raises TimeoutError, or BrokenPipeError where the reader is gone."""
        while len(buffer):
            self._wait(self.to, select.POLLOUT)
            buffer = buffer[os.write(self.to, buffer) :]

    def read(self, buffer: memoryview) -> None:
        """Fill all of it; raises TimeoutError, or EOFError where the writer is gone."""
        while len(buffer):
            self._wait(self.back, select.POLLIN)
            count = os.readv(self.back, [buffer])
            if not count:
                raise EOFError
            buffer = buffer[count:]

    def _wait(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = self.deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError


def environment(threads: int) -> dict[str, str]:
    """Return the variables a worker starts with: threads are set before any library reads them, and never spin."""
    counts = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**os.environ, **counts, "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def named(runtime: RuntimeLike) -> dict[str, Any]:
    """Return a runtime's name and arguments as JSON."""
    arguments = {f.name: getattr(runtime, f.name) for f in fields(runtime)}  # type: ignore[arg-type]
    return {"runtime": runtime.name(), "arguments": arguments}


@contextmanager
def open_worker(
    folder: Path,
    runtime: RuntimeLike,
    machine: Machine,
    memory_limit_mb: float = 0.0,
    seconds: float = 60.0,
) -> Iterator[Worker]:
    """Start a worker and load a model folder in it; each call, loading too, may take `seconds`.

    The memory limit counts what is allocated after the runtime's library is imported; 0 means none.

    Raises:
        Refused, MissingExtra, SessionError: as `Worker.load`.
    """
    with _started(runtime, machine, seconds) as worker:
        worker.load(folder, runtime, machine, memory_limit_mb)
        yield worker


def _started(runtime: RuntimeLike, machine: Machine, seconds: float) -> Worker:
    """Start a worker on this machine, or on the one whose name is an address."""
    if not machine.name.startswith(PREFIX):
        return Worker(runtime.threads, seconds, str(runtime))
    from trimtab.run.remote import RemoteWorker  # it builds on this module

    return RemoteWorker(Address.parse(machine.name), runtime.threads, seconds, str(runtime))
