"""The store: never half made, never silently wrong, never in the way of a second process."""

import errno
import json
import multiprocessing
import os
import subprocess
import time
from pathlib import Path

import pytest

from trimtab.errors import OutputError
from trimtab.values.store import UNFINISHED_S, Store, write_atomically


def build(folder: Path) -> None:
    (folder / "part").mkdir()
    (folder / "part" / "data.bin").write_bytes(b"weights")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_an_entry_is_built_once(store):
    calls = []
    for _ in range(2):
        folder = store.make("k", lambda scratch: (calls.append(1), build(scratch)))
    assert len(calls) == 1
    assert (folder / "part" / "data.bin").read_bytes() == b"weights"


def test_a_failed_build_leaves_nothing(store):
    with pytest.raises(RuntimeError):
        store.make("k", lambda scratch: (build(scratch), (_ for _ in ()).throw(RuntimeError("boom"))))
    assert store.get("k") is None
    assert list((store.root / "making").iterdir()) == []


@pytest.mark.parametrize("damage", ["change", "remove", "add", "manifest"])
def test_a_corrupt_entry_is_set_aside_reported_and_rebuilt(store, damage):
    folder = store.make("k", build)
    data = folder / "part" / "data.bin"
    {
        "change": lambda: data.write_bytes(b"weightz"),
        "remove": data.unlink,
        "add": lambda: (folder / "more").write_text("x"),
        "manifest": lambda: (folder / "manifest.json").write_text("{"),
    }[damage]()
    fresh = Store(store.root)
    assert fresh.get("k") is None
    assert "corrupt" in fresh.warnings[0]
    assert (fresh.make("k", build) / "part" / "data.bin").read_bytes() == b"weights"


def make_in_process(root: str) -> None:
    Store(Path(root)).make("k", build)


@pytest.mark.slow
def test_two_processes_may_make_the_same_entry(store):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=make_in_process, args=(str(store.root),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert store.get("k") is not None


def test_the_longest_unused_go_first(store):
    for number, key in enumerate("abc"):
        os.utime(store.make(key, build), (number, number))
    one = store.entries()[0][1]
    assert store.shrink(2 * one) == one
    assert [key for key, _, _ in store.entries()] == ["b", "c"]


def test_work_that_nobody_goes_on_with_is_tidied_up(store):
    for name in ("old", "new"):
        (store.keep(name) / "checkpoint").write_text("half")
    store.make("k", build)
    (store.root / "making" / "killed").mkdir()
    long_ago = time.time() - UNFINISHED_S - 1
    for path in (store.keep("old") / "checkpoint", store.keep("old"), store.root / "making" / "killed"):
        os.utime(path, (long_ago, long_ago))
    assert store.shrink(10**9) == 0
    assert [folder.name for folder in (store.root / "kept").iterdir()] == ["new"]
    assert list((store.root / "making").iterdir()) == []
    assert store.get("k")


def test_growing_past_the_limit_drops_what_nobody_here_uses(tmp_path):
    for key in ("old", "older"):
        Store(tmp_path / "store").make(key, build)
    store = Store(tmp_path / "store", limit_gb=1e-9)
    store.get("old")
    store.make("new", build)
    assert sorted(key for key, _, _ in store.entries()) == ["new", "old"]


def test_a_pass_that_fails_to_open_a_file_is_not_a_disk_that_cannot_be_written(store):
    with pytest.raises(FileExistsError):
        store.make("k", lambda folder: (folder / "x").mkdir() or (folder / "x").mkdir())


def test_openings_are_counted_for_each_split(store):
    assert [store.count_opening("s", "run") for _ in range(3)] == [1, 2, 3]
    assert store.count_opening("other", "run") == 1
    lines = [json.loads(line) for line in (store.root / "openings.jsonl").read_text().splitlines()]
    assert len(lines) == 4


def test_an_unwritable_place_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        Store(tmp_path / "file" / "store")


@pytest.fixture
def full_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_clear_line_and_nothing_is_lost(full_disk):
    store = Store(full_disk / "store")
    store.make("k", build)
    with pytest.raises(OutputError, match="no space left"):
        store.make("big", lambda folder: (folder / "data").write_bytes(b"x" * 200_000))
    assert store.get("k") is not None
    assert store.get("big") is None
    with pytest.raises(OutputError, match="no space left"):
        write_atomically(full_disk / "result.json", "x" * 200_000)
    assert not (full_disk / "result.json").exists()


def test_writing_atomically_keeps_the_old_text_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("trimtab.values.store.sync", fail)
    with pytest.raises(OutputError):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
