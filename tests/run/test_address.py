import stat

import pytest

from trimtab.errors import SessionError, UsageError
from trimtab.run.address import Address


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ssh:box", ("box", None, "python3")),
        ("ssh:me@edge-1.example.org:2222", ("me@edge-1.example.org", 2222, "python3")),
        ("ssh:10.0.0.7?python=/opt/venv/bin/python", ("10.0.0.7", None, "/opt/venv/bin/python")),
        ("ssh:me@[fe80::1]:22", ("me@fe80::1", 22, "python3")),
    ],
)
def test_an_address_is_read(text, parts, monkeypatch):
    monkeypatch.delenv("TRIMTAB_REMOTE_PYTHON", raising=False)
    address = Address.parse(text)
    assert (address.host, address.port, address.python) == parts


@pytest.mark.parametrize(
    "text", ["ssh:", "ssh:-oProxyCommand=x", "ssh:-l@box", "ssh:box:port", "ssh:a b", "ssh:box?python=", "ssh:box;ls"]
)
def test_what_is_no_address_says_how_one_looks(text):
    with pytest.raises(UsageError, match="looks like ssh:me@box"):
        Address.parse(text)


def test_the_environment_names_ssh_and_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRIMTAB_REMOTE_PYTHON", "/opt/a b/python")
    monkeypatch.setenv("TRIMTAB_SSH", "ssh -F 'a config'")
    command = Address.parse("ssh:box:7").command("-m", "x")
    assert command[:3] == ["ssh", "-F", "a config"]
    assert command[-5:] == ["-p", "7", "--", "box", "exec '/opt/a b/python' -P -m x"]
    assert "BatchMode=yes" in command
    assert not [word for word in command if "StrictHostKeyChecking" in word], "the user's own setting stands"


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        (
            "echo 'connect to host box port 22: Connection refused' >&2; exit 255",
            SessionError,
            "cannot reach box.*refus",
        ),
        ("echo 'python3: not found' >&2; exit 127", UsageError, r"cannot run python3.*\?python="),
        ("echo \"No module named 'trimtab'\" >&2; exit 1", UsageError, "cannot run trimtab.*install it there"),
        ("echo 'ValueError: no' >&2; exit 1", SessionError, "trimtab fails on box: ValueError: no"),
        ("echo Welcome to the box!", SessionError, "not the facts of a machine"),
    ],
)
def test_what_goes_wrong_over_there_is_told(tmp_path, monkeypatch, script, kind, said):
    path = tmp_path / "ssh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("TRIMTAB_SSH", str(path))
    monkeypatch.delenv("TRIMTAB_REMOTE_PYTHON", raising=False)
    with pytest.raises(kind, match=said):
        Address.parse("ssh:box").tell()


def test_no_ssh_at_all(monkeypatch):
    monkeypatch.setenv("TRIMTAB_SSH", "/nowhere/ssh")
    with pytest.raises(UsageError, match="there is no /nowhere/ssh here"):
        Address.parse("ssh:box").tell()
