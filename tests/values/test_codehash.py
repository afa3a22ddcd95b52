"""A hash of the user's code changes with all that decides the answers, and with nothing else."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest

from trimtab.errors import DataError
from trimtab.values.codehash import code_hash, described, files_behind
from trimtab.values.store import file_hash
from trimtab.values.usercode import import_file

FILES = {
    "net.py": "import json, numpy\nfrom layers import Block\nfrom kit import parts as p\nimport kit.deep.inner\n",
    "layers.py": "import widths\nBlock = widths.WIDTH\n",
    "widths.py": "WIDTH = 3\n\ndef late():\n    import later\n",
    "later.py": "",
    "kit/__init__.py": "",
    "kit/parts.py": "from . import SIZE\nfrom .near import x\n",
    "kit/near.py": "from ..kit import far\n",
    "kit/far.py": "",
    "kit/deep/__init__.py": "",
    "kit/deep/inner.py": "from .. import up\n",
    "kit/up.py": "",
    "unused.py": "",
    "kit/unused.py": "",
}


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_file_that_an_import_runs_is_found_and_nothing_is_imported(project):
    before = set(sys.modules)
    found = files_behind(project / "net.py")
    assert {file.relative_to(project).as_posix() for file in found} == {n for n in FILES if "unused" not in n}
    assert set(sys.modules) == before
    inside = files_behind(project / "kit/deep/inner.py")
    wanted = {"kit/deep/inner.py", "kit/deep/__init__.py", "kit/__init__.py", "kit/up.py"}
    assert {file.relative_to(project).as_posix() for file in inside} == wanted


@pytest.mark.parametrize("name", FILES)
def test_a_hash_changes_with_each_file_that_is_used(project, name):
    before = code_hash(files_behind(project / "net.py"))
    (project / name).write_text(FILES[name] + "\n# changed\n")
    assert (code_hash(files_behind(project / "net.py")) != before) == ("unused" not in name)


def test_a_file_alone_has_its_own_hash_and_a_broken_one_too(project):
    for text in ("import json\nimport trimtab.api, torch, gone\n", "def broken(:\n", "from ........ import up\n"):
        (project / "alone.py").write_text(text)
        assert code_hash(files_behind(project / "alone.py")) == file_hash(project / "alone.py")


def test_every_process_finds_the_same_files_whatever_its_path(project, tmp_path_factory, monkeypatch):
    before = files_behind(project / "net.py")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "numpy.py").write_text("")
    monkeypatch.syspath_prepend(elsewhere)
    assert files_behind(project / "net.py") == before


def test_the_place_of_files_is_no_part_of_their_hash(project, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved") / "project"
    before = code_hash(files_behind(project / "net.py"))
    project.rename(moved)
    assert code_hash(files_behind(moved / "net.py")) == before


def test_a_helper_that_changes_is_imported_anew(tmp_path):
    (tmp_path / "helper_of_mine.py").write_text("WIDTH = 3\n")
    (tmp_path / "net.py").write_text("from helper_of_mine import WIDTH\n")
    first = import_file(tmp_path / "net.py")
    assert import_file(tmp_path / "net.py") is first
    (tmp_path / "helper_of_mine.py").write_text("WIDTH = 44\n")
    assert (first.WIDTH, import_file(tmp_path / "net.py").WIDTH) == (3, 44)
    other = tmp_path / "other"
    other.mkdir()
    (other / "helper_of_mine.py").write_text("WIDTH = 5\n")
    (other / "net.py").write_text("import sys\nfrom helper_of_mine import WIDTH\n")
    assert import_file(other / "net.py").WIDTH == 5, "not the one of the folder before"
    assert import_file(other / "net.py").sys is sys
    del sys.modules["helper_of_mine"]
    with pytest.raises(DataError, match=r"cannot read .*gone.py: No such file"):
        import_file(tmp_path / "gone.py")


TYPED = """
from functools import cached_property, partial
import math
SCALE, WORDS = 2, {"b", "a", "c"}

def helper(x):
    return [inner(y) for y in x]

def inner(y):
    return y + 1

class Base:
    def above(self):
        return 1

class Mine(Base):
    size = 4
    act = partial(math.pow, 2)

    def call(self, x, plus=3):
        return helper(x) * SCALE + (x in {"p", "q", "r"})

    @property
    def shown(self):
        return 5

    @staticmethod
    def fixed():
        return WORDS

def made(number):
    def inside(x):
        return x + number
    return inside

class Own:
    def __init__(self, heads):
        self.heads, self.next = heads, self

things = [Mine, made(7), Own(8), lambda x: x * 9]
"""


def typed(text: str):
    """Return what a notebook's cells would define: code that no file has."""
    module = types.ModuleType("typed_in")
    exec(text, vars(module))  # noqa: S102
    return described(module.things)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("y + 1", "y - 1"),
        ("return 1\n", "return 11\n"),
        ("size = 4", "size = 5"),
        ("math.pow, 2", "math.pow, 3"),
        ("math.pow", "math.atan2"),
        ("plus=3", "plus=4"),
        ("SCALE, WORDS = 2", "SCALE, WORDS = 3"),
        ('"q"', '"s"'),
        ("return 5", "return 6"),
        ('"b", "a"', '"b", "d"'),
        ("made(7)", "made(8)"),
        ("Own(8)", "Own(9)"),
        ("x * 9", "x * 10"),
        ("x * 9", "x / 9"),
    ],
)
def test_what_is_typed_in_is_told_by_what_it_does(old, new):
    assert old in TYPED
    assert typed(TYPED) == typed(TYPED.replace("\n", "\n\n").replace("def ", "# said\ndef ", 1))
    assert typed(TYPED) != typed(TYPED.replace(old, new))


def test_every_number_of_an_array_is_told():
    numbers = np.zeros(5000, np.float32)
    other = numbers.copy()
    other[2500] = 1e-9
    said = [described({"idf": [array]}) for array in (numbers, numbers.copy(), other, numbers.reshape(50, 100))]
    assert said[0] == said[1]
    assert len({*said}) == 3
    torch = pytest.importorskip("torch")
    tensors = [
        torch.tensor(value, dtype=kind) for value, kind in ((0.12341, None), (0.12342, None), (0.1, torch.bfloat16))
    ]
    assert len({described(tensor) for tensor in tensors}) == 3
    assert described(np.array(["a", None], object)) != described(np.array(["b", None], object))


def test_it_is_told_the_same_in_every_process():
    script = f"import types\nfrom trimtab.values.codehash import described\n{TYPED}\nprint(described(things))"
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(said) == 1
    assert b" at 0x" not in next(iter(said))
