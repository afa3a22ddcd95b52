"""Simplify an ONNX graph without changing what it computes: fold constants, decide branches, drop what is not needed.

onnxscript's optimizer does the folding. What it needs to know is which sizes never change: all training examples tell
that. Then shapes are constants, and with them most conditions. Weights in `Constant` nodes become initializers, where
quantizers look for them. Convolution, batch norm and activation are left as they are: every runtime fuses them itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx_ir.passes import common
from onnxscript import ir
from onnxscript.optimizer import optimize_ir

from trimtab.errors import Refused
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.passes._graph import check_same, count_nodes, example_sizes, first_batch, outputs_read, saved, set_sizes
from trimtab.run import onnx_check, onnx_facts, onnx_files
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part, Scan, Single

BRANCHES = ("If",)
ROUNDS = 4
"""Times that folding and inferring shapes alternate, at most: each may open the way for the other."""
LARGEST = 2**24
"""Elements up to which a tensor is folded."""
ALLOWED = 1e-4
"""Largest difference of the outputs, as a share of the largest: folding rounds otherwise, and does no more."""


@dataclass(frozen=True)
class Simplify(Pass):
    """Fold constants, decide branches, drop what nobody reads; the answers stay the same."""

    batch: int = 0
    """A fixed number of examples a call, which lets a runtime plan its memory; 0 leaves it free."""
    sizes: bool = True
    """Fix the other sizes on which all training examples agree."""

    formats: ClassVar[Mapping[str, str]] = {"onnx": "onnx"}
    stage: ClassVar[Stage] = "graph"
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "validation"})

    def __post_init__(self) -> None:
        if self.batch < 0:
            raise ValueError(f"batch is a number of examples, or 0 for any, got {self.batch}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return any batch, and one example at a time."""
        return (cls(), cls(batch=1))

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Return about a second, and more for many weights."""
        return 1.0 + facts.parameters / 2e7

    def apply(self, model: Model, context: Context) -> Model:
        """Return the simplified model; notes say what went, which sizes are fixed now, and the difference measured.

        Raises:
            Refused: the graph cannot be read by the optimizer, or would answer otherwise.
        """
        context.check_time()
        batch = first_batch(context)
        sizes = example_sizes(model, context.task)
        kept = self._kept(model, outputs_read(model, batch, context))
        parts, notes = {}, {}
        for done, (name, part) in enumerate(model.parts.items()):
            context.check_time()
            context.progress(f"simplifying {name}", done / len(model.parts))
            parts[name], notes[name] = self._part(name, part, context, sizes, kept)
        after = model.map_parts(parts)
        difference = check_same(model, after, batch, ALLOWED)
        said = notes["main"] if list(notes) == ["main"] else notes
        return replace(after, notes={**model.notes, "simplify": {**said, "largest_difference": difference}})

    def _kept(self, model: Model, read: frozenset[str]) -> frozenset[str] | None:
        """Return the outputs that are needed; None for all, where several parts feed each other."""
        if not isinstance(model.program, Single | Scan):
            return None
        return read | set(model.parts[model.program.part].signature.state)

    def _part(
        self, name: str, part: Part, context: Context, sizes: Mapping[str, int], kept: frozenset[str] | None
    ) -> tuple[Part, dict[str, Any]]:
        proto = onnx_files.load(part)
        counts = [count_nodes(proto), count_nodes(proto, BRANCHES)]
        fixed = {**(sizes if self.sizes else {}), **({"batch": self.batch} if self.batch else {})}
        outputs = _drop(proto.graph.output, lambda value: kept is not None and value not in kept)
        set_sizes(proto, fixed)
        with onnx_check.quietly():
            proto = folded(proto, context)
        used = _read(proto)
        inputs = _drop(proto.graph.input, lambda value: value not in used)
        notes: dict[str, Any] = {}
        notes |= {"nodes": [counts[0], count_nodes(proto)], "branches": [counts[1], count_nodes(proto, BRANCHES)]}
        notes |= {"outputs_dropped": outputs, "inputs_dropped": inputs, "sizes": fixed}
        return saved(proto, part, context, name, sizes), notes


def folded(model: onnx.ModelProto, context: Context) -> onnx.ModelProto:
    """Return the graph with everything folded that constants and known sizes decide.

    Raises:
        Refused: the optimizer cannot read the graph.
    """
    count = -1
    for _ in range(ROUNDS):
        context.check_time()
        try:
            graph = ir.serde.deserialize_model(model)
            optimize_ir(graph, should_fold=_should_fold, input_size_limit=LARGEST, output_size_limit=LARGEST)
            common.ClearMetadataAndDocStringPass()(graph)
            model = ir.serde.serialize_model(graph)
        except Exception as error:
            raise Refused(f"onnxscript cannot simplify this graph: {error}") from error
        with suppress(onnx.shape_inference.InferenceError, ValueError):
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        if not _settle_sizes(model) and count_nodes(model) == count:
            break
        count = count_nodes(model)
    del model.graph.value_info[:]
    return model


def _settle_sizes(model: onnx.ModelProto) -> int:
    """Turn every size that is taken out of a shape and known into a constant, in place; return how many.

    The optimizer itself does so for a list of axes with the attribute written out, and exporters mostly write neither.
    """
    graph = model.graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info)}
    taken = {name for node in graph.node if node.op_type == "Gather" for name in node.input[1:]}
    axes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in taken}
    count = 0
    for inner in onnx_facts.graphs_of(model):
        measured = {n.output[0]: n.input[0] for n in inner.node if n.op_type == "Shape" and not n.attribute}
        for node in inner.node:
            dims = shapes.get(measured.get(node.input[0], "")) if node.op_type == "Gather" else None
            chosen = [dims[axis] for axis in axes[node.input[1]].ravel()] if dims and node.input[1] in axes else []
            if chosen and all(dim.HasField("dim_value") for dim in chosen):
                sizes = np.array([dim.dim_value for dim in chosen]).reshape(axes[node.input[1]].shape)
                node.CopyFrom(helper.make_node("Constant", [], node.output, value=numpy_helper.from_array(sizes)))
                count += 1
    return count


def _should_fold(node: Any) -> bool | None:
    """Fold tensors that are filled with one value too, which the optimizer leaves: paddings are made of them."""
    return True if node.op_type == "ConstantOfShape" and node.domain == "" else None


def _drop(values: Any, needless: Callable[[str], bool]) -> list[str]:
    """Take inputs or outputs off a graph's list, in place; return their names."""
    dropped = [value for value in values if needless(value.name)]
    for value in dropped:
        values.remove(value)
    return [value.name for value in dropped]


def _read(model: onnx.ModelProto) -> set[str]:
    nodes = (node for graph in onnx_facts.graphs_of(model) for node in graph.node)
    return {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
