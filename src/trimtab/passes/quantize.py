"""Quantize ONNX parts: static with calibration on training inputs, dynamic, or weights alone; all layers, or a mix.

A real number r is held as r = scale x (q - zero), q a whole number. Weights are symmetric (zero = 0) with one scale an
output channel; activations are unsigned with one scale a tensor, read off real inputs ("static") or off each input as
it comes ("dynamic"). Unsigned activations x signed weights is what onnxruntime's and OpenVINO's CPU kernels are for.

Layers differ: `harm` below 1 leaves those in float whose harm to the outputs, measured one layer at a time, is dear
for the milliseconds they save.

Where the CPU has no VNNI, that product adds pairs in 16 bits: 2 x 255 x 127 > 32,767, so large values saturate without
notice. Weights of 7 bits cannot: 2 x 255 x 64 < 32,767. What saturates here shows as a difference between the int8
kernels and the same products in float; the layers are named, and `exact` leaves them in float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import onnx

from trimtab.errors import Refused, TrimtabError, one_line
from trimtab.passes import Context, Pass, Stage, Statistics, Use, _bits
from trimtab.passes._bits import KINDS, RATE, has, is_quantized, mixing_runs, reaches, share
from trimtab.run import onnx_check, onnx_facts, onnx_files, onnx_kernels, onnx_layers, onnx_mixed, onnx_precision
from trimtab.run import onnx_statistics as measured
from trimtab.run.onnx_inputs import Inputs
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part

METHODS = ("static", "dynamic", "weights")
CALIBRATIONS = ("minmax", "percentile", "mse")
GROUPS = (16, 32, 64, 128, 256)
CHECKED = 4
"""Calls, of up to 16 training examples, on which the quantized model is compared with the float one."""
COMPARING, LAYER_S = 256, 0.06
"""Runs of an example that comparing a statically quantized model takes, and seconds that onnxruntime's quantizer takes
for a layer."""
MOST_CHOICES = 4
LARGE = 30_000_000
"""Weights of linear layers from which reading them is what costs, so that 4 bits of them are quicker."""
LOSS = {"static": 0.003, "dynamic": 0.001, "weights": 0.0005}
"""Loss that is usual for such nets, as a share."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantize weights and activations to 8 bits, or weights alone to 8 or 4."""

    weights: int = 8
    """8; 7 for CPUs without VNNI; 4 with method='weights'."""
    activations: int = 8
    """Bits; 8 is what the kernels take."""
    method: str = "static"
    """`static` fixes ranges of activations on examples, `dynamic` at each call, `weights` leaves them float."""
    calibration: str = "minmax"
    """How static ranges are chosen: `minmax`, `percentile`, or `mse`, the least squared error."""
    samples: int = 256
    """Training examples to calibrate on."""
    per_channel: bool = True
    """A scale for each output channel of a weight, or one for the whole."""
    harm: float = 1.0
    """Share of the harm of quantizing every layer that may be done; below 1, the layers dearest for their time stay."""
    group_size: int = 32
    """Inputs of a product that share a scale, with method='weights'."""
    exact: bool = False
    """Leave layers in float whose int8 kernel does not compute here what it should (see `kernel_error`)."""

    formats: ClassVar[Mapping[str, str]] = {"onnx": "onnx"}
    stage: ClassVar[Stage] = "precision"
    version: ClassVar[int] = 3
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "seed", "machine"})
    needs: ClassVar[frozenset[str]] = frozenset({"ranges"})

    def __post_init__(self) -> None:
        bits = (8, 4) if self.method == "weights" else (8, 7)
        if self.method not in METHODS:
            raise ValueError(f"method is {', '.join(METHODS[:-1])} or {METHODS[-1]}, got {self.method!r}")
        if self.weights not in bits or self.activations != 8:
            raise ValueError(
                f"weights are {bits[0]} or {bits[1]} bits with method={self.method!r} and activations 8, "
                f"got {self.weights} and {self.activations}; no kernel for others is used here"
            )
        self._check("calibration", CALIBRATIONS)
        self._check("group_size", GROUPS)
        if self.samples < 1:
            raise ValueError(f"samples is at least 1, got {self.samples}")
        if not 0 <= self.harm <= 1:
            raise ValueError(f"harm is a share from 0 to 1, got {self.harm}")

    def _check(self, name: str, known: Sequence[object]) -> None:
        if getattr(self, name) not in known:
            raise ValueError(f"{name} is {', '.join(map(str, known))}; got {getattr(self, name)!r}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return the methods that reach most of such a net, mild to bold, mixed precision among them."""
        if is_quantized(facts):
            return ()
        if not any(reaches(method, facts) for method in ("dynamic", "static")):
            return (cls(method="weights"),) if has(facts, KINDS["weights"]) else ()
        weighty = facts.parameters_by
        light = [cls(method="weights", weights=4)] if weighty.get("linear", 0) >= LARGE else []
        light += [cls(method="weights")] if weighty.get("embedding", 0) > sum(weighty.values()) / 2 else []
        dynamic = [cls(method="dynamic")] if reaches("dynamic", facts) else []
        if not reaches("static", facts):
            return (*light, *dynamic)
        if machine.saturates:
            exact = [cls(exact=True)] if machine.is_here else []
            return (*light, *dynamic, cls(weights=7, harm=0.3), *exact, cls(weights=7))[:MOST_CHOICES]
        return (*light, *dynamic, cls(harm=0.3), cls())[:MOST_CHOICES]

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Return the seconds of calibration, of choice, of writing each layer anew, and of comparing the answers."""
        static = self.method == "static"
        runs = self.samples + COMPARING if static else CHECKED
        written = LAYER_S * sum(facts.layers.values()) * (1 + self.exact) if static else 0.0
        return 1.0 + written + (runs + mixing_runs(facts, self.harm)) * facts.operations / RATE

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Return the facts at fewer bits, with a loss usual for such nets; unchanged where little is reached."""
        if not reaches(self.method, facts):
            return facts
        light = self.method == "weights"
        loss = LOSS[self.method] * self.harm
        loss += (0.001 * self.harm if self.weights == 7 else 0.0) + (0.004 if self.weights == 4 else 0.0)
        left = 1.0 - share(facts.parameters_by, KINDS[self.method]) * (0.85 + 0.15 * self.harm)
        bits = float(self.weights if self.weights != 7 else 8) + (16 / self.group_size if light else 0.0)
        return replace(
            facts,
            weight_bits=bits * (1 - left) + facts.weight_bits * left,
            activation_bits=facts.activation_bits if light else 8.0,
            quality_loss=facts.quality_loss + loss,
            dynamic=facts.dynamic or self.method == "dynamic" or bool(facts.layers.get("lstm") and not light),
        )

    def wants(self) -> frozenset[str]:
        """Return ranges for static calibration, and what the choice of layers is made by where `harm` is below 1."""
        if self.method == "static" and self.samples == measured.SAMPLES:
            kinds = {"ranges", *(["histograms"] if self.calibration != "minmax" else [])}
        else:
            kinds = set()
        return frozenset(kinds | ({self._measure, "milliseconds"} if self.harm < 1 else set()))

    @property
    def _measure(self) -> str:
        return "weights4" if self.weights == 4 else self.method

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Say why where there is nothing to do."""
        if any(is_quantized(part.facts) for part in model.parts.values()):
            return "the model is quantized already; quantize the float model instead"
        kinds = KINDS[self.method]
        if not any(has(part.facts, kinds) for part in model.parts.values()):
            return f"quantize(method={self.method!r}) works on {', '.join(kinds)} layers, and the model has none"
        return None

    def apply(self, model: Model, context: Context) -> Model:
        """Return the quantized model; notes say which layers stay in float, and what the change did to the outputs.

        Parts in which nothing can be quantized stay as they are, and the notes say why.

        Raises:
            DataError: the calibration inputs hold NaN or infinity, or are not what the model takes.
            Refused: nothing could be quantized.
        """
        context.check_time()
        inputs = Inputs(model, context.task, context.seed, self.samples, context.check_time)
        statistics = _bits.statistics(model, context, self.wants())
        parts: dict[str, Part] = {}
        notes: dict[str, Any] = {}
        for done, (name, part) in enumerate(model.parts.items()):
            context.progress(f"quantizing {name}", done / len(model.parts))
            try:
                work = _Work(self, name, part, inputs, statistics, context)
                parts[name], notes[name] = work.quantized()
            except Refused as refusal:
                notes[name] = {"method": self.method, "left": str(refusal)}
        if not parts:
            raise Refused("; ".join(dict.fromkeys(note["left"] for note in notes.values())))
        said = notes["main"] if list(notes) == ["main"] else notes
        return model.map_parts(parts, notes={**model.notes, "quantize": said})


@dataclass
class _Work:
    """One part on its way to fewer bits."""

    settings: Quantize
    name: str
    part: Part
    inputs: Inputs
    statistics: Statistics
    context: Context

    def quantized(self) -> tuple[Part, dict[str, Any]]:
        with onnx_check.quietly():
            prepared = onnx_layers.prepare(onnx_files.load(self.part))
            layers = onnx_layers.layers(prepared, bool(self.part.facts.layers.get("attention")))
            assigned, chosen = _bits.chosen(
                layers, self.statistics, self.name, self.settings._measure, self.settings.harm
            )
            after = self._tried(prepared, frozenset(chosen))
            strays = self._strays(after)
            if self.settings.exact and strays:
                own = {s["layer"]: "its int8 kernel does not compute here what it should" for s in strays}
                chosen |= own
                after, strays = self._tried(prepared, frozenset(chosen)), []
            left = onnx_mixed.left_in_float(layers, after, self.settings.method, chosen)
            if not _codes(after):
                reasons = sorted({each["why"] for each in left}) or ["no layer holds weights of its own"]
                raise Refused(f"nothing in {self.name} could be quantized: {'; '.join(reasons[:3])}")
            notes: dict[str, Any] = {"method": self.settings.method, "left_in_float": left}
            notes |= {"layers": assigned} if assigned else {}
            float_data, data = prepared.SerializeToString(), after.SerializeToString()
            feeds = self.inputs.of(self.name, CHECKED)
            notes |= onnx_kernels.compared(float_data, data, feeds, self.settings.method == "static")
            saved = self._saved(after)
            notes |= self._saturation(saved, strays)
        return saved, notes

    def _tried(self, prepared: onnx.ModelProto, left: frozenset[str]) -> onnx.ModelProto:
        try:
            return self._quantize(prepared, left)
        except (TrimtabError, TimeoutError, MemoryError, OSError):
            raise
        except Exception as error:
            raise Refused(f"onnxruntime's quantizer cannot take this model: {one_line(error)}") from error

    def _quantize(self, prepared: onnx.ModelProto, left: frozenset[str]) -> onnx.ModelProto:
        wanted = self.settings
        per_channel = wanted.per_channel and _opset(prepared) >= 13
        masked = bool(self.part.facts.layers.get("attention"))
        settings = onnx_precision.Settings(left, wanted.weights, per_channel, masked, wanted.group_size)
        if wanted.method == "dynamic":
            return onnx_precision.dynamic(prepared, settings)
        if wanted.method == "weights":
            return onnx_precision.weights(prepared, settings)
        return onnx_precision.static(prepared, self._ranges(prepared), settings)

    def _ranges(self, prepared: onnx.ModelProto) -> onnx_layers.Ranges:
        """Return ranges by calibration."""
        clipped = self.settings.calibration != "minmax"
        if self.settings.samples == measured.SAMPLES:
            found = {name: values[:2] for name, values in self._of("ranges").items()}
            counted = self._of("histograms") if clipped else {}
        else:
            found = measured.ranges(prepared, self.inputs.of(self.name))
            counted = measured.histograms(prepared, found, self.inputs.of(self.name)) if clipped else {}
        return onnx_precision.ranges_of(counted, self.settings.calibration) if clipped else found

    def _of(self, kind: str) -> dict[str, Any]:
        return measured.of_part(self.statistics[kind], self.name)

    def _strays(self, after: onnx.ModelProto) -> list[dict[str, Any]]:
        """Name the layers whose kernels stray, looked for where the CPU may saturate or the setting asks."""
        machine, exact = self.context.machine, self.settings.exact
        if exact and not machine.is_here:
            raise Refused(f"exact=True looks at kernels at work, and {machine.name} is not here: weights=7")
        if self.settings.method == "weights" or not machine.is_here or not (exact or machine.saturates):
            return []
        return onnx_kernels.worst(onnx_kernels.layer_errors(after, self.inputs.of(self.name, 1)))

    def _saturation(self, saved: Part, strays: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Say which layers and runtimes stray where the CPU may saturate, and what mends it."""
        if self.settings.method == "weights" or not self.context.machine.saturates:
            return {"strayed": list(strays)} if strays else {}
        if not self.context.machine.is_here:
            name = self.context.machine.name
            return {
                "saturation": f"{name} has no VNNI: 8-bit products may saturate there, weights=7 does not; not checked"
            }
        errors = onnx_kernels.runtime_errors(saved, [*self.inputs.of(self.name, 1)], self.context.machine)
        wrong = [f"{name} by {error:.1%}" for name, error in errors.items() if error > onnx_kernels.NOTICED]
        found = "; ".join(
            [f"{len(strays)} layers do on onnxruntime"] * bool(strays) + [f"outputs stray on {w}" for w in wrong]
        )
        said = "this CPU has no VNNI: 8-bit products may saturate; "
        remedy = "weights=7 does not, exact=True leaves layers that do in float, onnxruntime has x64quantprecision"
        said += f"{found}: {remedy}" if found else f"none did on the examples checked ({remedy})"
        return {"saturation": said, "strayed": list(strays), "runtime_errors": errors}

    def _saved(self, after: onnx.ModelProto) -> Part:
        saved = onnx_files.save(after, self.context.scratch / self.name)
        before, found = self.part.facts, saved.facts
        light = self.settings.method == "weights"
        facts = replace(
            before,
            weight_bits=found.weight_bits * found.parameters / max(before.parameters, 1),
            activation_bits=before.activation_bits if light else 8.0,
            dynamic=found.dynamic,
            stored=found.stored,
        )
        return replace(saved, facts=facts, signature=self.part.signature)


def _opset(model: onnx.ModelProto) -> int:
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)


def _codes(model: onnx.ModelProto) -> bool:
    kinds = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return any(tensor.data_type in kinds and len(tensor.dims) > 1 for tensor in onnx_facts.tensors_of(model))
