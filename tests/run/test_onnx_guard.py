import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import CorruptFile, UnsafeFile
from trimtab.run import onnx_guard
from trimtab.run.onnx_guard import guarded


@given(
    data=st.lists(st.sampled_from([b"location", b"loca", b"tion", b"l", b"x"])).map(b"".join), chunk=st.integers(1, 20)
)
def test_the_word_is_found_wherever_chunks_end(tmp_path_factory, data, chunk):
    path = tmp_path_factory.getbasetemp() / "searched"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_guard, "CHUNK", chunk)
        assert onnx_guard._mentions(path, b"location") == (b"location" in data)


def test_a_path_out_of_the_folder_is_refused_before_a_runtime_sees_it(stateful, tmp_path):
    import onnx

    proto = onnx.load(stateful.folder / "main" / "model.onnx")
    tensor = proto.graph.initializer[0]
    (tmp_path / "secret").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="../secret")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    (tmp_path / "part").mkdir()
    with pytest.raises(CorruptFile, match="cannot read"):
        guarded(tmp_path / "part")
    (tmp_path / "part" / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UnsafeFile, match="only a plain path inside"):
        guarded(tmp_path / "part")


def test_a_plain_file_is_passed_without_the_library(stateful):
    code = f"""
import pathlib, sys
from trimtab.run.onnx_guard import guarded
print(guarded(pathlib.Path({str(stateful.folder / "main")!r})).name, "onnx" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "model.onnx False\n"
