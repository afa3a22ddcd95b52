import io
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest

from trimtab.run import keeper, wire
from trimtab.run.keeper import Keeper


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Ask a keeper without a worker; returns what it answers."""
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))

    def ask(*messages):
        stream = io.BytesIO(b"".join(bytes(p) for m in messages for p in wire.pieces(*m)))
        given = io.BytesIO()
        Keeper(SimpleNamespace(stdin=None), given).forward(stream)
        given.seek(0)
        replies = []
        while given.tell() < len(given.getvalue()):
            replies.append(wire.receive(given.readinto)[0])
        return replies

    return ask


def sending(key, name="main/w.bin", data=b"weights", content=None):
    bytes_ = {"bytes": np.frombuffer(data, np.uint8)}
    return [
        ({"command": "file", "key": key, "name": name}, bytes_),
        ({"command": "seal", "key": key, "content": content}, {}),
    ]


def digest(tmp_path, data=b"weights"):
    (tmp_path / "same" / "main").mkdir(parents=True)
    (tmp_path / "same" / "main" / "w.bin").write_bytes(data)
    return keeper.content(tmp_path / "same")


def test_a_folder_is_put_together_once_and_found_again(kept, tmp_path):
    content = digest(tmp_path)
    have = ({"command": "have", "key": "k"}, {})
    before, _, sealed, after = kept(have, *sending("k", content=content), have)
    assert before == {"folder": ""}
    assert sealed == after
    assert keeper.content(keeper.cache() / "k") == content
    again = kept(*sending("k", content=content))[1]
    assert again == sealed, "another connection was quicker"
    assert [path.name for path in keeper.cache().iterdir()] == ["k"]


def test_what_arrived_torn_is_not_kept(kept, tmp_path):
    replies = kept(*sending("k", data=b"weight", content=digest(tmp_path)))
    assert "not those that were sent" in replies[1]["error"]["message"]
    assert not list(keeper.cache().iterdir())


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", ""])
def test_no_file_leaves_its_folder(kept, name, tmp_path):
    reply = kept(*sending("k", name=name, content={}))[0]
    assert "no name of a file" in reply["error"]["message"]
    assert not list(tmp_path.rglob("evil"))


def test_what_was_used_longest_ago_goes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    now = time.time()
    for name, age in (("old", 300.0), ("new", 10.0), (".torn.1", 2 * keeper.DAY_S), (".coming.2", 10.0)):
        folder = keeper.cache() / name
        folder.mkdir(parents=True)
        (folder / "w").write_bytes(bytes(100))
        os.utime(folder, (now - age, now - age))
    keeper.shrink(150)
    assert {path.name for path in keeper.cache().iterdir()} == {"new", ".coming.2"}
