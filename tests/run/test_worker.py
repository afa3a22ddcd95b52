"""Programs through real workers: what the driver computes on ONNX parts against plain numpy."""

import subprocess
import sys

import numpy as np
import pytest

from trimtab.run import worker
from trimtab.run.client import open_worker
from trimtab.runtimes.onnxruntime import OnnxRuntime


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stateful", "greedy", "cascade"])
def test_programs_agree_with_numpy(request, machine, name):
    program = request.getfixturevalue(name)
    with open_worker(program.folder, OnnxRuntime(), machine) as session:
        outputs = session.run(program.inputs)
        assert session.time(program.inputs, 0.0, warmup=0).shape == (1,)
    assert set(outputs) == set(program.expected)
    for key, expected in program.expected.items():
        assert np.allclose(outputs[key], expected, atol=1e-5), key


def test_program_fixtures_exercise_what_they_are_for(greedy, cascade):
    assert len(set(greedy.expected["lengths"].tolist())) > 2, "rows stop at different lengths"
    assert 0 < cascade.expected["stage"].mean() < 1, "some rows reach the second stage, some do not"


def test_starting_a_worker_imports_no_heavy_library():
    heavy = "{'torch', 'onnx', 'onnxruntime', 'openvino', 'scipy', 'psutil', 'pandas'}"
    code = f"import sys, trimtab.run.worker; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried",
        "Fail: bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 136314880",
        "RuntimeError: Check 'ptr' failed at cpu_memory.cpp:257: Failed to allocate 136314880 bytes of memory",
        "terminate called after throwing an instance of 'std::bad_alloc'",
    ],
)
def test_each_library_says_in_its_own_way_that_memory_is_full(text):
    assert worker.describe(RuntimeError(text))["kind"] == "memory"


def test_other_errors_are_not_taken_for_full_memory():
    assert worker.describe(RuntimeError("shape mismatch"))["kind"] == "other"
    assert worker.describe(MemoryError())["kind"] == "memory"
