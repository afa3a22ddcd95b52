"""torch's two exporters, made to behave: quiet, without leftovers, and with one sentence where they cannot.

`dynamo` reads the program that torch.export captures; `torchscript` records one run. The latter writes down the branch
that this run took and says so in a warning only: here it is an error, unless a library's own code took the branch.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import onnxscript.optimizer
import torch
from onnxscript import rewriter
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from trimtab.errors import Refused
from trimtab.fit.exporting import INSIDE, place_of
from trimtab.fit.program import by_name
from trimtab.run import onnx_check, onnx_facts
from trimtab.values.model import Signature

EXPORTERS = ("dynamo", "torchscript")
FOLDED, GROWTH = 2**28, 1.2
"""Numbers in the largest constant that is folded; how much larger that may make the whole file."""


def export(exporter: str, module: nn.Module, given: Sequence[Tensor], signature: Signature, opset: int) -> Any:
    """Return the ONNX model of a module that takes `given`, its names and free axes those of the signature."""
    axes = [{i: n for i, n in enumerate(s.shape) if isinstance(n, str)} for s in signature.inputs]
    named: dict[str, Any] = {
        "input_names": [spec.name for spec in signature.inputs],
        "output_names": [spec.name for spec in signature.outputs],
        "opset_version": opset,
    }
    ordered = Ordered(module, signature)
    with onnx_check.quietly(), torch.no_grad():
        if exporter == "dynamo":
            return tidy(_dynamo(ordered, tuple(given), axes, named))
        free = {s.name: {i: n for i, n in enumerate(s.shape) if isinstance(n, str)} for s in signature.outputs}
        return tidy(_torchscript(ordered, tuple(given), axes, named, free))


class Ordered(nn.Module):
    """Gives a module's outputs as a tuple in the order of its signature: exporters lose the names in a dict."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.module, self.signature = module, signature

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs."""
        named = by_name(self.module(*given), self.signature)
        return tuple(named[spec.name] for spec in self.signature.outputs)


def _dynamo(module: nn.Module, given: tuple[Tensor, ...], axes: list[dict[int, str]], named: dict[str, Any]) -> Any:
    dims = {name: torch.export.Dim(name) for axis in axes for name in axis.values()}
    shapes = tuple({i: dims[name] for i, name in axis.items()} for axis in axes)
    program = torch.onnx.export(module, given, dynamo=True, dynamic_shapes=(shapes,), verbose=False, **named)
    if program is None:
        raise RuntimeError("the exporter gave nothing")
    return program.model_proto


def _torchscript(
    module: nn.Module,
    given: tuple[Tensor, ...],
    axes: list[dict[int, str]],
    named: dict[str, Any],
    free: dict[str, dict[int, str]],
) -> Any:
    dynamic = {**free, **dict(zip(named["input_names"], axes, strict=True))}
    file = io.BytesIO()
    traced: Any = torch.onnx.export  # its annotation leaves out the file objects that this exporter writes to
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused operator that ONNX does not have
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", TracerWarning)
            traced(module, given, file, dynamo=False, dynamic_axes=dynamic, verbose=False, **named)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    _check_branches(said)
    return onnx.load_model_from_string(file.getvalue())


def _check_branches(said: Sequence[warnings.WarningMessage]) -> None:
    """Raise Refused where code that is no library's made a tensor a Python value: one branch alone was written down."""
    for one in said:
        if "to a Python" in str(one.message) and not any(place in one.filename for place in INSIDE):
            raise Refused(f"{place_of(one.filename, one.lineno)} decides on values that are known only at run time")


def tidy(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and batch norms, and drop the source lines and file paths that exporters leave behind.

    Weights of any size are folded unless the file grows: an LSTM's come in pieces, in which quantizers miss them.
    """
    folded = onnxscript.optimizer.optimize(proto, input_size_limit=FOLDED, output_size_limit=FOLDED)
    if folded.ByteSize() > GROWTH * proto.ByteSize():
        folded = onnxscript.optimizer.optimize(proto)
    proto = rewriter.rewrite(folded)
    for graph in onnx_facts.graphs_of(proto):
        kinds = ("node", "value_info", "input", "output", "initializer")
        values = (thing for kind in kinds for thing in getattr(graph, kind, ()) if not isinstance(thing, str))
        for thing in (graph, *values):
            thing.ClearField("metadata_props")
            thing.ClearField("doc_string")
    proto.ClearField("metadata_props")
    return proto
