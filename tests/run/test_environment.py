import sys

import pytest

from trimtab.errors import DataError, OutputError
from trimtab.run import environment


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    monkeypatch.delenv("TRIMTAB_TOOL_PYTHON", raising=False)
    return tmp_path / "environments"


@pytest.fixture
def commands(monkeypatch):
    """Environments are made by these commands, which are only written down here."""
    ran = []

    def run(command, name, variable, pins):
        ran.append(command)

    monkeypatch.setattr(environment, "_run", run)
    monkeypatch.setattr(environment.shutil, "rmtree", lambda folder, ignore_errors: folder.mkdir(parents=True))
    return ran


def test_it_is_made_once_and_again_for_other_pins(cache, commands, capsys):
    first = environment.interpreter("tool", ["x==1"], "Tool")
    assert first == environment.interpreter("tool", ["x==1"], "Tool")
    assert len(commands) == 2
    assert capsys.readouterr().err.count("making an environment for Tool") == 1
    assert commands[1][:4] == [str(first), "-m", "pip", "install"]
    assert commands[1][-1] == "x==1"
    assert ":all:" in commands[1], "wheels only: nothing runs while installing"
    assert environment.interpreter("tool", ["x==2"], "Tool") != first
    assert len(commands) == 4


def test_one_that_was_cut_off_is_made_again(cache, commands):
    python = environment.interpreter("tool", ["x==1"], "Tool")
    (python.parent.parent / environment.READY).unlink()
    environment.shutil.rmtree = lambda folder, ignore_errors: None
    environment.interpreter("tool", ["x==1"], "Tool")
    assert len(commands) == 4


def test_the_user_can_name_one(cache, commands, monkeypatch):
    monkeypatch.setenv("TRIMTAB_TOOL_PYTHON", sys.executable)
    assert str(environment.interpreter("tool", ["x==1"], "Tool")) == sys.executable
    assert not commands


def test_what_cannot_be_made_says_how_to_do_it_by_hand(cache, monkeypatch):
    monkeypatch.setattr(environment.sys, "executable", "/bin/false")
    with pytest.raises(DataError, match=r"for tool cannot be made: status 1; .*pip install x==1.*TRIMTAB_TOOL_PYTHON"):
        environment.interpreter("tool", ["x==1"], "Tool")
    assert not list(cache.glob(f"*/{environment.READY}"))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="set TRIMTAB_CACHE"):
        environment.interpreter("tool", ["x==1"], "Tool")
