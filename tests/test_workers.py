"""Models made by Ray's workers: what travels, what is refused, and a whole run with two of them."""

import sys
from types import SimpleNamespace

import pytest

from trimtab.errors import MissingExtra, UsageError
from trimtab.request import Request
from trimtab.tasks import open_task
from trimtab.trimmer import check_request
from trimtab.values.store import Store
from trimtab.workers import archived, check_workers, crew, make, take_in

PROMISE = ("accuracy >= base - 0.03",)


@pytest.mark.parametrize("text", ["1", "0", "-2", "two", "http://host", "", "2.5"])
def test_what_names_no_workers_is_refused(text):
    with pytest.raises(UsageError, match="whole number from 2, or ray://"):
        check_workers(text)


def test_a_number_is_local_and_an_address_is_not():
    assert (check_workers("4"), check_workers("ray://head:10001")) == (4, 0)


def test_a_task_in_memory_cannot_travel():
    request = Request("zoo:mlp", "digits", PROMISE, workers="2")
    with pytest.raises(UsageError, match="in memory"):
        check_request(request, open_task("digits"))


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match="ray"), crew("2", None, "", "", None):
        pass


def test_a_folder_of_the_store_travels_whole(tmp_path):
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")

    def build(folder):
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_bytes(b"\x00\x01")
        (folder / "model.json").write_text("{}")

    made = ours.make("key", build)
    for _ in range(2):
        take_in(theirs, "key", archived(ours, "key"))
    found = theirs.get("key")
    assert found is not None
    names = {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()}
    assert names == {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert (found / "deep" / "weights").read_bytes() == b"\x00\x01"


def test_a_link_in_an_archive_is_not_followed(tmp_path):
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("weights")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(tarfile.FilterError):
        take_in(Store(tmp_path), "key", buffer.getvalue())
    assert Store(tmp_path).get("key") is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_with_two_workers_makes_its_models_in_them(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from trimtab import workers
    from trimtab.api import run

    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    asked = []
    plain = workers.Crew.make
    monkeypatch.setattr(
        workers.Crew, "make", lambda crew, steps, seconds: (asked.extend(steps), plain(crew, steps, seconds))
    )
    tries = ("prune | distill(epochs=1) @ torch",)
    request = Request("zoo:mlp(width=32) | train(epochs=2)", "digits", PROMISE, within_s=150, tries=tries, workers="2")
    document = run(request, tmp_path / "run").document
    assert tries[0].partition(" @")[0] in asked
    assert not [cell for cell in document["empty_cells"] if cell["what"] == "workers"]
    line = next(line for line in document["candidates"] if line["recipe"] == tries[0])
    assert line["figures"]


@pytest.mark.parametrize(("sizes", "threads", "found"), [((8, 8), 16, (2, 8)), ((8, 4), 2, (6, 2)), ((2,), 4, (1, 2))])
def test_no_job_needs_more_than_the_largest_machine_of_a_cluster_has(tmp_path, monkeypatch, sizes, threads, found):
    nodes = [{"Alive": True, "Resources": {"CPU": float(size)}} for size in sizes]
    ray = SimpleNamespace(
        init=lambda **_: None,
        shutdown=lambda: None,
        nodes=lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0}}],
        cluster_resources=lambda: {"CPU": float(sum(sizes))},
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    shop = SimpleNamespace(threads=threads, store=Store(tmp_path), keys=lambda model: [])
    with crew("ray://head:1", shop, "zoo:mlp", "digits", SimpleNamespace(key="base")) as joined:
        assert (joined.size, joined.cpus) == found


def test_a_worker_with_another_base_says_so(tmp_path, monkeypatch):
    import json

    from trimtab import machines

    monkeypatch.setitem(sys.modules, "ray", pytest)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    about = {"key": "other", "model": "null:linear", "task": "toy", "steps": "", "seed": 0, "threads": 1}
    job = {**about, "trust": False, "seconds": 60.0, "machine": machines.load("here").to_json()}
    archives, reason = make(json.dumps(job), {})
    assert archives == {}
    assert "other versions" in reason
