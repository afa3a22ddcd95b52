"""A bundle is refused when a byte of it differs, and is replaced whole or not at all."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trimtab
from trimtab import pack as packing
from trimtab.apply import Workshop
from trimtab.errors import CorruptFile, DataError, OutputError
from trimtab.machines import here
from trimtab.pack import BUNDLE_FILE, HASH_FILE, check, load, pack
from trimtab.recipe import bind_runtime
from trimtab.tasks import open_task
from trimtab.values.store import Store, file_hash, files_of
from workbench import TOY, finished_run, quick

__all__ = ["quick"]


@pytest.fixture(scope="module")
def bundle():
    return finished_run().bundle


@pytest.fixture
def copy(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Workshop(open_task(TOY), Store(tmp_path_factory.mktemp("store")), here()).open("null:linear")


def points(count):
    return np.stack([example.inputs["features"] for example in open_task(TOY).split("test")[:count]])


@pytest.fixture(scope="module")
def spoilt(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoilt") / "bundle"
    shutil.copytree(bundle, folder)
    return folder


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_changed_byte_anywhere_is_refused(spoilt, data):
    path = data.draw(st.sampled_from(files_of(spoilt)))
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    try:
        with pytest.raises(CorruptFile):
            load(spoilt)
    finally:
        path.write_bytes(good)


def test_a_cut_a_lengthened_and_a_missing_file_are_refused(copy):
    for path in files_of(copy):
        good = path.read_bytes()
        for wrong in (good[:-1], good + b"\n", b""):
            if path.name == HASH_FILE and wrong == good + b"\n":
                continue
            path.write_bytes(wrong)
            with pytest.raises(CorruptFile):
                check(copy)
        path.unlink()
        with pytest.raises(CorruptFile):
            check(copy)
        path.write_bytes(good)
    assert check(copy)["verdict"] == "PASS"


@pytest.mark.parametrize("place", [".", "model", "model/main"])
def test_what_does_not_belong_there_is_refused(copy, tmp_path, place):
    stranger = copy / place / "stranger"
    (tmp_path / "elsewhere").mkdir()
    for make in (
        lambda: stranger.write_text("x"),
        lambda: stranger.symlink_to(tmp_path / "elsewhere"),
        lambda: stranger.symlink_to("gone"),
        lambda: os.mkfifo(stranger),
    ):
        make()
        with pytest.raises(CorruptFile, match="stranger"):
            load(copy)
        stranger.unlink()
    load(copy)


@pytest.mark.parametrize("name", ["README.md", "model/main/weights.npz", BUNDLE_FILE, HASH_FILE])
def test_a_file_swapped_for_a_link_or_a_pipe_is_refused(copy, tmp_path, name):
    good = tmp_path / "good"
    (copy / name).rename(good)
    (copy / name).symlink_to(good)
    with pytest.raises(CorruptFile, match="is a link"):
        load(copy)
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(CorruptFile, match="no plain file"):
        load(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"files": []},
        {"files": {"../../etc/passwd": "0"}},
        {"runtime": 3},
        {"versions": None},
        {"artefact": None},
    ],
)
def test_a_bundle_made_to_deceive_is_refused(copy, change):
    path = copy / BUNDLE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (copy / HASH_FILE).write_text(file_hash(path))
    with pytest.raises(CorruptFile):
        load(copy)


def test_no_bundle_at_all_says_so(tmp_path):
    with pytest.raises(DataError, match="there is no bundle"):
        load(tmp_path / "gone")
    with pytest.raises(CorruptFile, match=f"has no {BUNDLE_FILE}"):
        load(tmp_path)


def test_a_moved_bundle_still_answers(copy, tmp_path):
    moved = tmp_path / "elsewhere"
    copy.rename(moved)
    with load(moved) as bundle:
        answer = bundle.predict(points(7))
    assert answer["output"].shape == (7, 3)
    assert list(answer["label"]) == [str(k) for k in answer["output"].argmax(axis=1)]


def test_the_verdict_belongs_to_its_versions_and_its_processor(bundle):
    found = load(bundle)
    assert found.verdict == "PASS"
    assert found.changes() == []
    old = replace(found, about={**found.about, "versions": {"numpy": "0.1"}})
    assert old.verdict.startswith("PASS, not verified here: numpy is ")
    machine = {**found.about["machine"], "isa": ["vax"]}
    assert "not verified here: the CPU has other" in replace(found, about={**found.about, "machine": machine}).verdict


def test_a_wrong_input_is_told_by_name(bundle):
    with load(bundle) as found, pytest.raises(DataError, match="features"):
        found.predict({"feature": points(2)})


def test_a_table_is_asked_by_its_columns_and_the_readme_says_so(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{'uv'[i % 3 % 2]},{'xy'[i % 2]}" for i, a in enumerate(rng.normal(size=80))]
    (tmp_path / "table.csv").write_text("\n".join(["tall one,sort,label", *rows]))
    task = open_task(f"{tmp_path}/table.csv(target='label')")
    model = Workshop(task, Store(tmp_path / "store"), here()).open("null:linear")
    pack(model, bind_runtime("null"), tmp_path / "bundle", about(1))
    assert '{"tall one": tall_one, "sort": sort}' in (tmp_path / "bundle/README.md").read_text()
    with load(tmp_path / "bundle") as found:
        assert found.predict({"tall one": [1.0, 2.0], "sort": ["u", "v"]})["output"].shape == (2, 2)
        with pytest.raises(DataError, match="takes tall one, sort"):
            found.predict(np.zeros((2, 3)))
        with pytest.raises(DataError, match="'tall one' is absent"):
            found.predict({"tal one": [1.0], "sort": ["u"]})


def about(number):
    return {"recipe": "none", "number": number}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("place", ["sync", "seal", "_replace", "gather"])
def test_a_failed_write_leaves_the_old_bundle(made, tmp_path, monkeypatch, place, code):
    out, runtime = tmp_path / "bundle", bind_runtime("null")
    pack(made, runtime, out, about(1))

    def fails(*words):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(packing, place, fails)
    with pytest.raises(OutputError):
        pack(made, runtime, out, about(2))
    assert check(out)["number"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    monkeypatch.undo()
    pack(made, runtime, out, about(3))
    assert check(out)["number"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_rename_that_fails_puts_the_old_bundle_back(made, tmp_path, monkeypatch):
    out, runtime = tmp_path / "bundle", bind_runtime("null")
    pack(made, runtime, out, about(1))
    rename = Path.rename

    def fails(self, target):
        if Path(target) == out and self.name != f".{out.name}.old":
            raise OSError(errno.ENOSPC, "full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OutputError):
        pack(made, runtime, out, about(2))
    assert check(out)["number"] == 1


def test_a_kill_between_the_renames_loses_nothing(made, tmp_path, monkeypatch):
    out, runtime = tmp_path / "bundle", bind_runtime("null")
    pack(made, runtime, out, about(1))
    out.rename(out.with_name(".bundle.old"))
    monkeypatch.setattr(packing, "gather", lambda *words: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OutputError):
        pack(made, runtime, out, about(2))
    assert check(tmp_path / ".bundle.old")["number"] == 1
    monkeypatch.undo()
    pack(made, runtime, out, about(3))
    assert check(out)["number"] == 3


SERVE = """
import sys, numpy, trimtab
with trimtab.load(sys.argv[1]) as bundle:
    numpy.save(sys.argv[3], bundle.predict(numpy.load(sys.argv[2]))["output"])
    print(bundle.verdict)
"""


def test_it_serves_in_a_fresh_process(bundle, tmp_path):
    np.save(tmp_path / "in.npy", points(9))
    words = [sys.executable, "-c", SERVE, str(bundle), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "PASS"
    with trimtab.load(bundle) as found:
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), found.predict(points(9))["output"])
