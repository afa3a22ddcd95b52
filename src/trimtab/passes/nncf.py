"""Quantize for OpenVINO by NNCF: weights and activations to 8 bits, wherever OpenVINO has kernels for that.

NNCF knows which layers OpenVINO's kernels want together, corrects the biases of what it rounds (Nagel et al. 2019,
arXiv 1906.04721, section 4.2) and smooths what transformers multiply (Xiao et al. 2022, arXiv 2211.10438). It works on
OpenVINO's own graph: 8 bits that it wrote into ONNX came out up to a fifth off in OpenVINO, and slow in onnxruntime.

Where the CPU has no VNNI, products of 8 bits add up in 16 and saturate; weights of 7 bits cannot (see `quantize`).
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx

from trimtab.errors import Refused, one_line
from trimtab.passes import Context, Pass, Stage, Statistics, Use, _bits
from trimtab.run import onnx_check, onnx_files, onnx_layers, openvino_files
from trimtab.run.onnx_inputs import Feed, Inputs
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part
from trimtab.values.registry import missing

BITS = (8, 7)
CHECKED = 4
"""Calls, of up to 16 training examples, on which the quantized model is compared with the float one."""
LOSS = {8: 0.002, 7: 0.003}
"""Loss that is usual by bits of the weights, as a share."""
BEGINNING_S, CALIBRATION_RATE = 5.0, 2e10
"""Seconds it takes whatever the net, and multiply-accumulates a second at which it calibrates, as seen on two cores."""
PRODUCTS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
ENDS = ("Parameter", "Result")
SCALED = ("Mul", "Add", "BatchNormalization")
"""What may follow a layer in a graph and be one with it in OpenVINO."""
FOLDED = "/WithoutBiases"
"""What OpenVINO adds to the name of a layer whose bias it takes out."""
KEPT = "NNCF leaves it: a kind, or a place in a pattern such as squeeze-and-excite, that it keeps in float"


@dataclass(frozen=True)
class Nncf(Pass):
    """Quantize to 8 bits for OpenVINO, by NNCF."""

    weights: int = 8
    """8; 7 for CPUs without VNNI."""
    harm: float = 1.0
    """Share of the harm of quantizing every layer that may be done; below 1, the layers dearest for their time stay."""
    samples: int = 256
    """Training examples to calibrate on."""

    formats: ClassVar[Mapping[str, str]] = {"onnx": "openvino"}
    stage: ClassVar[Stage] = "precision"
    version: ClassVar[int] = 4
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "seed", "machine"})

    def __post_init__(self) -> None:
        if self.weights not in BITS:
            raise ValueError(f"weights are 8 or 7 bits, got {self.weights}")
        if self.samples < 1:
            raise ValueError(f"samples is at least 1, got {self.samples}")
        if not 0 <= self.harm <= 1:
            raise ValueError(f"harm is a share from 0 to 1, got {self.harm}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return two mixes and all layers, in bits that do not saturate here; none where NNCF is not installed."""
        if _bits.is_quantized(facts) or not _bits.reaches("static", facts) or not importlib.util.find_spec("nncf"):
            return ()
        weights = 7 if machine.saturates else 8
        return tuple(cls(weights=weights, harm=harm) for harm in (0.1, 0.3, 1.0))

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Return the seconds to read the graph, to run it on each example, and to try each layer alone for a mix."""
        mixing = _bits.mixing_runs(facts, self.harm) * facts.operations / _bits.RATE
        return BEGINNING_S + self.samples * facts.operations / CALIBRATION_RATE + mixing

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Return the facts at 8 bits in OpenVINO's format, with a loss usual for such nets."""
        left = 1.0 - _bits.share(facts.parameters_by, _bits.KINDS["static"]) * (0.85 + 0.15 * self.harm)
        return replace(
            facts,
            format="openvino",
            weight_bits=8.0 * (1 - left) + facts.weight_bits * left,
            activation_bits=8.0,
            quality_loss=facts.quality_loss + LOSS[self.weights] * self.harm,
        )

    def wants(self) -> frozenset[str]:
        """Return what the choice of layers is made by where `harm` is below 1."""
        return frozenset({"static", "milliseconds"} if self.harm < 1 else ())

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Say why where there is nothing to do."""
        if any(_bits.is_quantized(part.facts) for part in model.parts.values()):
            return "the model is quantized already; quantize the float model instead"
        if not any(_bits.has(part.facts, ("conv", "linear")) for part in model.parts.values()):
            return "nncf quantizes convolutions and linear layers, and the model has none"
        return None

    def apply(self, model: Model, context: Context) -> Model:
        """Return the model in OpenVINO's format; notes say which layers stay in float, and how far the outputs moved.

        Raises:
            DataError: the calibration inputs hold NaN or infinity, or are not what the model takes.
            MissingExtra: nncf or openvino is not installed.
            Refused: NNCF cannot take the model, or nothing could be quantized.
        """
        context.check_time()
        inputs = Inputs(model, context.task, context.seed, self.samples, context.check_time)
        known = _in_proportion(_bits.statistics(model, context, self.wants()))
        parts: dict[str, Part] = {}
        notes: dict[str, Any] = {}
        for done, (name, part) in enumerate(model.parts.items()):
            context.progress(f"quantizing {name}", done / len(model.parts))
            parts[name], notes[name] = self._part(name, part, inputs, known, context.scratch / name)
        if not any(note["quantized"] for note in notes.values()):
            raise Refused("nothing could be quantized: " + KEPT)
        said = notes["main"] if list(notes) == ["main"] else notes
        return model.map_parts(parts, notes={**model.notes, "nncf": said})

    def _part(
        self, name: str, part: Part, inputs: Inputs, known: Statistics, folder: Path
    ) -> tuple[Part, dict[str, Any]]:
        """Return one part quantized, and its notes."""
        with onnx_check.quietly():
            calls, prepared = [*inputs.of(name)], onnx_layers.prepare(onnx_files.load(part))
            layers = onnx_layers.layers(prepared, bool(part.facts.layers.get("attention")))
            records, left = _bits.chosen(layers, known, name, "static", self.harm)
            try:
                saved, notes = _Work(self, part, prepared, tuple(layers), left).quantized(calls, folder)
            except (TimeoutError, MemoryError, OSError):
                raise
            except ModuleNotFoundError as error:
                raise missing(error, "nncf") from error
            except Exception as error:  # NNCF's and OpenVINO's errors share no base
                raise Refused(f"NNCF cannot take this model: {one_line(error)}") from error
        kept = [{key: value for key, value in record.items() if key != "ms_int8"} for record in records]
        return saved, notes | ({"layers": kept} if kept else {})


@dataclass(frozen=True)
class _Work:
    """One part on its way to fewer bits."""

    settings: Nncf
    part: Part
    prepared: onnx.ModelProto
    layers: tuple[onnx_layers.Layer, ...]
    left: Mapping[str, str]
    """Layers to keep in float -> why."""

    def quantized(self, calls: Sequence[Feed], folder: Path) -> tuple[Part, dict[str, Any]]:
        """Return the part and its notes; `calls` are what it is fed."""
        os.environ.setdefault("NNCF_CI", "1")  # no usage reports
        import nncf
        import openvino

        network = openvino.convert_model(io.BytesIO(self.prepared.SerializeToString()))
        meant = network.clone()
        named = self._named(network)
        ignored = [named[name] for name in self.left if name in named]
        fix = nncf.quantization.advanced_parameters.OverflowFix
        facts = self.part.facts
        quantized = nncf.quantize(
            network,
            nncf.Dataset(calls),
            subset_size=len(calls),
            preset=nncf.QuantizationPreset.MIXED if _bits.has(facts, _bits.RECURRENT) else None,
            model_type=nncf.ModelType.TRANSFORMER if facts.layers.get("attention") else None,
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False) if ignored else None,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=fix.ENABLE if self.settings.weights == min(BITS) else fix.DISABLE
            ),
        )
        coded = {node.get_friendly_name() for node in quantized.get_ops() if _coded(node)}
        floats = [layer for layer in self.layers if named.get(layer.name, "") not in coded]
        notes = {
            "quantized": len(coded),
            "left_in_float": [{"layer": x.name, "kind": x.kind, "why": self.left.get(x.name, KEPT)} for x in floats],
            "output_error": _error(meant, quantized, calls[:CHECKED]),
        }
        return self._saved(quantized, folder), notes

    def _named(self, network: Any) -> dict[str, str]:
        """Return layer -> what OpenVINO calls it; where a factor moved into its weights, the sum behind it tells."""
        owner = {name: layer.name for layer in self.layers for name in self._alike(layer)}
        found: dict[str, str] = {}
        for node in network.get_ordered_ops():
            if node.get_type_name() in PRODUCTS:
                own = node.get_friendly_name()
                behind = [taker.get_node().get_friendly_name() for taker in node.output(0).get_target_inputs()]
                known = [owner[name] for name in (own.removesuffix(FOLDED), *behind) if name in owner]
                found |= dict.fromkeys(known[:1], own)
        return found

    def _alike(self, layer: onnx_layers.Layer) -> Iterator[str]:
        """Yield names that tell of a layer: its own, and those of factors and biases that alone read it."""
        graph = self.prepared.graph
        held = {tensor.name for tensor in graph.initializer}
        takers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                takers.setdefault(name, []).append(node)
        node = graph.node[layer.index]
        while True:
            yield from (node.name, node.output[0])
            behind = takers.get(node.output[0], [])
            if len(behind) != 1 or behind[0].op_type not in SCALED or not held & set(behind[0].input):
                return
            node = behind[0]

    def _saved(self, network: Any, folder: Path) -> Part:
        import openvino

        for number, node in enumerate(network.get_ordered_ops()):  # its own names count on from one model to the next
            if node.get_type_name() not in ENDS:
                node.set_friendly_name(f"{node.get_type_name()}_{number}")
        folder.mkdir(parents=True, exist_ok=True)
        openvino.save_model(network, folder / openvino_files.MODEL, compress_to_fp16=False)
        before = self.part.facts
        bits = 8.0 * (folder / openvino_files.WEIGHTS).stat().st_size / max(before.parameters, 1)
        bits = min(bits, before.weight_bits)
        facts = replace(before, format="openvino", weight_bits=bits, activation_bits=8.0, stored=1.0)
        return replace(self.part, format="openvino", path=folder, facts=facts)


def _in_proportion(known: Statistics) -> Statistics:
    """Take 8 bits to save half of each layer's time: how quick onnxruntime's are tells nothing of OpenVINO's."""
    times = known.get("milliseconds", {})
    return {**known, "milliseconds": {name: np.array([each[0], each[0] / 2, np.nan]) for name, each in times.items()}}


def _coded(node: Any) -> bool:
    """Tell whether a node of OpenVINO's multiplies by weights that are held in few bits."""
    if node.get_type_name() not in PRODUCTS:
        return False
    source = node.input_value(1).get_node()
    while source.get_type_name() in ("Multiply", "Subtract", "Convert", "Reshape", "Transpose", "FakeQuantize"):
        if source.get_type_name() == "FakeQuantize":
            return True
        source = source.input_value(0).get_node()
    return source.get_type_name() == "Constant" and bool(source.get_element_type().bitwidth <= max(BITS))


def _error(meant: Any, quantized: Any, feeds: Sequence[Feed]) -> float:
    """Return the squared difference of the first outputs, over the squares of those meant."""
    import openvino

    core, wrong, size = openvino.Core(), 0.0, 0.0
    exact, other = (core.compile_model(one, "CPU") for one in (meant, quantized))
    for feed in feeds:
        wanted, given = (np.asarray(one(feed)[0], np.float64) for one in (exact, other))
        wrong, size = wrong + float(np.sum((given - wanted) ** 2)), size + float(np.sum(wanted**2))
    return wrong / max(size, 1e-30)
