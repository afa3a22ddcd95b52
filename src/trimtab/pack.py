"""The verb `pack`: a bundle is a folder of data that serves the model and says what was proved of it.

    bundle.json      signature, labels, preprocessing, recipe, promise, verdict, figures, machine, versions, hashes
    bundle.sha256    the hash of bundle.json
    README.md        how to run it, with and without trimtab
    model/           model.json and one folder for each part

Every file's sha256 is in `bundle.json`; a changed byte, an extra file or a link is refused when the bundle is loaded.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.apply import Made, digest, gather, versions
from trimtab.errors import CorruptFile, DataError, Refused
from trimtab.machines import here
from trimtab.recipe import bind_runtime
from trimtab.run.frontend import prepare, raw_inputs
from trimtab.run.program import drive
from trimtab.runtimes import Runtime
from trimtab.values.model import Model, Single, TensorSpec
from trimtab.values.session import Session
from trimtab.values.store import file_hash, files_of, seal, sync, writing
from trimtab.values.trust import check_code

BUNDLE_FILE = "bundle.json"
HASH_FILE = "bundle.sha256"
CONTENTS: Mapping[str, type] = {"files": dict, "versions": dict, "runtime": str, "artefact": str}
"""What every `bundle.json` holds."""


def pack(made: Made, runtime: Runtime, out: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the bundle to `out`, replacing what is there in one rename; return what `bundle.json` says.

    `about` is JSON: recipe, promise, verdict, figures, machine, seed, command and whatever else belongs to the claim.
    """
    making = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    try:
        with writing(out.parent):
            (making / "model").mkdir(parents=True)
            model = gather(made.model, making / "model")
            model.save(making / "model")
            files = seal(making / "model")
            (making / "model" / "manifest.json").unlink()
            hashes = {f"model/{name}": value for name, value in files.items()}
            data = describe(model, runtime, hashes) | dict(about)
            (making / "README.md").write_text(readme(data, model))
            data["files"]["README.md"] = file_hash(making / "README.md")
            text = json.dumps(data, indent=1, sort_keys=True)
            (making / BUNDLE_FILE).write_text(text)
            (making / HASH_FILE).write_text(file_hash(making / BUNDLE_FILE))
            for path in files_of(making):
                sync(path)
            _replace(making, out)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return data


def describe(model: Model, runtime: Runtime, files: Mapping[str, str]) -> dict[str, Any]:
    """Return what a bundle says of itself, before what was proved of it."""
    parts = {name: part.to_json(part.path.parent) for name, part in model.parts.items()}
    return {
        "bundle_version": 1,
        "artefact": digest(sorted(files.items())),
        "files": dict(files),
        "runtime": str(runtime),
        "signatures": {name: part["signature"] for name, part in parts.items()},
        "labels": model.frontend.get("labels", []),
        "preprocessing": model.frontend.get("steps", []),
        "lineage": list(model.lineage),
        "versions": versions(runtime.libraries),
    }


def _replace(new: Path, out: Path) -> None:
    """Put the folder `new` in the place of `out`; a kill in between leaves the old bundle under a dotted name."""
    old = out.with_name(f".{out.name}.old")
    if old.exists() and not out.exists():
        old.rename(out)  # a kill came in between
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


@dataclass
class Bundle:
    """A loaded bundle: `predict(inputs)` prepares raw inputs as the task did, and answers."""

    about: Mapping[str, Any]
    model: Model
    session: Session
    folder: Path

    def predict(self, inputs: Mapping[str, Any] | Any) -> dict[str, NDArray[Any]]:
        """Answer a batch: arrays by input name, or one array where the model has one input.

        Every array has the batch axis in front. The answer has the model's outputs by name and, for a classifier with
        labels, `label`: the name of the best class of each row.
        """
        named = inputs if isinstance(inputs, Mapping) else {self._only_input(): inputs}
        outputs = drive(self.model, self.session, prepare(self.model.frontend, named))
        labels = self.model.frontend.get("labels", [])
        scores = outputs.get("output")
        if labels and scores is not None and scores.ndim == 2 and scores.shape[1] == len(labels):
            outputs["label"] = np.asarray(labels)[scores.argmax(axis=1)]
        return outputs

    @property
    def verdict(self) -> str:
        """What was proved, if it was proved for these library versions and this kind of CPU."""
        proved = str(self.about.get("verdict"))
        changed = self.changes()
        return f"{proved}, not verified here: {'; '.join(changed)}" if changed else proved

    def changes(self) -> list[str]:
        """Return how this process differs from the one that the verdict belongs to."""
        then, now = self.about["versions"], versions(tuple(self.about["versions"]))
        changes = [f"{name} is {now.get(name)}, was {then[name]}" for name in then if then[name] != now.get(name)]
        isa = self.about.get("machine", {}).get("isa")
        if isa is not None and sorted(isa) != sorted(here().isa):
            changes.append("the CPU has other instruction sets")
        return changes

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close = getattr(self.session, "close", None)
        if close is not None:
            close()

    def _only_input(self) -> str:
        names = names_taken(self.model)
        if len(names) != 1:
            raise DataError(f"this model takes {', '.join(names)}: give a dict of arrays by these names")
        return names[0]


def names_taken(model: Model) -> list[str]:
    """Return the names of what `predict` takes: the task's own, such as a table's columns, before any preparation."""
    return raw_inputs(model.frontend) or [spec.name for spec in _given(model)]


def load(path: str | Path, trust: bool = False) -> Bundle:
    """Open a bundle for serving in this process.

    `trust` lets a torch bundle run the code that it names, where you did not name that code yourself.

    Raises:
        DataError: there is no such folder.
        CorruptFile: it is no bundle, or a byte of it has changed.
        UnsafeFile: it would run code that you neither named nor trust.
        Refused: its runtime cannot serve it on this machine.
    """
    folder = Path(path).resolve()
    about = check(folder)
    model = Model.open(folder / "model")
    check_code(model, folder, trust)
    runtime = bind_runtime(about["runtime"])
    wrong = {part.format for part in model.parts.values()} - runtime.formats
    reason = f"it does not serve {', '.join(sorted(wrong))}" if wrong else runtime.refuses(model, here())
    if reason:
        raise Refused(f"{folder} names the runtime {runtime}: {reason}")
    return Bundle(about, model, runtime.load(model, here()), folder)


def check(folder: Path) -> dict[str, Any]:
    """Compare every file with the bundle's hashes and return `bundle.json`.

    Raises:
        DataError: there is no such folder.
        CorruptFile: it is no bundle, or a file of it has changed, is missing, is a link or does not belong to it.
    """
    if not folder.is_dir():
        raise DataError(f"there is no bundle {folder}")
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    for name in sorted(found):
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise CorruptFile(f"{folder / name} is a link or no plain file; a bundle has none such")
    about = _about(folder)
    hashes: dict[str, str] = about["files"]
    for name in sorted(found ^ {*hashes, BUNDLE_FILE, HASH_FILE}):
        raise CorruptFile(f"{folder / name} is {'missing' if name in hashes else 'no part of the bundle'}")
    for name, wanted in hashes.items():
        if file_hash(folder / name) != wanted:
            raise CorruptFile(f"{folder / name} has changed since it was packed; get the bundle again")
    return about


def _about(folder: Path) -> dict[str, Any]:
    """Read `bundle.json`, if it is what `bundle.sha256` says."""
    path = folder / BUNDLE_FILE
    if not path.is_file():
        inside = folder / "bundle"
        hint = f"; did you mean {inside}?" if (inside / BUNDLE_FILE).is_file() else f": it has no {BUNDLE_FILE}"
        raise CorruptFile(f"{folder} is not a bundle{hint}")
    try:
        expected = (folder / HASH_FILE).read_text().strip()
        about: dict[str, Any] = json.loads(path.read_bytes())
        whole = all(isinstance(about[key], kind) for key, kind in CONTENTS.items())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"{folder} is not a bundle: {error}") from error
    if file_hash(path) != expected or not whole:
        raise CorruptFile(f"{path} has changed since it was packed; get the bundle again")
    return about


def readme(data: Mapping[str, Any], model: Model) -> str:
    """Return the bundle's README: what was proved, and how to run it with and without trimtab."""
    return f"""# {data.get("recipe", data["runtime"])}

{data.get("sentence", data.get("verdict", "not verified"))}

With trimtab, which checks every file and prepares raw inputs:

    import trimtab
    answer = trimtab.load(".").predict({{{_inputs(model)}}})

Without it, on inputs that are prepared already (see `preprocessing` in bundle.json):

{_snippet(model)}
Made by: `{data.get("command", "")}`
"""


def _inputs(model: Model) -> str:
    return ", ".join(f'"{name}": {"".join(c if c.isalnum() else "_" for c in name)}' for name in names_taken(model))


def _given(model: Model) -> list[TensorSpec]:
    """Return the inputs that a user gives: state is fed back by the driver."""
    signature = model.main.signature
    return [spec for spec in signature.inputs if spec.name not in signature.state.values()]


def _snippet(model: Model) -> str:
    if model.format != "onnx" or not isinstance(model.program, Single):
        return "    (no short way: this model needs trimtab's driver, or its own code)\n"
    specs = model.main.signature.inputs
    zeros = [
        f'    "{s.name}": np.zeros({tuple(1 if isinstance(d, str) else d for d in s.shape)}, "{s.dtype}"),'
        for s in specs
    ]
    name = next(iter(model.parts))
    lines = [
        "import numpy as np",
        "import onnxruntime",
        f'session = onnxruntime.InferenceSession("model/{name}/model.onnx", providers=["CPUExecutionProvider"])',
        "inputs = {",
        *zeros,
        "}",
        "print(session.run(None, inputs)[0])",
    ]
    return "".join(f"    {line}\n" for line in lines)
