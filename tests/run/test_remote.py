"""Workers over a real ssh, to an sshd of the test's own on loopback."""

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from trimtab import load, machines
from trimtab.api import run
from trimtab.errors import DataError, Refused, SessionError, UsageError, WorkerDied, WorkerHung
from trimtab.run.client import open_worker
from trimtab.run.keeper import content
from trimtab.runtimes.null import Null
from trimtab.values.store import Store
from workbench import request, working

pytestmark = pytest.mark.slow
POINTS = {"features": np.arange(10, dtype=np.float32).reshape(2, 5)}
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return Path(f"{path}.pub").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An sshd with its own host key, for this user's own new key; returns its port and the client's configuration."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("no sshd here: install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd started by root insists on it
    root = tmp_path_factory.mktemp("sshd")
    host_key, user_key = key(root / "host"), key(root / "user")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (root / "authorized").write_text(user_key)
    (root / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nAuthorizedKeysFile {root}/authorized\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\n"
        f"PermitRootLogin prohibit-password\nSetEnv TRIMTAB_CACHE={root}/cache PYTHONPATH={':'.join(sys.path[1:])}\n"
    )
    (root / "known").write_text(f"[127.0.0.1]:{port} {host_key}")
    (root / "config").write_text(
        f"Host box\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentityFile {root}/user\n"
        f"Host *\n  IdentitiesOnly yes\n  UserKnownHostsFile {root}/known\n  StrictHostKeyChecking yes\n"
    )
    with (
        (root / "log").open("w") as log,
        subprocess.Popen([SSHD, "-D", "-e", "-f", root / "sshd_config"], stderr=log) as sshd,
    ):
        try:
            wait_for(port, sshd)
            yield root
        finally:
            sshd.terminate()


def wait_for(port, sshd):
    until = time.monotonic() + 10
    while time.monotonic() < until and sshd.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail("the test's own sshd does not start")


@pytest.fixture
def box(server, monkeypatch):
    monkeypatch.setenv("TRIMTAB_SSH", f"ssh -F {server}/config")
    monkeypatch.setenv("TRIMTAB_REMOTE_PYTHON", sys.executable)
    return server


@pytest.fixture
def there(box):
    return machines.load("ssh:box")


def until_gone(pid):
    until = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "it goes on after its connection"
        time.sleep(0.02)


def test_a_machine_is_probed_over_there(there):
    here = machines.here()
    assert there.name == "ssh:box"
    assert (there.cpu, there.cores, there.isa) == (here.cpu, here.cores, here.isa)
    assert there.power_meter == "", "a meter over there is not read from here"


def test_a_worker_over_there_is_a_session_like_one_here(there, box, make_null):
    folder = make_null()
    with open_worker(folder, Null(delay_ms=2), there) as worker:
        assert np.array_equal(worker.run(POINTS)["output"], POINTS["features"][:, :3])
        seconds = worker.time(POINTS, 0.05)
        assert seconds.min() >= 0.002, "timed over there"
        pid = int(worker.usage()["pid"])
        assert pid != worker.pid
        with pytest.raises(DataError, match="takes features"):
            worker.run({"image": POINTS["features"]})
        with pytest.raises(TypeError, match="numbers only"):
            worker.run({"features": np.array([["a"]], dtype=object)})
        assert len(worker.run(POINTS)["output"]) == 2
    until_gone(pid)
    sent = [path for path in (box / "cache" / "remote").iterdir() if content(path) == content(folder)]
    assert len(sent) == 1


def test_a_folder_is_sent_once(there, box, make_null):
    folder = make_null(np.full((5, 3), 2, np.float32))
    with open_worker(folder, Null(), there):
        pass
    [sent] = [path for path in (box / "cache" / "remote").iterdir() if content(path) == content(folder)]
    made = (sent / "model.json").stat().st_mtime_ns
    with open_worker(folder, Null(), there) as worker:
        assert worker.run(POINTS)["output"].tolist() == [[20, 20, 20], [70, 70, 70]]
    assert (sent / "model.json").stat().st_mtime_ns == made


def test_pausing_stops_the_process_over_there_and_closing_ends_it(there, make_null):
    with open_worker(make_null(), Null(), there) as worker:
        process = psutil.Process(int(worker.usage()["pid"]))
        worker.pause()
        assert process.status() == psutil.STATUS_STOPPED
        worker.resume()
        worker.resume()
        assert len(worker.run(POINTS)["output"]) == 2
        worker.pause()
        assert len(worker.run(POINTS)["output"]) == 2, "a call resumes"
        worker.pause()
    until_gone(process.pid)


def test_a_lost_connection_is_told_and_leaves_nothing(there, make_null):
    with open_worker(make_null(), Null(), there) as worker:
        pid = int(worker.usage()["pid"])
        worker.pause()
        worker._process.kill()
        with pytest.raises(WorkerDied, match=r"null on box .* during run"):
            worker.run(POINTS)
        worker.resume()
    until_gone(pid)


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("crash", WorkerDied, "null.*on box was killed by SIGSEGV during run"),
        ("exit", WorkerDied, "exited with status 7 during run"),
        ("hang", WorkerHung, "no answer to run in 1.5 s"),
    ],
)
def test_faults_over_there_become_the_same_sentences(there, make_null, fault, kind, said):
    with open_worker(make_null(), Null(fail=fault), there) as worker:
        pid = int(worker.usage()["pid"])
        worker.seconds = 1.5 if fault == "hang" else 30
        with pytest.raises(kind, match=said):
            worker.run(POINTS)
    until_gone(pid)


def test_code_that_only_this_machine_has_is_refused(there, make_null):
    folder = make_null()
    (folder / "main" / "torch.json").write_text(json.dumps({"build": {"ref": "/home/me/net.py:Net"}}))
    with (
        pytest.raises(Refused, match=r"net\.py, which a remote machine does not have"),
        open_worker(folder, Null(), there),
    ):
        pass


def test_other_versions_are_refused(box, monkeypatch):
    monkeypatch.setattr(machines, "versions", lambda: {"trimtab": "0.0.1"})
    with pytest.raises(UsageError, match=r"box has trimtab .*, here it is 0\.0\.1.* install trimtab==0\.0\.1"):
        machines.load("ssh:box")


def test_hosts_that_cannot_be_used(box, monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="cannot run /nowhere/python"):
        machines.load("ssh:box?python=/nowhere/python")
    with pytest.raises(SessionError, match=r"cannot reach box:.*refused"):
        machines.load("ssh:box:1")
    (tmp_path / "config").write_text((box / "config").read_text().replace(f"{box}/known", f"{tmp_path}/none"))
    monkeypatch.setenv("TRIMTAB_SSH", f"ssh -F {tmp_path}/config")
    with pytest.raises(SessionError, match="Host key verification failed"):
        machines.load("ssh:box")


def test_a_whole_trim_measures_over_there(box, tmp_path):
    with working():
        result = run(request(on="ssh:box"), tmp_path / "run", store=Store(tmp_path / "store"))
    assert result.verdict == "PASS"
    assert result.document["conditions"]["machine"]["name"] == "ssh:box"
    assert result.bundle is not None
    assert load(result.bundle).verdict == "PASS"
