"""Turns image inputs of an ONNX file from [N, H, W, C], as Keras and TensorFlow have them, to [N, C, H, W].

A transposition is put behind the input; runtimes fold it into the first convolution or do it in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import helper

from trimtab.run.onnx_files import parse


def turned(path: Path, given: Sequence[tuple[int, ...]]) -> list[bool]:
    """Return for each input whether it takes [H, W, C] where the example given, without a batch axis, is [C, H, W]."""
    found = []
    for value, shape in zip(parse(path).graph.input, given, strict=False):
        sizes = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim][1:]
        order = (*shape[1:], *shape[:1])
        found.append(len(shape) == 3 and not _fit(sizes, shape) and _fit(sizes, order))
    return found


def _fit(sizes: Sequence[int | None], shape: Sequence[int]) -> bool:
    return len(sizes) == len(shape) and all(n in (None, size) for n, size in zip(sizes, shape, strict=True))


def channels_first(path: Path, turned: Sequence[bool]) -> None:
    """Rewrite the file so that each input for which `turned` is true takes channels first."""
    model = parse(path)
    for value, turn in zip(list(model.graph.input), turned, strict=False):
        if turn:
            _turn(model.graph, value)
    path.write_bytes(model.SerializeToString())


def _turn(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> None:
    batch, height, width, channels = (
        onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString()) for d in value.type.tensor_type.shape.dim
    )
    inner = f"{value.name}_channels_last"
    for node in graph.node:
        node.input[:] = [inner if name == value.name else name for name in node.input]
    del value.type.tensor_type.shape.dim[:]
    value.type.tensor_type.shape.dim.extend([batch, channels, height, width])
    graph.node.insert(0, helper.make_node("Transpose", [value.name], [inner], perm=[0, 2, 3, 1]))
