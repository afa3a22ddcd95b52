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

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import onnx

from trimtab.errors import Refused, TrimtabError
from trimtab.passes import Context, Pass, Stage, Statistics, Use
from trimtab.run import onnx_check, onnx_facts, onnx_files, onnx_kernels, onnx_layers, onnx_mixed, onnx_precision
from trimtab.run import onnx_statistics as measured
from trimtab.run.onnx_inputs import Feed, Inputs
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part
from trimtab.values.registry import missing

METHODS = ("static", "dynamic", "weights")
CALIBRATIONS = ("minmax", "percentile", "mse")
LIBRARIES = ("onnxruntime", "nncf")
GROUPS = (16, 32, 64, 128, 256)
CHECKED = 4
"""Calls, of up to 16 training examples, on which the quantized model is compared with the float one."""
NNCF_SAMPLES = 300
KINDS: Mapping[str, tuple[str, ...]] = {
    "static": ("conv", "linear", "lstm"),
    "dynamic": ("linear", "lstm", "attention", "embedding"),
    "weights": ("conv", "linear", "lstm", "gru", "rnn", "attention", "embedding"),
}
"""Kinds of layer that each method finds a kernel for."""
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
    library: str = "onnxruntime"
    """Whose static quantizer: `onnxruntime`, or `nncf`, which also corrects biases and knows OpenVINO's kernels."""

    formats: ClassVar[Mapping[str, str]] = {"onnx": "onnx"}
    stage: ClassVar[Stage] = "precision"
    version: ClassVar[int] = 2
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
        self._check("library", LIBRARIES)
        self._check("group_size", GROUPS)
        if self.samples < 1:
            raise ValueError(f"samples is at least 1, got {self.samples}")
        if not 0 <= self.harm <= 1:
            raise ValueError(f"harm is a share from 0 to 1, got {self.harm}")
        if self.library == "nncf" and self.method != "static":
            raise ValueError(f"library is 'nncf' with method='static' alone, got {self.method!r}")

    def _check(self, name: str, known: Sequence[object]) -> None:
        if getattr(self, name) not in known:
            raise ValueError(f"{name} is {', '.join(map(str, known))}; got {getattr(self, name)!r}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return the methods that reach most of such a net, mild to bold, mixed precision among them."""
        if _is_quantized(facts):
            return ()
        if not any(_reaches(method, facts) for method in ("dynamic", "static")):
            return (cls(method="weights"),) if _has(facts, KINDS["weights"]) else ()
        weighty = facts.parameters_by
        light = [cls(method="weights", weights=4)] if weighty.get("linear", 0) >= LARGE else []
        light += [cls(method="weights")] if weighty.get("embedding", 0) > sum(weighty.values()) / 2 else []
        dynamic = [cls(method="dynamic")] if _reaches("dynamic", facts) else []
        if not _reaches("static", facts):
            return (*light, *dynamic)
        narrow = [cls(exact=True), cls(weights=7)] if _saturates(machine) else [cls()]
        bits = 7 if _saturates(machine) else 8
        nncf = [cls(library="nncf", weights=bits)] if importlib.util.find_spec("nncf") else []
        return (*light, *dynamic, cls(harm=0.3), *narrow, *nncf)[:4]

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Return the seconds of calibration and choice on one core of some 10 billion multiply-accumulates a second."""
        runs = self.samples if self.method == "static" else CHECKED
        runs += measured.FEWEST * sum(facts.layers.values()) if self.harm < 1 else 0
        return 1.0 + (10.0 if self.library == "nncf" else 0.0) + runs * facts.operations / 1e10

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Return the facts at fewer bits, with a loss usual for such nets; unchanged where little is reached."""
        if not _reaches(self.method, facts):
            return facts
        light = self.method == "weights"
        loss = LOSS[self.method] * self.harm * (0.7 if self.library == "nncf" else 1.0)
        loss += (0.001 if self.weights == 7 else 0.0) + (0.004 if self.weights == 4 else 0.0)
        left = 1.0 - _share(facts.parameters_by, KINDS[self.method]) * (0.85 + 0.15 * self.harm)
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
        if self.method == "static" and self.samples == measured.SAMPLES and self.library == "onnxruntime":
            kinds = {"ranges", *(["histograms"] if self.calibration != "minmax" else [])}
        else:
            kinds = set()
        return frozenset(kinds | ({self._measure, "milliseconds"} if self.harm < 1 else set()))

    @property
    def _measure(self) -> str:
        return "weights4" if self.weights == 4 else self.method

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Say why where there is nothing to do."""
        if any(_is_quantized(part.facts) for part in model.parts.values()):
            return "the model is quantized already; quantize the float model instead"
        kinds = KINDS[self.method]
        if not any(_has(part.facts, kinds) for part in model.parts.values()):
            return f"quantize(method={self.method!r}) works on {', '.join(kinds)} layers, and the model has none"
        return None

    def apply(self, model: Model, context: Context) -> Model:
        """Return the quantized model; notes say which layers stay in float, and what the change did to the outputs.

        Parts in which nothing can be quantized stay as they are, and the notes say why.

        Raises:
            DataError: the calibration inputs hold NaN or infinity, or are not what the model takes.
            MissingExtra: library='nncf', and nncf is not installed.
            Refused: nothing could be quantized.
        """
        context.check_time()
        inputs = Inputs(model, context.task, context.seed, self.samples, context.check_time)
        statistics = self._statistics(model, context)
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

    def _statistics(self, model: Model, context: Context) -> Statistics:
        """Return what the workshop gathered, and gather here what it did not."""
        absent = sorted(self.wants() - set(context.statistics))
        if not absent:
            return context.statistics
        context.progress("calibrating", 0.0)
        own = measured.collect(model, context.task, absent, context.seed, context.check_time)
        return {**context.statistics, **own}


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
            assigned, chosen = self._assigned(layers)
            after = self._tried(prepared, frozenset(chosen))
            strays = self._strays(after)
            if self.settings.exact and strays:
                own = {s["layer"]: "its int8 kernel does not compute here what it should" for s in strays}
                chosen |= own
                after, strays = self._tried(prepared, frozenset(chosen)), []
            left = onnx_mixed.left_in_float(layers, after, self._doing, chosen)
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

    @property
    def _doing(self) -> str:
        return "nncf" if self.settings.library == "nncf" else self.settings.method

    def _assigned(self, layers: Sequence[onnx_layers.Layer]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Choose the layers by harm and time; none are left where every harm is allowed."""
        if self.settings.harm >= 1:
            return [], {}
        harms, times = (
            measured.of_part(self.statistics[kind], self.name) for kind in (self.settings._measure, "milliseconds")
        )
        records = onnx_mixed.assign(layers, harms, times, self.settings.method, self.settings.harm)
        return records, {record["layer"]: record["left"] for record in records if "left" in record}

    def _tried(self, prepared: onnx.ModelProto, left: frozenset[str]) -> onnx.ModelProto:
        try:
            return self._quantize(prepared, left)
        except (TrimtabError, TimeoutError, MemoryError, OSError):
            raise
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:200]
            whose = self.settings.library
            raise Refused(f"{whose}'s quantizer cannot take this model: {first or type(error).__name__}") from error

    def _quantize(self, prepared: onnx.ModelProto, left: frozenset[str]) -> onnx.ModelProto:
        wanted = self.settings
        per_channel = wanted.per_channel and _opset(prepared) >= 13
        masked = bool(self.part.facts.layers.get("attention"))
        settings = onnx_precision.Settings(left, wanted.weights, per_channel, masked, wanted.group_size)
        if wanted.method == "dynamic":
            return onnx_precision.dynamic(prepared, settings)
        if wanted.method == "weights":
            return onnx_precision.weights(prepared, settings)
        if wanted.library == "nncf":
            after = _by_nncf(prepared, [*self.inputs.of(self.name)], settings)
            return onnx_precision.with_dynamic_lstm(prepared, after, settings)
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
        if self.settings.method == "weights" or not (self.settings.exact or _saturates(self.context.machine)):
            return []
        return onnx_kernels.worst(onnx_kernels.layer_errors(after, self.inputs.of(self.name, 1)))

    def _saturation(self, saved: Part, strays: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Say which layers and runtimes stray where the CPU may saturate, and what mends it."""
        if self.settings.method == "weights" or not _saturates(self.context.machine):
            return {"strayed": list(strays)} if strays else {}
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
        )
        return replace(saved, facts=facts, signature=self.part.signature)


def _by_nncf(model: onnx.ModelProto, feeds: list[Feed], settings: onnx_precision.Settings) -> onnx.ModelProto:
    """Quantize with NNCF's post-training quantization, its usage reports switched off."""
    os.environ.setdefault("NNCF_CI", "1")
    try:
        import nncf
    except ModuleNotFoundError as error:
        raise missing(error, "quantize(library='nncf')") from error
    narrow = nncf.quantization.advanced_parameters.OverflowFix
    fix = narrow.ENABLE if settings.bits == 7 else narrow.DISABLE
    result: onnx.ModelProto = nncf.quantize(
        model,
        nncf.Dataset(feeds),
        subset_size=min(NNCF_SAMPLES, len(feeds)),
        model_type=nncf.ModelType.TRANSFORMER if settings.masked else None,
        ignored_scope=nncf.IgnoredScope(names=sorted(settings.left), validate=False) if settings.left else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
    )
    del result.graph.value_info[:]
    return result


def _opset(model: onnx.ModelProto) -> int:
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)


def _codes(model: onnx.ModelProto) -> bool:
    kinds = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return any(tensor.data_type in kinds and len(tensor.dims) > 1 for tensor in onnx_facts.tensors_of(model))


def _is_quantized(facts: Facts) -> bool:
    return facts.weight_bits < 16 or facts.activation_bits < 16


def _has(facts: Facts, kinds: Sequence[str]) -> bool:
    return any(facts.layers.get(kind) for kind in kinds)


def _share(counts: Mapping[str, int], kinds: Sequence[str]) -> float:
    """Return the share of work or weights that lies in these kinds of layers; 1 where they were not told apart."""
    total = sum(counts.values())
    return sum(counts.get(kind, 0) for kind in kinds) / total if total else 1.0


def _reaches(method: str, facts: Facts) -> bool:
    """Tell whether the method has kernels for a good part of such a net's work."""
    if not _has(facts, KINDS[method]) or _share(facts.operations_by, KINDS[method]) < 0.2:
        return False
    if method == "static":
        return _has(facts, ("conv", "linear")) and (_has(facts, ("conv",)) or not _has(facts, ("lstm", "gru", "rnn")))
    known = bool(facts.operations_by)
    return known or method == "weights" or not _has(facts, ("conv", "gru", "rnn"))


def _saturates(machine: Machine) -> bool:
    """Tell whether 8-bit products add up in 16 bits: x86 with neither VNNI nor AMX."""
    x86 = any(name.startswith("avx") for name in machine.isa)
    return x86 and not any("vnni" in name or name.startswith("amx_int8") for name in machine.isa)
