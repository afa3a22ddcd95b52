"""A folder from elsewhere runs nothing that its user did not name: not by a reference, a file, a program or a link."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trimtab
from trimtab.apply import Workshop, apply_recipe
from trimtab.errors import CorruptFile, DataError, TrimtabError, UnsafeFile, UsageError
from trimtab.machines import here
from trimtab.pack import BUNDLE_FILE, HASH_FILE
from trimtab.tasks import open_task
from trimtab.values.store import Store, file_hash
from workbench import finished_run

TASK = "toy(examples=150)"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def shop(store):
    return Workshop(open_task(TASK), store, here())


@pytest.fixture
def folder(tmp_path, shop):
    """A model folder of a torch part, whose description a test may change."""
    apply_recipe("zoo:mlp(width=4, depth=1)", "", shop, tmp_path / "model")
    return tmp_path / "model"


def name_code(folder: Path, **build: object) -> None:
    path = next(folder.rglob("torch.json"))
    data = json.loads(path.read_text())
    data["build"] = {"ref": "", "arguments": {}, "sha256": None} | build
    path.write_text(json.dumps(data))


def reseal(bundle: Path) -> None:
    """Make a bundle's hashes agree with what lies in it, as its author can."""
    about = json.loads((bundle / BUNDLE_FILE).read_text())
    files = [path for path in bundle.rglob("*") if path.is_file() and path.name not in (BUNDLE_FILE, HASH_FILE)]
    about["files"] = {path.relative_to(bundle).as_posix(): file_hash(path) for path in files}
    (bundle / BUNDLE_FILE).write_text(json.dumps(about))
    (bundle / HASH_FILE).write_text(file_hash(bundle / BUNDLE_FILE))


@pytest.mark.parametrize(
    "ref", ["psutil:Popen", "torch:load", "torch.hub:load", "evil.py:build", "live:nokey", "os:system"]
)
def test_code_that_only_the_folder_names_does_not_run(folder, shop, tmp_path, ref):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    name_code(folder, ref=ref, arguments={"args": ["touch", str(tmp_path / "ran")]})
    with pytest.raises(UnsafeFile, match=f"would run the code {ref}"):
        shop.open(str(folder))
    assert not (tmp_path / "ran").exists()


def test_the_zoo_is_its_nets_and_nothing_else_in_its_file(folder, shop):
    name_code(folder, ref="trimtab.sources.zoo:Path", arguments={})
    with pytest.raises(TrimtabError, match="zoo net"):
        list(shop.apply(shop.open(str(folder)), trimtab_passes("train(steps=1)")).model.parts)


def trimtab_passes(text: str):
    from trimtab.recipe import bind

    return bind(text).passes


@pytest.mark.slow
def test_a_torch_bundle_loads_in_a_process_that_named_its_code_or_trusts_it(tmp_path, shop):
    from trimtab.pack import pack
    from trimtab.recipe import bind_runtime

    code = tmp_path / "net.py"
    code.write_text("import torch\n\n\ndef build():\n    return torch.nn.Linear(4, 3)\n")
    made = shop.open(f"torch:{code}:build")
    pack(made, bind_runtime("torch"), tmp_path / "bundle", {"verdict": "PASS"})
    assert trimtab.load(tmp_path / "bundle").predict(np.zeros((2, 4), np.float32))["output"].shape == (2, 3)
    script = f"import trimtab; trimtab.load({str(tmp_path / 'bundle')!r}, trust={{}})"
    for trusted, status in (("False", 1), ("True", 0)):
        done = subprocess.run(
            [sys.executable, "-c", script.format(trusted)], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
    code.write_text("import torch\n\n\ndef build():\n    return torch.nn.Linear(4, 3, bias=True)\n")
    with pytest.raises(CorruptFile, match="has changed"):
        trimtab.load(tmp_path / "bundle")


def test_links_bring_nothing_into_a_model_folder(folder, shop, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "main" / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UnsafeFile, match="is a link"):
        shop.open(str(folder))


def test_a_model_made_on_other_data_is_refused(folder, store):
    other = Workshop(open_task("toy(examples=150, classes=4)"), store, here())
    with pytest.raises(DataError, match="names its classes otherwise"):
        other.open(str(folder))


def test_a_resealed_bundle_cannot_turn_its_answers_round(tmp_path, store):
    import shutil

    from trimtab.certify import verify_bundle
    from workbench import TOY

    bundle = tmp_path / "bundle"
    shutil.copytree(finished_run().bundle, bundle)
    path = bundle / "model" / "model.json"
    data = json.loads(path.read_text())
    data["frontend"]["labels"].reverse()
    path.write_text(json.dumps(data))
    reseal(bundle)
    shop = Workshop(open_task(TOY), store, here())
    with pytest.raises(DataError, match="names its classes otherwise"):
        verify_bundle(bundle, "null:linear", [], 0.95, shop)
    assert not (store.root / "openings.jsonl").exists(), "what cannot be judged opens no sealed split"


def test_a_runtime_that_does_not_serve_the_bundle_is_refused(tmp_path):
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(finished_run().bundle, bundle)
    for runtime, said in (("onnxruntime", "does not serve null"), ("null(threads=1000000)", "threads is from 1 to")):
        about = json.loads((bundle / BUNDLE_FILE).read_text())
        (bundle / BUNDLE_FILE).write_text(json.dumps(about | {"runtime": runtime}))
        reseal(bundle)
        with pytest.raises(TrimtabError, match=said):
            trimtab.load(bundle)


def test_a_run_writes_over_nobodys_files(tmp_path):
    from trimtab.api import trim

    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="no run of trimtab"):
        trim("null:linear", TASK, "accuracy >= base - 0.2", out=tmp_path)
    assert (tmp_path / "bundle" / "thesis.txt").read_text() == "precious"
