"""ONNX files from anywhere: `onnx:model.onnx`, copied with checked external data, inputs named as the task's.

Graphs with state, or with inputs that never change, say so behind the name:
`onnx:vad.onnx(state='stateN:state', over='input', fixed='sr=16000')`; see `trimtab.sources._onnx_interface`. Two graphs
are known by name and come inside packages: `onnx:silero` and `onnx:rapidocr`.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from trimtab.errors import DataError, UnsafeFile
from trimtab.packages import Parcel, fetch
from trimtab.run import onnx_facts, onnx_files
from trimtab.sources import Source
from trimtab.sources._onnx_interface import Fit, Reading, drop_twins, fit, fix_inputs, set_state
from trimtab.values.model import Model, Part
from trimtab.values.notation import Step
from trimtab.values.task import TaskView

ANSWER = "output"
CARRIED: Mapping[str, tuple[Parcel, Mapping[str, Any]]] = {
    "silero": (
        Parcel(
            "pypi",
            "silero-vad",
            "6.2.3",
            "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
            "silero_vad/data/silero_vad.onnx",
        ),
        {"state": "stateN:state", "over": "input", "fixed": "sr=16000"},
    ),
    "rapidocr": (
        Parcel(
            "pypi",
            "rapidocr-onnxruntime",
            "1.4.4",
            "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        ),
        {},
    ),
}
"""Graphs known by name: a voice detector (MIT), and a detector of text in images (Apache-2.0)."""


class OnnxFile(Source):
    """Opens `onnx:FILE`: a trained network in the ONNX format."""

    def open(self, ref: str, scratch: Path, task: TaskView) -> Model:
        """Return the model; inputs and the answer take the task's names, by order where names differ."""
        path, reading = _parsed(ref)
        folder = scratch / "main"
        _copy_external(path, folder)
        return _opened(path, folder, task, reading)

    def fingerprint(self, ref: str) -> str:
        """Return a sha256 of the file and of its external data, with their names."""
        path, _ = _parsed(ref)
        digest = hashlib.sha256()
        for file in (path, *onnx_files.check_external(path)):
            digest.update(f"{file.relative_to(path.parent)}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def _parsed(ref: str) -> tuple[Path, Reading]:
    """Split `FILE(state=...)` into the file and how to read it; a file that is called as written has no arguments."""
    opens = [position for position, char in enumerate(ref) if char == "("] if ref.endswith(")") else []
    for end in (len(ref), *opens):
        path, arguments = Path(ref[:end]).expanduser(), ref[end:]
        if path.is_file():
            return path, Step.parse(f"onnx{arguments}").build(Reading)
        if ref[:end] in CARRIED:
            parcel, usual = CARRIED[ref[:end]]
            said = Step.parse(f"onnx{arguments}")
            return fetch(parcel), Step("onnx", said.positional, {**usual, **said.named}).build(Reading)
    known = ", ".join(CARRIED)
    raise DataError(f"there is no file {ref}; onnx: takes the path of an ONNX file, or one of: {known}")


def _copy_external(path: Path, folder: Path) -> None:
    """Copy the external data of a graph, each file checked, as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in onnx_files.check_external(path):
        target = folder / file.relative_to(path.parent)
        if target == folder / onnx_files.MODEL:
            raise UnsafeFile(f"{path.name} keeps its external data in {file.name}, the name of a model; rename it")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target, follow_symlinks=False)


def _opened(path: Path, folder: Path, task: TaskView, reading: Reading) -> Model:
    model = onnx_files.parse(path)
    notes: dict[str, Any] = {"fixed": fix_inputs(model, reading.fixed), "outputs_twice": drop_twins(model)}
    onnx_files.name_batch(model)
    given = task.split("train")[0].inputs
    fitted = fit(onnx_files.signature(model), given, reading, task.task.name)
    set_state(model, fitted.state)
    changed = rename(model, {**fitted.names, **_answer(model, fitted)})
    state = {changed.get(output, output): changed.get(name, name) for output, name in fitted.state.items()}
    target = folder / onnx_files.MODEL
    target.write_bytes(model.SerializeToString())
    whole = onnx_files.load(target)
    signature = replace(onnx_files.signature(whole), state=state)
    facts = onnx_files.facts(whole, _sizes(signature.inputs, given))
    calls = max((len(given[name]) for name in fitted.over), default=1)
    part = Part("onnx", folder, signature, replace(facts, calls=calls))
    notes |= {"renamed": changed, "state": state, "over": list(fitted.over)}
    return Model(
        {"main": part},
        fitted.program,
        task.task.frontend(),
        notes={"onnx": {name: note for name, note in notes.items() if note}},
    )


def _answer(model: onnx.ModelProto, fitted: Fit) -> dict[str, str]:
    """The first output of floats that is no state, or else the first, is what the task scores."""
    specs = [spec for spec in onnx_files.signature(model).outputs if spec.name not in fitted.state]
    if not specs:
        raise DataError("every output of the model is state; nothing is left that a task could score")
    floats = [spec.name for spec in specs if spec.dtype.startswith("float")]
    return {} if ANSWER in [spec.name for spec in specs] else {(floats or [specs[0].name])[0]: ANSWER}


def _sizes(inputs: tuple[Any, ...], given: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Give the symbolic sizes their value for one example, or one step of it."""
    sizes = {"batch": 1}
    for spec in (spec for spec in inputs if spec.name in given):
        own = given[spec.name].shape
        known = zip(spec.shape[1:], own[len(own) - len(spec.shape) + 1 :], strict=False)
        sizes |= {name: size for name, size in known if isinstance(name, str)}
    return sizes


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> dict[str, str]:
    """Rename values throughout the main graph and the graphs in its nodes, in place; what a new name hits gives way.

    Returns every old name that changed, with its new one.
    """
    graphs = [graph for graph in onnx_facts.graphs_of(model) if isinstance(graph, onnx.GraphProto)]
    used = {name for graph in graphs for name in _used(graph)}
    changes = {old: new for old, new in names.items() if old != new}
    for new in set(changes.values()) & used - set(changes):
        changes[new] = next(n for n in (f"{new}_{i}" for i in itertools.count(1)) if n not in used)
    for graph in graphs if changes else ():
        for thing in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            thing.name = changes.get(thing.name, thing.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = changes.get(sparse.values.name, sparse.values.name)
        for node in graph.node:
            node.input[:] = [changes.get(name, name) for name in node.input]
            node.output[:] = [changes.get(name, name) for name in node.output]
    return changes


def _used(graph: onnx.GraphProto) -> set[str]:
    things = (*graph.input, *graph.output, *graph.initializer)
    return {thing.name for thing in things} | {n for node in graph.node for n in (*node.input, *node.output)}
