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


def resized(model: onnx.ModelProto, images: Mapping[str, Size], dense: Mapping[str, Size]) -> onnx.ModelProto:
    """Return the graph with inputs `images` brought to a size (height, width), and outputs `dense` to another.

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
    for name, size in images.items():
        front += _resize(graph, name, f"{name}/resized", size, unused)
    for name, size in dense.items():
        behind += _resize(graph, f"{name}/small", name, size, unused)
    inside = {**{name: f"{name}/resized" for name in images}, **{name: f"{name}/small" for name in dense}}
    for inner in onnx_facts.graphs_of(model=new):
        for node in inner.node:
            node.input[:] = [inside.get(name, name) for name in node.input]
            node.output[:] = [inside.get(name, name) for name in node.output]
    nodes = [*front, *graph.node, *behind]
    del graph.node[:]
    graph.node.extend(nodes)
    return new


def _resize(graph: onnx.GraphProto, name: str, to: str, size: Sequence[int], unused: str) -> list[onnx.NodeProto]:
    """Return the nodes that bring [N, C, H, W] to a size by bilinear interpolation between pixels' centres."""
    constants = {f"{to}/size": size, f"{to}/0": [0], f"{to}/2": [2]}
    graph.initializer.extend(numpy_helper.from_array(np.array(v, np.int64), n) for n, v in constants.items())
    return [
        helper.make_node("Shape", [name], [f"{to}/shape"]),
        helper.make_node("Slice", [f"{to}/shape", f"{to}/0", f"{to}/2"], [f"{to}/head"]),
        helper.make_node("Concat", [f"{to}/head", f"{to}/size"], [f"{to}/sizes"], axis=0),
        helper.make_node(
            "Resize",
            [name, unused, unused, f"{to}/sizes"],
            [to],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        ),
    ]
