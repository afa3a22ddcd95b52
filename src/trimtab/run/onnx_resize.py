"""Puts a resize in front of an ONNX graph's images, and one behind its dense answers, so that they keep their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trimtab.run import onnx_facts

Size = tuple[int, int]
OPTIONAL, UNUSED = 13, "resize/unused"
"""The version from which a resize by sizes may leave out its other inputs; before, they are empty."""


def resized(
    model: onnx.ModelProto, images: Mapping[str, tuple[Size, Size]], dense: Mapping[str, Size]
) -> onnx.ModelProto:
    """Return the graph with inputs `images` brought from one size (height, width) to another, outputs `dense` to one.

    Names and types stay; sizes inferred inside are forgotten.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = new.graph
    opset = max(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    unused = "" if opset >= OPTIONAL else UNUSED
    if unused:
        graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), UNUSED))
    del graph.value_info[:]
    front, behind = list[onnx.NodeProto](), list[onnx.NodeProto]()
    for name, sizes in images.items():
        front += _by_scale(graph, name, f"{name}/resized", sizes, unused)
    for name, size in dense.items():
        behind += _by_size(graph, f"{name}/small", name, size, unused)
    inside = {**{name: f"{name}/resized" for name in images}, **{name: f"{name}/small" for name in dense}}
    for inner in onnx_facts.graphs_of(model=new):
        for node in inner.node:
            node.input[:] = [inside.get(name, name) for name in node.input]
            node.output[:] = [inside.get(name, name) for name in node.output]
    nodes = [*front, *graph.node, *behind]
    del graph.node[:]
    graph.node.extend(nodes)
    return new


def _by_scale(
    graph: onnx.GraphProto, name: str, to: str, sizes: tuple[Size, Size], unused: str
) -> list[onnx.NodeProto]:
    """Return the node that brings [N, C, *whole] to a size: of scales every runtime knows the shapes that follow.

    A side is the whole one times its scale, rounded down: the scale is the least float32 that reaches it.
    """
    ratios = (np.nextafter(np.float32(side / whole), np.float32(np.inf)) for whole, side in zip(*sizes, strict=True))
    graph.initializer.append(numpy_helper.from_array(np.array([1, 1, *ratios], np.float32), f"{to}/scales"))
    return [_resize([name, unused, f"{to}/scales"], to)]


def _by_size(graph: onnx.GraphProto, name: str, to: str, size: Size, unused: str) -> list[onnx.NodeProto]:
    """Return the nodes that bring [N, C, H, W] to a size."""
    constants = {f"{to}/size": size, f"{to}/0": [0], f"{to}/2": [2]}
    graph.initializer.extend(numpy_helper.from_array(np.array(v, np.int64), n) for n, v in constants.items())
    return [
        helper.make_node("Shape", [name], [f"{to}/shape"]),
        helper.make_node("Slice", [f"{to}/shape", f"{to}/0", f"{to}/2"], [f"{to}/head"]),
        helper.make_node("Concat", [f"{to}/head", f"{to}/size"], [f"{to}/sizes"], axis=0),
        _resize([name, unused, unused, f"{to}/sizes"], to),
    ]


def _resize(inputs: Sequence[str], to: str) -> onnx.NodeProto:
    """Return the node that interpolates between pixels' centres, bilinearly."""
    return helper.make_node("Resize", inputs, [to], mode="linear", coordinate_transformation_mode="half_pixel")
