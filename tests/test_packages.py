import errno
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile

import pytest

from trimtab.errors import CorruptFile, DataError, OutputError
from trimtab.packages import Parcel, fetch, fetch_many, names

CONTENT = b"a,b\n1,2\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packages"


def wheel(folder, member="tiny/data.csv"):
    """Make a wheel that pip takes, with one data file in it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(member, CONTENT)
        file.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


def tgz(path, member="package/data.csv", link=""):
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(member)
        info.size = 0 if link else len(CONTENT)
        if link:
            info.type, info.linkname = tarfile.SYMTYPE, link
        tar.addfile(info, None if link else io.BytesIO(CONTENT))
    return path


def parcel(archive, registry="pypi", member="tiny/data.csv"):
    return Parcel(registry, "tiny", "1.0", hashlib.sha256(archive.read_bytes()).hexdigest(), member)


def client(folder, name, script, monkeypatch):
    """Put a client of that name on the path in place of the real one."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.slow
def test_pip_downloads_once_and_the_cache_serves_ever_after(tmp_path, cache, monkeypatch):
    archive = wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    wanted = parcel(archive)
    path = fetch(wanted)
    assert path.read_bytes() == CONTENT
    assert path == cache / "pypi" / "tiny-1.0" / "members" / "tiny" / "data.csv"
    shutil.rmtree(archive.parent)
    assert fetch(wanted) == path
    left = {entry.name for entry in wanted.folder.iterdir()}
    assert left == {"members", archive.name}


def test_an_archive_put_there_by_hand_is_used(tmp_path, monkeypatch):
    archive = wheel(tmp_path / "index")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("the client was called"))
    wanted = parcel(archive)
    wanted.folder.mkdir(parents=True)
    archive.rename(wanted.folder / "any-name.whl")
    assert fetch(wanted).read_bytes() == CONTENT


@pytest.mark.slow
def test_without_a_network_the_command_to_run_by_hand_is_said(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    wanted = Parcel("pypi", "tiny", "1.0", "00", "tiny/data.csv")
    with pytest.raises(DataError) as caught:
        fetch(wanted)
    assert "No matching distribution" in str(caught.value)
    assert f"pip download --no-deps --only-binary :all: --retries 1 --timeout 15 -d {wanted.folder} tiny==1.0" in str(
        caught.value
    )
    assert f"lies in {wanted.folder}" in str(caught.value)


def test_without_the_client_it_says_so_too(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"No such file.*npm pack tiny@1.0"):
        fetch(Parcel("npm", "tiny", "1.0", "00", "package/data.csv"))


def test_a_wrong_archive_is_neither_used_nor_kept(tmp_path, monkeypatch):
    tgz(tmp_path / "other.tgz")
    client(tmp_path / "bin", "npm", f'cp {tmp_path}/other.tgz "$5/"', monkeypatch)
    wanted = Parcel("npm", "tiny", "1.0", "00" * 32, "package/data.csv")
    with pytest.raises(CorruptFile, match="expected 0000"):
        fetch(wanted)
    assert [path.name for path in wanted.folder.rglob("*") if path.is_file()] == []


def test_npm_packs_without_scripts(tmp_path, monkeypatch):
    archive = tgz(tmp_path / "tiny-1.0.tgz")
    client(tmp_path / "bin", "npm", f'test "$3" = --ignore-scripts && cp {archive} "$5/"', monkeypatch)
    assert fetch(parcel(archive, "npm", "package/data.csv")).read_bytes() == CONTENT


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_debian_packages_are_unpacked_not_installed(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "usr" / "share" / "tiny").mkdir(parents=True)
    (root / "usr" / "share" / "tiny" / "data.csv").write_bytes(CONTENT)
    (root / "DEBIAN").mkdir()
    control = "Package: tiny\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: tiny\n"
    (root / "DEBIAN" / "control").write_text(control)
    archive = tmp_path / "tiny_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", root, archive], check=True, capture_output=True)
    client(tmp_path / "bin", "apt-get", f'test "$2" = tiny=1.0 && cp {archive} .', monkeypatch)
    assert fetch(parcel(archive, "debian", "usr/share/tiny/data.csv")).read_bytes() == CONTENT


@pytest.mark.parametrize("member", ["../up.csv", "/etc/passwd", "a/../../up.csv", ""])
def test_a_member_may_not_leave_the_cache(member):
    with pytest.raises(CorruptFile, match="leaves its package"):
        fetch(Parcel("pypi", "tiny", "1.0", "00", member))


@pytest.mark.parametrize("link", ["", "/etc/passwd"])
def test_an_absent_member_or_a_link_is_refused(tmp_path, link):
    archive = tgz(tmp_path / "tiny.tgz", "package/link" if link else "package/other", link)
    wanted = parcel(archive, "npm", "package/link")
    wanted.folder.mkdir(parents=True)
    shutil.copy(archive, wanted.folder)
    with pytest.raises(CorruptFile, match="cannot read package/link out of"):
        fetch(wanted)
    assert not list(wanted.folder.glob("members/**/link"))
    assert [path.name for path in wanted.folder.iterdir()] == [archive.name]


def test_a_cache_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"cannot keep packages in .*; set TRIMTAB_CACHE"):
        fetch(Parcel("npm", "tiny", "1.0", "00", "package/data.csv"))


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    archive = wheel(tmp_path / "index")
    wanted = parcel(archive)
    wanted.folder.mkdir(parents=True)
    shutil.copy(archive, wanted.folder)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            fetch(wanted)
    assert not list(wanted.folder.rglob("*.csv"))
    assert fetch(wanted).read_bytes() == CONTENT


@pytest.mark.slow
def test_a_torn_archive_in_the_cache_is_fetched_anew(tmp_path, monkeypatch):
    archive = wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    wanted = parcel(archive)
    wanted.folder.mkdir(parents=True)
    (wanted.folder / archive.name).write_bytes(archive.read_bytes()[:50])
    assert fetch(wanted).read_bytes() == CONTENT
    assert (wanted.folder / archive.name).stat().st_size == archive.stat().st_size


def source(folder, setup=""):
    """Make a source distribution with an archive inside it, and the page of an index that links to it."""
    page = folder / "tiny-set"
    page.mkdir(parents=True)
    inner = tgz(folder / "inner.tgz", "scores/a.txt")
    path = page / "Tiny_Set-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(inner, "tiny-1.0/data.tar.gz")
        tar.add(inner, "tiny-1.0/again.tar.gz")
        for name in ("setup.py", "pyproject.toml"):
            info = tarfile.TarInfo(f"tiny-1.0/{name}")
            info.size = len(setup)
            tar.addfile(info, io.BytesIO(setup.encode()))
    links = "".join(f'<a href="{name}#sha256=00">{name}</a>' for name in ("Tiny_Set-0.9.tar.gz", path.name))
    (page / "index.html").write_text(f"<html><body>{links}</body></html>")
    return path


def set_pip(monkeypatch, **settings):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name.upper()}", value)


@pytest.mark.slow
def test_a_source_distribution_is_read_and_never_built(tmp_path, cache, monkeypatch):
    archive = source(tmp_path / "index", setup=f"open({str(tmp_path / 'ran')!r}, 'w')")
    set_pip(monkeypatch, index_url=f"file://{tmp_path}/empty", extra_index_url=f"file://{tmp_path}/index")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    wanted = Parcel("pypi-sdist", "tiny.set", "1.0", digest, "tiny-1.0/data.tar.gz!/scores/a.txt")
    path = fetch(wanted)
    assert path.read_bytes() == CONTENT
    assert path == cache / "pypi-sdist" / "tiny.set-1.0" / "members" / "tiny-1.0" / "data.tar.gz!" / "scores" / "a.txt"
    shutil.rmtree(tmp_path / "index")
    assert fetch(wanted) == path
    others = ["tiny-1.0/again.tar.gz!/scores/a.txt", wanted.member, "tiny-1.0/data.tar.gz"]
    assert [found.stat().st_size > 0 for found in fetch_many(wanted, others)] == [True] * 3
    assert names(wanted) == tuple(
        f"tiny-1.0/{n}" for n in ("again.tar.gz", "data.tar.gz", "pyproject.toml", "setup.py")
    )
    assert {entry.name for entry in wanted.folder.iterdir()} == {"members", "names.txt", archive.name}
    (wanted.folder / archive.name).unlink()
    assert len(names(wanted)) == 4
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_source_distribution_that_is_nowhere_says_where_to_get_it(tmp_path, monkeypatch):
    source(tmp_path / "index")
    set_pip(monkeypatch, index_url=f"file://{tmp_path}/index")
    with pytest.raises(
        DataError, match=r"no source distribution of this version; .*pypi.org/project/tiny-set/2.0/#file"
    ):
        fetch(Parcel("pypi-sdist", "tiny-set", "2.0", "00", "a"))
    set_pip(monkeypatch, no_index="1")
    with pytest.raises(DataError, match="pip is set to use no index"):
        fetch(Parcel("pypi-sdist", "tiny-set", "1.0", "00", "a"))
    set_pip(monkeypatch, index_url="ftp://example.org")
    with pytest.raises(DataError, match="is no web address"):
        fetch(Parcel("pypi-sdist", "tiny-set", "1.0", "00", "a"))


def test_an_archive_inside_the_archive_that_is_none_is_refused(tmp_path):
    archive = wheel(tmp_path / "index")
    wanted = parcel(archive, member="tiny/data.csv!/inner")
    wanted.folder.mkdir(parents=True)
    shutil.copy(archive, wanted.folder)
    with pytest.raises(CorruptFile, match="cannot read"):
        fetch(wanted)


def test_names_are_those_of_a_wheel_too(tmp_path):
    archive = wheel(tmp_path / "index")
    wanted = parcel(archive)
    wanted.folder.mkdir(parents=True)
    shutil.copy(archive, wanted.folder)
    assert [name for name in names(wanted) if "dist-info" not in name] == ["tiny/data.csv"]
