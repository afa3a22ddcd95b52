"""Keeps a worker on a remote machine: `python -m trimtab.run.keeper THREADS`, run over ssh by `trimtab.run.remote`.

Signals do not travel over ssh, so pausing and resuming are messages, and this process, which does nothing else, carries
them out on the worker beside it. Model folders come in as messages too and are kept by the hash of their content. All
other messages go on to the worker as they are; its answers go straight out. Where the connection ends, both end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from numpy.typing import NDArray

from trimtab.run import wire
from trimtab.run.client import environment
from trimtab.run.worker import describe, die_with
from trimtab.values.store import default_root, discard, file_hash, files_of, folder_bytes

FOLDER_BYTES = 20_000_000_000
"""Folders unused for longest go, once the cache holds more than this."""
DAY_S = 86400.0
SIGNALLED = 128
"""A shell's way to say that a signal ended a process: 128 and its number."""


def content(folder: Path) -> dict[str, str]:
    """Return {relative path: sha256} of every file: what a folder's key is made of on both sides."""
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files_of(folder)}


class Keeper:
    """Carries out `pause`, `resume`, `have`, `file` and `seal`; every other message is the worker's."""

    def __init__(self, child: subprocess.Popen[bytes], given: BinaryIO) -> None:
        self.child, self.given = child, given
        self.commands: Mapping[str, Callable[..., None]] = {
            "pause": self.pause,
            "resume": self.resume,
            "have": self.have,
            "file": self.file,
            "seal": self.seal,
        }

    def answer(self, reply: Mapping[str, Any]) -> None:
        """Send a reply; the worker is silent meanwhile, because it was asked nothing."""
        for piece in wire.pieces(reply, {}):
            self.given.write(piece)
        self.given.flush()

    def pause(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Stop the worker, and say so once it is."""
        self.child.send_signal(signal.SIGSTOP)
        if sys.platform == "linux":
            os.waitid(os.P_PID, self.child.pid, os.WSTOPPED)
        self.answer({})

    def resume(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Let the worker go on; there is no answer, because what follows arrives in order anyway."""
        self.child.send_signal(signal.SIGCONT)

    def have(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Tell where the folder of that key lies, or that it is not here."""
        folder = cache() / plain(header["key"])
        if folder.is_dir():
            os.utime(folder)
        self.answer({"folder": str(folder) if folder.is_dir() else ""})

    def file(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write one file of a folder that is on its way."""
        path = making(header["key"]) / plain(header["name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(arrays["bytes"].tobytes())
        self.answer({})

    def seal(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put a folder that has come into its place, if every byte is what was sent."""
        unfinished = making(header["key"])
        if content(unfinished) != header["content"]:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise OSError("the files that arrived are not those that were sent")
        shrink(FOLDER_BYTES)
        folder = cache() / plain(header["key"])
        try:
            unfinished.rename(folder)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            if not folder.is_dir():  # else another keeper was quicker
                raise
        self.answer({"folder": str(folder)})

    def forward(self, taken: BinaryIO) -> None:
        """Handle messages until the stream ends."""

        def fill(buffer: memoryview) -> None:
            if taken.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
                raise EOFError

        while True:
            try:
                header, arrays = wire.receive(fill)
            except (EOFError, wire.Garbled):
                return
            ours = self.commands.get(header["command"])
            if ours is None:
                self._pass_on(header, arrays)
                continue
            try:
                ours(header, arrays)
            except Exception as error:  # such as a full disk: the other side is told
                self.answer({"error": describe(error)})

    def _pass_on(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        for piece in wire.pieces(header, arrays):
            while len(piece):
                piece = piece[os.write(self.child.stdin.fileno(), piece) :]  # type: ignore[union-attr]


def cache() -> Path:
    """Return the folder of the models that were sent here."""
    return default_root().absolute() / "remote"


def making(key: str) -> Path:
    """Return the folder in which this process puts together what comes for a key."""
    return cache() / f".{plain(key)}.{os.getpid()}"


def plain(name: str) -> PurePosixPath:
    """Return a relative path; raises ValueError where it leaves its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is no name of a file in a folder")
    return path


def shrink(most_bytes: int) -> None:
    """Drop the folders used longest ago until the rest hold at most `most_bytes`, and unfinished ones a day old."""
    total, known = 0, dict[Path, tuple[float, int]]()
    for folder in cache().iterdir():
        with contextlib.suppress(OSError):  # another keeper was quicker
            known[folder] = folder.stat().st_mtime, folder_bytes(folder)
    for folder, (used, size) in sorted(known.items(), key=lambda each: -each[1][0]):
        unfinished = folder.name.startswith(".")
        total += 0 if unfinished else size
        if time.time() - used > DAY_S if unfinished else total > most_bytes:
            discard(folder, folder.with_name(f".gone.{folder.name.lstrip('.')}.{os.getpid()}"))


def _follow(child: subprocess.Popen[bytes]) -> None:
    code = child.wait()
    os._exit(SIGNALLED - code if code < 0 else code)


def main() -> None:
    """Start a worker with the threads of the first argument and keep it until the connection ends."""
    die_with(os.getppid())
    command = [sys.executable, "-P", "-m", "trimtab.run.worker", str(os.getpid())]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, env=environment(int(sys.argv[1])))
    threading.Thread(target=_follow, args=(child,), daemon=True).start()
    try:
        Keeper(child, sys.stdout.buffer).forward(sys.stdin.buffer)
    except BrokenPipeError:
        child.wait()  # `_follow` tells how the worker ended
        threading.Event().wait()
    child.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
