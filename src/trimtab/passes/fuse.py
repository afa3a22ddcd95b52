"""Fuse the attention of an ONNX graph, and the norms and activations around it, into onnxruntime's own operators.

Runtimes fuse a convolution with its norm and activation, and a sum with its layer norm, when they load a graph; the
dozen nodes of an attention they leave, because finding them takes knowledge of where they came from. onnxscript knows
torch's newer exporter, onnxruntime's transformer optimizer the older ones: whichever finds attention is taken. What
comes out uses operators of the domain com.microsoft: onnxruntime's, of which OpenVINO reads the usual ones.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxscript import ir
from onnxscript.rewriter.ort_fusions import optimize_for_ort

from trimtab.errors import Refused
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.passes._graph import check_same, first_batch
from trimtab.run import onnx_check, onnx_files
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part
from trimtab.values.task import Batch

ATTENTION = ("Attention", "MultiHeadAttention")
DOMAIN = "com.microsoft"
ALLOWED = 1e-4
"""Largest difference of the outputs, as a share of the largest: a fused kernel rounds otherwise, and does no more."""


@dataclass(frozen=True)
class Fuse(Pass):
    """Fuse attention into one operator a layer, for onnxruntime; the answers stay the same."""

    formats: ClassVar[Mapping[str, str]] = {"onnx": "onnx"}
    stage: ClassVar[Stage] = "graph"
    uses: ClassVar[frozenset[Use]] = frozenset({"train"})

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return the pass where there is attention to fuse."""
        return (cls(),) if facts.layers.get("attention") else ()

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Return about two seconds, and more for many weights."""
        return 2.0 + facts.parameters / 1e7

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Refuse graphs without attention."""
        if any(part.facts.layers.get("attention") for part in model.parts.values()):
            return None
        return "the model has no attention; everything else that can be fused, runtimes fuse themselves"

    def apply(self, model: Model, context: Context) -> Model:
        """Return the model with its attention fused; notes say which operators came in, and the difference measured.

        Raises:
            Refused: no attention has a form that is known, or the fused graph would answer otherwise.
        """
        parts, notes = {}, {}
        batch = first_batch(context)
        for done, (name, part) in enumerate(model.parts.items()):
            context.check_time()
            context.progress(f"fusing {name}", done / len(model.parts))
            if part.facts.layers.get("attention"):
                parts[name], notes[name] = self._part(name, part, context, batch)
        after = model.map_parts(parts)
        difference = check_same(model, after, batch, ALLOWED)
        said = notes["main"] if list(notes) == ["main"] else notes
        return replace(after, notes={**model.notes, "fuse": {**said, "largest_difference": difference}})

    def _part(self, name: str, part: Part, context: Context, batch: Batch) -> tuple[Part, dict[str, Any]]:
        errors = []
        for tool in (_by_onnxscript, _by_onnxruntime):
            context.check_time()
            try:
                with onnx_check.quietly():
                    fused = tool(onnx_files.load(part), batch)
            except Exception as error:  # tools for graphs they know: what they make of others is no reason to stop
                errors.append(f"{tool.__name__.removeprefix('_by_')}: {type(error).__name__}: {error}")
                continue
            counts = Counter(node.op_type for node in fused.graph.node if node.domain == DOMAIN)
            if any(counts[kind] for kind in ATTENTION):
                written = onnx_files.save(fused, context.scratch / name)
                facts = replace(part.facts, stored=written.facts.stored)
                kept = replace(written, facts=facts, signature=part.signature)
                return kept, {"by": tool.__name__.removeprefix("_by_"), "operators": dict(sorted(counts.items()))}
        raise Refused(f"no attention of {name} has a form that can be fused{'; '.join(['', *errors])}")


def _by_onnxscript(model: onnx.ModelProto, batch: Batch) -> onnx.ModelProto:
    graph, _ = optimize_for_ort(ir.serde.deserialize_model(model))
    return ir.serde.serialize_model(graph)


def _by_onnxruntime(model: onnx.ModelProto, batch: Batch) -> onnx.ModelProto:
    """Fuse as for BERT, whose encoder many share."""
    heads, hidden = _heads(model, batch)
    with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(model, path, save_as_external_data=True, location="model.data")
        options = FusionOptions("bert")
        fused = optimizer.optimize_model(
            str(path), "bert", num_heads=heads, hidden_size=hidden, opt_level=0, optimization_options=options
        )
    found: onnx.ModelProto = fused.model
    return found


def _heads(model: onnx.ModelProto, batch: Batch) -> tuple[int, int]:
    """Return the number of heads and their sizes added up, read off a product with a softmax: [batch, heads, T, size].

    (0, 0) where none is found, or the graph takes what the batch does not give.
    """
    weights = {node.output[0] for node in model.graph.node if node.op_type == "Softmax"}
    products = [n.output[0] for n in model.graph.node if n.op_type == "MatMul" and n.input[0] in weights]
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    if not products or set(kinds) - set(batch.inputs):
        return 0, 0
    types = {name: onnx.helper.tensor_dtype_to_np_dtype(kind) for name, kind in kinds.items()}
    inputs = {name: np.asarray(batch.inputs[name], dtype) for name, dtype in types.items()}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(onnx.ValueInfoProto(name=products[0]))
    shape = onnx_check.session(watched.SerializeToString()).run(products[:1], inputs)[0].shape
    return (shape[1], shape[1] * shape[3]) if len(shape) == 4 else (0, 0)
