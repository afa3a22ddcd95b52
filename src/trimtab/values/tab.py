"""The tab: every figure of a run, in the order it was learned, one JSON object a line, only ever appended.

One process writes at a time (a lock), each candidate is forced to disk, and a last line torn by a kill is tolerated:
it is cut off, and the cut itself goes on the tab.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from trimtab.errors import Busy, CorruptFile
from trimtab.values.store import FULL, make_folder, writing

TAB_FILE = "tab.jsonl"
MEND = "remove the folder, or choose another --out"
"""What to do about a tab that cannot be read."""


@dataclass(frozen=True)
class Records:
    """What a tab holds, and what of it could not be read."""

    lines: tuple[Mapping[str, Any], ...]
    torn: bytes = b""
    """The unfinished last line, if a kill left one."""

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the records of one kind, oldest first."""
        return [line for line in self.lines if line.get("kind") == kind]


@dataclass
class Tab:
    """A run folder's tab, open for appending by this process alone; made by `Tab.open`."""

    path: Path
    file: IO[bytes] = field(repr=False)

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path) -> Iterator[Tab]:
        """Lock the run folder and open its tab; raises Busy while another process holds it."""
        path = folder / TAB_FILE
        make_folder(folder)
        with writing(folder):
            file = path.open("ab")
        with writing(folder, FULL), file, _locked(file, folder):  # closing writes what a full disk refused once more
            tab = cls(path, file)
            tab._mend()
            yield tab

    def append(self, kind: str, **data: Any) -> None:
        """Add one record and force it to disk."""
        record = {"kind": kind, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **data}
        line = json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with writing(self.path.parent):
            self.file.write(line)
            self.file.flush()
            os.fsync(self.file.fileno())

    def read(self) -> Records:
        """Return all records so far."""
        return read_tab(self.path)

    def _mend(self) -> None:
        torn = read_tab(self.path).torn
        if torn:
            self.file.truncate(self.path.stat().st_size - len(torn))
            self.append("torn", bytes=len(torn))


def read_tab(path: Path) -> Records:
    """Read a tab; a torn last line is returned apart, any other damage raises CorruptFile with the line number."""
    *whole, torn = path.read_bytes().split(b"\n")
    lines = []
    for number, line in enumerate(whole, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorruptFile(f"{path} line {number} is not JSON: {error}; {MEND}") from error
        if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
            raise CorruptFile(
                f"{path} line {number} is no record of a run: {line[:80].decode(errors='replace')}; {MEND}"
            )
        lines.append(record)
    return Records(tuple(lines), torn)


@contextlib.contextmanager
def _locked(file: IO[bytes], folder: Path) -> Iterator[None]:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(f"{folder} is in use by another trimtab process; wait for it, or choose another --out") from error
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
