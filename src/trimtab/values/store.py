"""Content-addressed artefacts: what was made once is never made again, and never half made.

An entry is a folder `objects/KEY` with a `manifest.json` of the sha256 of every file. It is built beside the others and
renamed into place, checked when first read in a process, and set aside, reported and rebuilt when a byte is wrong.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from trimtab.errors import OutputError, UnsafeFile

MANIFEST = "manifest.json"
UNFINISHED_S = 7 * 86_400.0
"""Age, in seconds, from which unfinished work counts as given up."""


def default_root() -> Path:
    """Return `$TRIMTAB_CACHE`, or `~/.cache/trimtab`."""
    return Path(os.environ.get("TRIMTAB_CACHE") or Path.home() / ".cache" / "trimtab")


class Store:
    """A folder of artefacts by key, kept under a size limit by dropping what was used longest ago."""

    def __init__(self, root: Path | None = None, limit_gb: float = 20.0) -> None:
        self.root = (root or default_root() / "store").resolve()
        self.limit_bytes = int(limit_gb * 1e9)
        self.warnings: list[str] = []
        """What was found corrupt and set aside, one sentence each."""
        self._checked: set[str] = set()
        """Entries that this process uses: checked once, and never dropped by itself."""
        self._grown = 0
        with writing(self.root):
            for name in ("objects", "making", "kept", "corrupt"):
                (self.root / name).mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Path | None:
        """Return the entry's folder, or None; a corrupt entry is set aside and reported."""
        folder = self.root / "objects" / key
        if not folder.is_dir():
            return None
        if key not in self._checked:
            wrong = mismatch(folder)
            if wrong:
                self._set_aside(folder, wrong)
                return None
            self._checked.add(key)
        with contextlib.suppress(OSError):
            os.utime(folder)
        return folder

    def make(self, key: str, build: Callable[[Path], None]) -> Path:
        """Return the entry, building it in an empty folder first if it is not there.

        Raises:
            OutputError: the disk is full or the store cannot be written.
        """
        found = self.get(key)
        if found:
            return found
        making = self.root / "making" / f"{key}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        try:
            with writing(self.root):
                making.mkdir()
            with writing(self.root, FULL):
                build(making)
            with writing(self.root):
                seal(making)
                return self._place(making, key)
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def keep(self, key: str) -> Path:
        """Return a folder for the unfinished work on `key`, such as checkpoints; it survives a kill."""
        folder = self.root / "kept" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_kept(self, key: str) -> None:
        """Remove the unfinished work on `key`."""
        shutil.rmtree(self.root / "kept" / key, ignore_errors=True)

    def count_opening(self, split_hash: str, by: str) -> int:
        """Record that a sealed split was opened and return how often it has been, this time included."""
        path = self.root / "openings.jsonl"
        with writing(self.root), path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            before = sum(f'"{split_hash}"' in line for line in file)
            file.write(json.dumps({"split": split_hash, "by": by, "time": time.time()}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return before + 1

    def entries(self) -> list[tuple[str, int, float]]:
        """Return (key, bytes, time of last use) of every entry, longest unused first."""
        folders = [folder for folder in (self.root / "objects").iterdir() if folder.is_dir()]
        found = [(folder.name, folder_bytes(folder), folder.stat().st_mtime) for folder in folders]
        return sorted(found, key=lambda entry: entry[2])

    def shrink(self, limit_bytes: int | None = None, keep: frozenset[str] = frozenset()) -> int:
        """Drop entries unused longest, but for those to keep, until the store is under its limit; return the bytes."""
        entries, freed = self.entries(), 0
        excess = sum(size for _, size, _ in entries) - (self.limit_bytes if limit_bytes is None else limit_bytes)
        for key, size, _ in entries:
            if freed >= excess:
                break
            if key in keep:
                continue
            discard(self.root / "objects" / key, self._aside())
            self._checked.discard(key)
            freed += size
        self.clear_unfinished(older_s=UNFINISHED_S)
        return freed

    def clear_unfinished(self, older_s: float = 0.0) -> None:
        """Remove what killed processes left half made, kept checkpoints, and what was set aside, if that old."""
        for name in ("making", "kept", "corrupt"):
            for folder in (self.root / name).iterdir():
                with contextlib.suppress(OSError):
                    if time.time() - newest(folder) >= older_s:
                        discard(folder, self._aside())

    def _aside(self) -> Path:
        return self.root / "making" / f"gone.{uuid.uuid4().hex}"

    def _place(self, making: Path, key: str) -> Path:
        folder = self.root / "objects" / key
        try:
            making.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        self._checked.add(key)
        self._grown += folder_bytes(folder)
        if self._grown > self.limit_bytes / 100:
            self._grown = 0
            self.shrink(keep=frozenset(self._checked))
        return folder

    def _set_aside(self, folder: Path, wrong: str) -> None:
        self.warnings.append(f"store entry {folder.name[:12]} is corrupt ({wrong}); it was set aside and is rebuilt")
        folder.rename(self.root / "corrupt" / f"{folder.name}.{uuid.uuid4().hex[:8]}")


def seal(folder: Path) -> dict[str, str]:
    """Write the folder's manifest and force everything to disk; return {relative path: sha256}."""
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in files_of(folder)}
    (folder / MANIFEST).write_text(json.dumps(hashes, indent=1))
    for path in (*files_of(folder), folder):
        sync(path)
    return hashes


def mismatch(folder: Path) -> str:
    """Return what differs from the folder's manifest, or an empty string."""
    try:
        expected = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or unreadable"
    found = {path.relative_to(folder).as_posix() for path in files_of(folder)} - {MANIFEST}
    for name in sorted(found ^ set(expected)):
        return f"{name} is {'missing' if name in expected else 'not in the manifest'}"
    for name, wanted in expected.items():
        if file_hash(folder / name) != wanted:
            return f"{name} has changed"
    return ""


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> list[Path]:
    """Return every file below the folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def folder_bytes(folder: Path) -> int:
    """Return the bytes of every file below the folder."""
    return sum(path.stat().st_size for path in files_of(folder))


def discard(folder: Path, aside: Path) -> None:
    """Remove a folder by way of another name: a kill in the middle must not leave half of it under its own."""
    with contextlib.suppress(OSError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def newest(folder: Path) -> float:
    """Return the time of the last change in the folder, in seconds since 1970."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader, or a kill, sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path.parent):
            temporary.write_text(text)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def copy_folder(source: Path, target: Path, leave_out: Collection[str] = ()) -> None:
    """Copy every file but those whose relative path is left out; the first error ends it, as OSError."""
    for path in files_of(source):
        name = path.relative_to(source)
        if path.is_symlink():
            raise UnsafeFile(f"{path} is a link; only plain files are copied")
        if name.as_posix() not in leave_out:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)


def make_folder(folder: Path) -> None:
    """Make a folder where there is none; raises OutputError where that cannot be."""
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error


FULL = {
    errno.ENOSPC: "no space left: free some, or point --out and TRIMTAB_CACHE elsewhere",
    errno.EDQUOT: "the disk quota is used up",
}
UNWRITABLE = FULL | {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied: choose a folder you may write",
    errno.EPERM: "permission denied: choose a folder you may write",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EEXIST: "it is a file, not a folder",
}


@contextlib.contextmanager
def writing(where: Path, reasons: Mapping[int, str] = UNWRITABLE) -> Iterator[None]:
    """Turn a full or unwritable disk into OutputError with one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno not in reasons:
            raise
        raise OutputError(f"cannot write {where}: {reasons[error.errno]}; what was finished is kept") from error
