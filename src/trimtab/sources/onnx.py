"""ONNX files from anywhere: `onnx:model.onnx`, copied with checked external data, inputs named as the task's."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from trimtab.errors import DataError, UnsafeFile
from trimtab.run import onnx_facts, onnx_files
from trimtab.sources import Source
from trimtab.values.model import Model, Part, Signature, TensorSpec
from trimtab.values.task import TaskView

ANSWER = "output"


class OnnxFile(Source):
    """Opens `onnx:FILE`: a trained network in the ONNX format."""

    def open(self, ref: str, scratch: Path, task: TaskView) -> Model:
        """Return the model; inputs and the answer take the task's names, by order where names differ."""
        path = _path(ref)
        part, notes = _copied(path, scratch / "main", task)
        return Model({"main": part}, frontend=task.task.frontend(), lineage=(f"onnx:{ref}",), notes=notes)

    def fingerprint(self, ref: str) -> str:
        """Return a sha256 of the file and of its external data, with their names."""
        path = _path(ref)
        digest = hashlib.sha256()
        for file in (path, *onnx_files.check_external(path)):
            digest.update(f"{file.relative_to(path.parent)}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def _path(ref: str) -> Path:
    path = Path(ref).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {ref}; onnx: takes the path of an ONNX file")
    return path


def _copied(path: Path, folder: Path, task: TaskView) -> tuple[Part, dict[str, Any]]:
    """Copy the file as it is where nothing is to be renamed, else write it anew, its external data always as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in onnx_files.check_external(path):
        target = folder / file.relative_to(path.parent)
        if target == folder / onnx_files.MODEL:
            raise UnsafeFile(f"{path.name} keeps its external data in {file.name}, the name of a model; rename it")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target, follow_symlinks=False)
    model = onnx_files.parse(path)
    found = onnx_files.signature(model)
    names = _names(found, task)
    rename(model, names)
    onnx_files.name_batch(model)
    target = folder / onnx_files.MODEL
    target.write_bytes(model.SerializeToString())
    whole = onnx_files.load(target)
    facts = onnx_files.facts(whole, _sizes(onnx_files.signature(whole), task))
    notes = {"onnx": {"renamed": {old: new for old, new in names.items() if old != new}}}
    return Part("onnx", folder, onnx_files.signature(whole), facts), notes


def _names(found: Signature, task: TaskView) -> dict[str, str]:
    """Map the model's names to the task's; raises DataError where an input cannot fit."""
    given = task.split("train")[0].inputs
    if len(found.inputs) > len(given):
        raise DataError(f"the model takes {_show(found.inputs)}, and {task.task.name} gives {_given(given)} only")
    same = all(spec.name in given for spec in found.inputs)
    names = {spec.name: spec.name if same else name for spec, name in zip(found.inputs, given, strict=False)}
    for spec in found.inputs:
        why = _misfit(spec, given[names[spec.name]])
        if why:
            raise DataError(
                f"input {spec.name!r} of the model takes {_show((spec,))}, but {task.task.name} gives "
                f"{_given({names[spec.name]: given[names[spec.name]]})}: {why}"
            )
    return names | _answer(found)


def _answer(found: Signature) -> dict[str, str]:
    names = [spec.name for spec in found.outputs]
    floats = [spec.name for spec in found.outputs if spec.dtype.startswith("float")]
    return {} if ANSWER in names else {(floats or names)[0]: ANSWER}


def _misfit(spec: TensorSpec, array: Any) -> str:
    """Say why one example's array, with a batch axis in front, does not fit; empty where it does."""
    if not spec.shape or isinstance(spec.shape[0], int):
        return "its first axis is not a free batch axis; export it with a dynamic batch"
    if len(spec.shape) != array.ndim + 1:
        return f"an example has {array.ndim} axes besides the batch, the model wants {len(spec.shape) - 1}"
    if spec.dtype != str(array.dtype):
        return f"the types differ, {spec.dtype} and {array.dtype}"
    pairs = zip(spec.shape[1:], array.shape, strict=True)
    return "" if all(isinstance(n, str) or n == size for n, size in pairs) else "the sizes differ"


def _show(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype}[{', '.join(map(str, spec.shape))}]" for spec in specs)


def _given(arrays: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {a.dtype}[{', '.join(map(str, ('batch', *a.shape)))}]" for name, a in arrays.items())


def _sizes(signature: Signature, task: TaskView) -> dict[str, int]:
    given = task.split("train")[0].inputs
    pairs = [pair for s in signature.inputs for pair in zip(s.shape[1:], given[s.name].shape, strict=True)]
    return {name: size for name, size in pairs if isinstance(name, str)} | {"batch": 1}


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Rename values throughout the main graph and the graphs in its nodes, in place; what a new name hits gives way."""
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


def _used(graph: onnx.GraphProto) -> set[str]:
    things = (*graph.input, *graph.output, *graph.initializer)
    return {thing.name for thing in things} | {n for node in graph.node for n in (*node.input, *node.output)}
