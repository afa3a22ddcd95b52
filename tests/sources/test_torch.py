import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trimtab.errors import CorruptFile, DataError, RecipeError, UnknownName, UnsafeFile
from trimtab.fit import module as artefact
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

CODE = """
from torch import nn
from helper import WIDTH

def build(width=WIDTH):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, image):
        return self.head(image.flatten(1))
"""


@pytest.fixture(scope="module")
def view():
    return TaskView(registry("tasks").take("digits")())


@pytest.fixture
def source():
    return registry("sources").take("torch")()


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper.py").write_text("WIDTH = 6\n")
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path / "net.py"


def other_weights(width=6):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)).state_dict()


def test_a_function_a_class_and_arguments(source, file, view, tmp_path):
    for ref, parameters in ((":build", 460), (":build(width=4)", 310), (":Net", 650)):
        model = source.open(f"{file}{ref}", tmp_path / ref.strip(":()"), view)
        assert model.facts.parameters == parameters
        assert artefact.load(model.main)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
        assert model.lineage == (f"torch:{file}{ref}",)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "inner.pth"])
def test_weights_are_filled_in(source, file, view, tmp_path, name):
    path, state = tmp_path / name, other_weights()
    if name.endswith("safetensors"):
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if "inner" in name else state, path)
    model = source.open(f"{file}:build(weights='{path}')", tmp_path / "out", view)
    assert torch.equal(artefact.load(model.main).state_dict()["1.weight"], state["1.weight"])


def test_a_pickled_module_is_never_opened(source, file, view, tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("owned",))

    for name, thing in (("whole.pt", nn.Linear(2, 2)), ("trap.pth", {"x": Trap()})):
        torch.save(thing, tmp_path / name)
        with pytest.raises(UnsafeFile, match=r"could run code.*save_file"):
            source.open(f"{file}:build(weights='{tmp_path / name}')", tmp_path / "out", view)
    (tmp_path / "model.pkl").write_bytes(b"x")
    with pytest.raises(UnsafeFile, match=r"weights are .safetensors"):
        source.open(f"{file}:build(weights='{tmp_path / 'model.pkl'}')", tmp_path / "out", view)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_truncated_weights(source, file, view, tmp_path, name):
    path = tmp_path / name
    save_file(other_weights(), path) if name.endswith("safetensors") else torch.save(other_weights(), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptFile, match=r"is not a whole (safetensors|torch) file"):
        source.open(f"{file}:build(weights='{path}')", tmp_path / "out", view)


def test_weights_of_another_net(source, file, view, tmp_path):
    state = other_weights(5)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"its 1.bias has shape \[5\], the module's \[6\]"):
        source.open(f"{file}:build(weights='{tmp_path / 'w.safetensors'}')", tmp_path / "out", view)
    with pytest.raises(
        DataError, match=r"it lacks head.weight, head.bias; it has besides 1.bias, 1.weight, 3.bias and 1 more"
    ):
        source.open(f"{file}:Net(weights='{tmp_path / 'w.safetensors'}')", tmp_path / "out", view)


def test_the_fingerprint_covers_code_arguments_and_weights(source, file, tmp_path):
    weights = tmp_path / "w.safetensors"
    save_file(other_weights(), weights)
    refs = [f"{file}:build", f"{file}:Net", f"{file}:build(width=6)", f"{file}:build(weights='{weights}')"]
    before = [source.fingerprint(ref) for ref in refs]
    assert len(set(before)) == len(refs)
    save_file({name: value + 1 for name, value in other_weights().items()}, weights)
    assert source.fingerprint(refs[3]) != before[3]
    assert source.fingerprint(refs[0]) == before[0]
    (tmp_path / "helper.py").write_text("WIDTH = 6\n# changed\n")
    helped = source.fingerprint(refs[0])
    assert helped != before[0]
    file.write_text(CODE + "\n")
    assert source.fingerprint(refs[0]) not in (before[0], helped)


def test_the_fingerprint_of_a_package_covers_what_it_imports(source, tmp_path, monkeypatch):
    package = tmp_path / "package_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("WIDTH = 6\n")
    (package / "models.py").write_text(CODE.replace("from helper", "from .parts"))
    monkeypatch.syspath_prepend(tmp_path)
    before = source.fingerprint("package_of_mine.models:build")
    (package / "parts.py").write_text("WIDTH = 7\n")
    assert source.fingerprint("package_of_mine.models:build") != before


def test_a_model_is_not_built_with_another_helper(source, file, view, tmp_path):
    model = source.open(f"{file}:build", tmp_path / "out", view)
    (tmp_path / "helper.py").write_text("WIDTH = 7\n")
    with pytest.raises(CorruptFile, match=r"net.py, or code it imports, has changed"):
        artefact.load(model.main)
    assert source.open(f"{file}:build", tmp_path / "again", view).facts.parameters == 535


def test_bad_references_have_one_clear_line(source, file, view, tmp_path):
    cases = [
        (f"{tmp_path}/nte.py:build", DataError, "there is no Python file .*nte.py; that folder has helper.py, net.py"),
        (f"{file}:biuld", UnknownName, "did you mean build"),
        (f"{file}", RecipeError, "is not FILE.py:callable"),
        (f"{file}:build(6)", RecipeError, "arguments have names"),
        (f"{file}:build(weights='gone.safetensors')", DataError, "there is no weights file gone.safetensors"),
        ("os:system(command='true')", UnsafeFile, "os is part of Python itself"),
        ("live:0000", UnknownName, "unknown live module '0000'"),
    ]
    for ref, error, says in cases:
        with pytest.raises(error, match=says) as caught:
            source.open(ref, tmp_path / "out", view)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_live_module_is_opened_by_its_key(source, view, tmp_path):
    key = artefact.register_live(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    model = source.open(f"live:{key}", tmp_path, view)
    assert (model.main.path / artefact.EXPORTED_FILE).is_file()
    assert source.fingerprint(f"live:{key}") == source.fingerprint(f"live:{key}")
