import gc
import io
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import psutil
import pytest

from trimtab.errors import (
    CorruptFile,
    DataError,
    Refused,
    SessionError,
    WorkerDied,
    WorkerHung,
    WorkerMemory,
)
from trimtab.run import client, wire
from trimtab.run.client import Worker, open_worker
from trimtab.runtimes.null import Null
from trimtab.runtimes.onnxruntime import OnnxRuntime

POINTS = {"features": np.arange(10, dtype=np.float32).reshape(2, 5)}


def gone(pid: int, seconds: float = 10.0) -> bool:
    """True once no process of that id runs; a zombie that init has yet to collect counts as gone."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.slow
def test_a_worker_answers_times_and_tells_its_usage(make_null, machine):
    before = psutil.Process().num_fds()
    with open_worker(make_null(), Null(delay_ms=2), machine) as worker:
        assert np.array_equal(worker.run(POINTS)["output"], POINTS["features"][:, :3])
        seconds = worker.time(POINTS, 0.05, warmup=1)
        assert seconds.dtype == np.float64
        assert 1 <= len(seconds) <= 26
        assert seconds.min() >= 0.002
        usage = worker.usage()
        assert usage["peak_memory_mb"] >= usage["base_memory_mb"] > 1
        assert usage["cpu_seconds"] > 0
        pid = worker.pid
        assert usage["pid"] == pid
    assert not psutil.pid_exists(pid)
    gc.collect()
    assert psutil.Process().num_fds() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("crash", WorkerDied, "null.*killed by SIGSEGV during run"),
        ("exit", WorkerDied, "exited with status 7 during run"),
        ("hang", WorkerHung, "no answer to run in 0.4 s"),
        ("memory", WorkerMemory, "ran out of memory during run"),
    ],
)
def test_faults_at_a_call_become_sentences(make_null, machine, fault, kind, said):
    with open_worker(make_null(), Null(fail=fault), machine, memory_limit_mb=100, seconds=30) as worker:
        pid = worker.pid
        worker.seconds = 0.4 if fault == "hang" else 30
        with pytest.raises(kind, match=said):
            worker.run(POINTS)
        assert not psutil.pid_exists(pid)
        with pytest.raises(WorkerDied, match="closed"):
            worker.usage()
    assert not psutil.pid_exists(pid)


def test_what_a_library_prints_does_not_disturb(make_null, machine):
    with open_worker(make_null(), Null(fail="noise"), machine) as worker:
        assert worker.run(POINTS)["output"].shape == (2, 3)


@pytest.mark.slow
def test_faults_while_loading_keep_their_kind(make_null, machine):
    with pytest.raises(CorruptFile, match="told to fail"), open_worker(make_null(), Null(fail="load"), machine):
        pass
    refused = pytest.raises(Refused, match="takes onnx; this model is null")
    with refused, open_worker(make_null(), OnnxRuntime(), machine):
        pass


def test_bad_inputs_leave_the_worker_in_service(make_null, machine):
    with open_worker(make_null(), Null(), machine) as worker:
        with pytest.raises(DataError, match="takes features"):
            worker.run({"image": np.ones((2, 5))})
        with pytest.raises(TypeError, match="numbers only"):
            worker.run({"features": np.array([["a"]], dtype=object)})
        assert len(worker.run(POINTS)["output"]) == 2


def test_large_arrays_go_both_ways(make_null, machine):
    folder = make_null(np.ones((1, 1), np.float32), np.ones(1, np.float32))
    with open_worker(folder, Null(), machine) as worker:
        rows = np.arange(3_000_000, dtype=np.float32)[:, None]
        assert np.array_equal(worker.run({"features": rows})["output"], rows + 1)
        assert worker.run({"features": rows[:0]})["output"].shape == (0, 1)


def test_a_paused_worker_takes_no_time_and_goes_on(make_null, machine):
    with open_worker(make_null(), Null(), machine) as worker:
        worker.pause()
        process = psutil.Process(worker.pid)
        while process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.001)
        worker.resume()
        assert len(worker.run(POINTS)["output"]) == 2
        worker.pause()
        assert len(worker.run(POINTS)["output"]) == 2, "a call resumes"
        worker.pause()
    assert not psutil.pid_exists(worker.pid)


def test_a_killed_worker_is_told_from_a_crash(make_null, machine):
    with open_worker(make_null(), Null(), machine) as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="SIGKILL, perhaps by the system for want of memory"):
            worker.run(POINTS)


def fake_interpreter(tmp_path, monkeypatch, script):
    path = tmp_path / "fake"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("echo a library prints here; cat > /dev/null", WorkerDied, "no message: a message cannot begin with b'a li'"),
        (r"printf '\002\000\000\000{}'; cat > /dev/null", WorkerDied, "unreadable header"),
        ("echo the reason >&2; exit 3", WorkerDied, "status 3 during usage; its last words: the reason"),
        ("echo terminate called: std::bad_alloc >&2; exit 3", WorkerMemory, "std::bad_alloc"),
        ("exec sleep 60", WorkerHung, "no answer to usage in 0.3 s"),
    ],
)
def test_strange_processes_are_told_and_reaped(tmp_path, monkeypatch, script, kind, said):
    fake_interpreter(tmp_path, monkeypatch, script)
    with Worker(seconds=0.3 if kind is WorkerHung else 10) as worker:
        with pytest.raises(kind, match=said):
            worker.usage()
        assert not psutil.pid_exists(worker.pid)


def test_a_worker_without_a_model_says_so():
    with Worker() as worker, pytest.raises(SessionError, match="nothing is loaded"):
        worker.run(POINTS)


@pytest.mark.slow
def test_a_worker_dies_with_its_parent_even_while_paused(make_null):
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from trimtab.run.client import open_worker
        from trimtab.runtimes.null import Null
        from trimtab.values.machine import Machine
        with open_worker(Path(sys.argv[1]), Null(), Machine("m", 1)) as worker:
            worker.pause()
            print(worker.pid, flush=True)
            time.sleep(60)
    """)
    command = [sys.executable, "-c", script, str(make_null())]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert psutil.pid_exists(worker)
        parent.kill()
        parent.wait()
    assert gone(worker)


def test_threads_are_set_before_libraries_load(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert client.environment(3)["OMP_NUM_THREADS"] == "3"
    assert client.environment(1)["OMP_WAIT_POLICY"] == "PASSIVE"


def sent(header, arrays):
    return io.BytesIO(b"".join(bytes(piece) for piece in wire.pieces(header, arrays)))


def fill(stream):
    def read(buffer):
        assert stream.readinto(buffer) == len(buffer)

    return read


@pytest.mark.parametrize(
    "array",
    [np.float64(3), np.zeros((0, 4), np.int8), np.arange(12).reshape(3, 4).T, np.array([True]), np.ones(2, ">f4")],
)
def test_messages_keep_arrays_as_they_are(array):
    header, arrays = wire.receive(fill(sent({"command": "x"}, {"a": np.asarray(array)})))
    assert header == {"command": "x"}
    assert arrays["a"].dtype == array.dtype
    assert arrays["a"].shape == array.shape
    assert np.array_equal(arrays["a"], array)


def test_no_objects_travel():
    text = b'{"arrays": [["a", "|O", [1]]]}'
    stream = io.BytesIO(wire.LENGTH.pack(len(text)) + text + bytes(8))
    with pytest.raises(wire.Garbled, match="only numbers travel"):
        wire.receive(fill(stream))
