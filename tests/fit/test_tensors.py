import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import CorruptFile
from trimtab.fit import tensors

HELD = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(0, 2, dtype=torch.bfloat16)}


def test_round_trip(tmp_path):
    tensors.write(tmp_path / "x.safetensors", HELD, {"step": 3})
    read, note = tensors.read(tmp_path / "x.safetensors")
    assert note == {"step": 3}
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in HELD.items())
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_changed_byte_or_length_is_noticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    tensors.write(path, HELD, {"step": 3})
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
    path.write_bytes(content)
    try:
        read, note = tensors.read(path)
    except CorruptFile:
        return
    # Spaces that pad the header mean nothing.
    assert note == {"step": 3}
    assert all(torch.equal(read[name], value) for name, value in HELD.items())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    tensors.write(path, HELD, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "sync", full)
    with pytest.raises(OSError, match="No space"):
        tensors.write(path, HELD, {"step": 2})
    assert tensors.read(path)[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
