"""Keeps the weights of ONNX graphs in 16 bits, which runtimes widen when they load: half the file, the same speed.

A float32 weight becomes a float16 one and the cast that brings it back. What a graph computes with constants alone,
onnxruntime and OpenVINO compute once, before the first call. Rounding changes a weight by 1 in 2,048 at most (IEEE 754,
binary16: 11 bits of precision); weights whose range float16 cannot hold stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trimtab.errors import Refused
from trimtab.passes import Context, Pass, Stage
from trimtab.run import onnx_facts, onnx_files
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part

SMALL = 256
"""Numbers of a weight below which nothing is won: a cast takes space too."""
ROUNDING = 2.0**-11
"""Share of a weight's norm that rounding may change; more of it is lost where numbers are too small for float16."""
LEAST_MB = 1.0
"""Size below which the search leaves weights alone."""


@dataclass(frozen=True)
class Compress(Pass):
    """Keep weights in 16 bits; they are widened when the model is loaded."""

    formats: ClassVar[Mapping[str, str]] = {"onnx": "onnx"}
    stage: ClassVar[Stage] = "precision"

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return the pass where weights are wide, and so many that their size tells."""
        wide = facts.weight_bits >= 32 and facts.stored == 1
        return (cls(),) if wide and facts.size_mb >= LEAST_MB else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect half the size, and no loss: that is less rounding than running in bf16."""
        return replace(facts, stored=facts.stored / 2)

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Return what rounding and writing take."""
        return 0.5 + facts.parameters / 5e7

    def apply(self, model: Model, context: Context) -> Model:
        """Return the model with narrow weights; notes say how many numbers that are, and which weights stay, by part.

        Raises:
            Refused: no weight can be kept in fewer bits.
        """
        parts, notes = dict[str, Part](), dict[str, dict[str, Any]]()
        for done, (name, part) in enumerate(model.parts.items()):
            context.check_time()
            context.progress(f"compressing {name}", done / len(model.parts))
            proto, left = onnx_files.load(part), list[str]()
            graphs = (graph for graph in onnx_facts.graphs_of(proto) if isinstance(graph, onnx.GraphProto))
            narrow = sum(_narrowed(graph, left) for graph in graphs)
            notes[name] = {"weights": narrow, "left": left}
            written = onnx_files.save(proto, context.scratch / name)
            facts = replace(part.facts, stored=written.facts.stored)
            parts[name] = replace(written, facts=facts, signature=part.signature)
        if not any(note["weights"] for note in notes.values()):
            raise Refused("no weights of 32 bits are there that 16 could hold")
        return model.map_parts(parts, notes={**model.notes, "compress": notes})


def _narrowed(graph: onnx.GraphProto, left: list[str]) -> int:
    """Round the weights of one graph, in place, and cast them back in front of it.

    Return how many numbers; the names of weights that cannot be rounded go to `left`.
    """
    outside = {value.name for value in (*graph.input, *graph.output)}
    rounded = dict[str, NDArray[np.float16]]()
    for name, tensor in onnx_facts.held(graph):
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < SMALL:
            continue
        narrow = None if name in outside else _narrow(numpy_helper.to_array(tensor))
        if narrow is None:
            left.append(name)
        else:
            rounded[name] = narrow
    casts = [helper.make_node("Cast", [f"{name}/16"], [name], to=onnx.TensorProto.FLOAT) for name in rounded]
    kept = [tensor for tensor in graph.initializer if tensor.name not in rounded]
    nodes = [*casts, *(node for node in graph.node if not rounded.keys() & set(node.output))]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend([*kept, *(numpy_helper.from_array(w, f"{name}/16") for name, w in rounded.items())])
    graph.node.extend(nodes)
    return sum(weight.size for weight in rounded.values())


def _narrow(wide: NDArray[np.float32]) -> NDArray[np.float16] | None:
    """Return the weights in float16, or None where it cannot hold them."""
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float16)
    lost = np.linalg.norm(wide - narrow.astype(np.float32))
    return narrow if np.isfinite(narrow).all() and lost <= ROUNDING * np.linalg.norm(wide) else None
