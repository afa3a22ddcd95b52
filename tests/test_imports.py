"""What importing costs: nothing but the standard library until something is used."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import trimtab
from trimtab.values.registry import KINDS

HEAVY = {"numpy", "scipy", "rich", "torch", "onnx", "onnxruntime", "openvino", "sklearn", "PIL", "pyarrow", "psutil"}
SHOW = (
    "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules if sys.modules[name]})))"
)


def loaded(code: str) -> set[str]:
    """Return the top packages in memory after running the code in a fresh process."""
    words = [sys.executable, "-I", "-c", f"{code}\n{SHOW}"]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    return set(json.loads(found.stdout.splitlines()[-1]))


def test_importing_the_package_loads_the_standard_library_only():
    before = loaded("pass")
    after = loaded("import trimtab")
    assert after - before <= set(sys.stdlib_module_names) | {"trimtab"}
    assert "trimtab" in after


@pytest.mark.slow
def test_openvino_has_nobody_to_report_to():
    pytest.importorskip("openvino")
    code = (
        "import trimtab, openvino, openvino.tools.ovc.telemetry_utils as used\nassert used.tm.__name__.endswith('stub')"
    )
    after = loaded(code)
    assert "openvino" in after
    assert "openvino_telemetry" not in after


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["trim", "--help"], ["--version"], ["trim"], ["tirm"], []])
def test_words_that_do_no_work_load_nothing_heavy(words):
    after = loaded(f"from trimtab import cli\ntry:\n    cli.main({words})\nexcept SystemExit:\n    pass")
    assert not after & HEAVY
    assert "trimtab" in after


@pytest.mark.slow
def test_listing_names_loads_no_library_that_a_thing_needs():
    after = loaded("from trimtab import cli\ncli.main(['list', 'passes', '--json'])")
    assert not after & (HEAVY - {"rich", "numpy", "psutil"})


@pytest.mark.slow
def test_the_public_names_come_when_asked_for():
    names = "import trimtab; trimtab.trim; trimtab.load; trimtab.Task; dir(trimtab)"
    assert "numpy" in loaded(names)
    assert "torch" not in loaded(names)
    with pytest.raises(subprocess.CalledProcessError):
        loaded("import trimtab; trimtab.tirm")


def imported(path):
    """Return the modules of trimtab that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("kind", KINDS)
def test_things_in_one_registry_never_import_each_other_nor_another_registry(kind):
    root = Path(trimtab.__file__).parent
    public = {f"trimtab.{other}.{path.stem}" for other in KINDS for path in (root / other).glob("[!_]*.py")}
    others = {f"trimtab.{other}" for other in KINDS if other != kind}
    for path in (root / kind).glob("*.py"):
        strange = set(imported(path)) & (public | others)
        assert not strange - {f"trimtab.{kind}.{path.stem}"}, f"{path.name} imports {', '.join(sorted(strange))}"
