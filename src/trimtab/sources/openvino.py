"""OpenVINO models from anywhere: `openvino:model.xml`, with its weights in `model.bin` beside it, copied unchanged."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino

from trimtab.errors import CorruptFile, DataError
from trimtab.run import openvino_files
from trimtab.sources import Source
from trimtab.values.facts import Facts
from trimtab.values.model import Model, Part, Signature, TensorSpec
from trimtab.values.task import TaskView

KINDS: Mapping[str, str] = {
    "Convolution": "conv",
    "GroupConvolution": "conv",
    "MatMul": "linear",
    "LSTMSequence": "lstm",
    "LSTMCell": "lstm",
    "GRUSequence": "gru",
    "GRUCell": "gru",
    "ScaledDotProductAttention": "attention",
}
"""What the graph calls its layers, and what facts call them."""
LEARNT = 2
"""Axes from which a constant counts as a weight; lesser ones are shapes, scales and biases."""


class OpenVinoFile(Source):
    """Opens `openvino:FILE.xml`: a network in OpenVINO's intermediate representation."""

    def open(self, ref: str, scratch: Path, task: TaskView) -> Model:
        """Return the model; it must take the task's inputs by their names."""
        graph, weights = _files(ref)
        folder = scratch / "main"
        folder.mkdir(parents=True, exist_ok=True)
        for path, name in ((graph, openvino_files.MODEL), (weights, openvino_files.WEIGHTS)):
            shutil.copyfile(path, folder / name, follow_symlinks=False)
        network = _read(folder / openvino_files.MODEL, ref)
        signature = _signature(network)
        _check(signature, task)
        part = Part("openvino", folder, signature, _facts(network))
        return Model({"main": part}, frontend=task.task.frontend(), lineage=(f"openvino:{ref}",))

    def fingerprint(self, ref: str) -> str:
        """Return a sha256 of both files."""
        digest = hashlib.sha256()
        for path in _files(ref):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def _files(ref: str) -> tuple[Path, Path]:
    graph = Path(ref).expanduser()
    if not graph.is_file() or graph.suffix != ".xml":
        raise DataError(f"there is no file {ref}; openvino: takes the path of a model's .xml file")
    pair = graph, graph.with_suffix(".bin")
    for path in pair:
        openvino_files.check(path)
    return pair


def _read(path: Path, ref: str) -> Any:
    try:
        return openvino_files.name_tensors(openvino.Core().read_model(path))
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1]
        raise CorruptFile(f"{ref} is not a whole OpenVINO model: {first}; convert or copy it again") from error


def _signature(network: Any) -> Signature:
    inputs, outputs = (tuple(_spec(tensor) for tensor in side) for side in (network.inputs, network.outputs))
    return Signature(inputs, outputs)


def _spec(tensor: Any) -> TensorSpec:
    name = tensor.get_any_name()
    sizes = [
        dim.get_length() if dim.is_static else "batch" if axis == 0 else f"{name}_{axis}"
        for axis, dim in enumerate(tensor.get_partial_shape())
    ]
    return TensorSpec(name, str(tensor.get_element_type().to_dtype()), tuple(sizes))


def _check(signature: Signature, task: TaskView) -> None:
    """Raise DataError where an input is not among the task's, or of another type or rank."""
    given = task.split("train")[0].inputs
    for spec in signature.inputs:
        array = given.get(spec.name)
        mistyped = "" if array is None else spec.mistyped(str(array.dtype))
        if array is None or mistyped or len(spec.shape) != array.ndim + 1:
            has = ", ".join(f"{name} {a.dtype} with {a.ndim + 1} axes" for name, a in given.items())
            raise DataError(
                f"the model takes {spec.name} {spec.dtype} with {len(spec.shape)} axes, {task.task.name} gives {has}; "
                f"{mistyped or 'name the inputs alike when the model is converted'}"
            )


def _facts(network: Any) -> Facts:
    """Count weights and layers; the work is not told by this format, so operations are 0."""
    nodes = network.get_ops()
    constants = [node for node in nodes if node.get_type_name() == "Constant" and len(node.shape) >= LEARNT]
    sizes = [(int(node.data.size), int(node.get_element_type().bitwidth)) for node in constants]
    count = sum(size for size, _ in sizes)
    bits = sum(size * width for size, width in sizes) / count if count else 32.0
    layers = Counter(KINDS[kind] for kind in (node.get_type_name() for node in nodes) if kind in KINDS)
    quantized = any(node.get_type_name() == "FakeQuantize" for node in nodes)
    return Facts(
        "openvino", count, 0, dict(sorted(layers.items())), weight_bits=bits, activation_bits=8.0 if quantized else 32.0
    )
