"""Splits linear layers and convolutions into two of lower rank, where that saves operations.

The split is the best there is for the inputs that the layer really reads (`trimtab.fit.factors`), and ranks are chosen
over all layers at once: the least total error at the share of operations that is asked for, or for each layer the least
rank that keeps `energy` of its answer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trimtab.errors import Refused
from trimtab.fit import attention, factors
from trimtab.fit import module as artefact
from trimtab.fit.checkpoint import seeded
from trimtab.fit.factors import Spectrum
from trimtab.fit.facts import operations_of_layers
from trimtab.fit.program import Net
from trimtab.fit.units import label, repeat
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Cascade, Model, Part

LOSS = 0.4
"""Share of the score lost for each share of operations, before any recovery."""
SEPARATOR = "/"


@dataclass(frozen=True)
class LowRank(Pass):
    """Splits layers in two until a share `ratio` of the operations is gone."""

    ratio: float = 0.3
    """Share of the model's multiply-accumulates to remove, above 0 and below 1."""
    energy: float | None = None
    """Share of each layer's squared answer to keep, above 0 and below 1; replaces `ratio`."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "structure"
    uses: ClassVar[frozenset[Use]] = frozenset({"seed", "train"})
    needs: ClassVar[frozenset[str]] = frozenset({"input_moment"})

    def __post_init__(self) -> None:
        for name in ("ratio", "energy"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} is above 0 and below 1, got {value}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return two depths for nets that are whole and work mostly in linear layers or convolutions."""
        fit = sum(facts.operations_by.get(kind, 0) for kind in ("conv", "linear", "attention"))
        return (cls(ratio=0.3), cls(ratio=0.5)) if not facts.cut and 2 * fit > facts.operations else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect weights outside embeddings to go with the operations."""
        left, words = 1 - self.ratio, facts.parameters_by.get("embedding", 0)
        return replace(
            facts,
            parameters=round((facts.parameters - words) * left + words),
            operations=round(facts.operations * left),
            operations_by={kind: round(number * left) for kind, number in facts.operations_by.items()},
            quality_loss=min(1.0, facts.quality_loss + LOSS * self.ratio),
            cut=1 - (1 - facts.cut) * left,
        )

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take nets with linear layers or convolutions."""
        if isinstance(model.program, Cascade):
            return "low_rank takes the stages of a cascade one by one, before they are put together"
        kinds = {kind for part in model.parts.values() for kind, count in part.facts.layers.items() if count}
        fit = kinds & {"conv", "linear", "attention"}
        return None if fit else "low_rank splits linear layers and convolutions; this model has none"

    def apply(self, model: Model, context: Context) -> Model:
        """Split the layers; the edits and the weights become the new artefact."""
        context.check_time()
        moments = context.statistics.get("input_moment", {})
        if not moments:
            raise Refused("low_rank is fitted to what layers read, and there are no statistics of this model")
        with seeded(context.seed, context.threads):
            return self._applied(model, context, {name: torch.from_numpy(value) for name, value in moments.items()})

    @staticmethod
    def rebuild(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
        """Repeat the recorded splits on a freshly built module."""
        repeat(module, [[str(name), "swap", []] for name in edit["swaps"]])
        return factors.split(module, {str(name): int(rank) for name, rank in edit["ranks"].items()})

    def _applied(self, model: Model, context: Context, moments: Mapping[str, Tensor]) -> Model:
        net = Net.load(model, editable=True).eval()
        batch = artefact.example(context.task)
        met = net.met(batch)
        swaps = {part: attention.swap(module)[0] for part, module in zip(net.names, net.parts, strict=True)}
        spectra, whole, left_alone = self._spectra(net, model, met, (moments, context))
        ranks, known = self._ranks(spectra, whole), {one.name: one for one in spectra}
        if not ranks:
            why = "; ".join(f"{name} {reason}" for name, reason in left_alone.items())
            raise Refused(f"no layer is worth splitting at {self}{': ' if why else ''}{why}")
        parts: dict[str, Part] = {}
        for part, module in zip(net.names, net.parts, strict=True):
            own = {name.partition(SEPARATOR)[2]: rank for name, rank in ranks.items() if _part(name) == part}
            if own:
                context.check_time()
                old = {name: copy.deepcopy(module.get_submodule(name)) for name in own}
                factors.split(module, own)
                for name, layer in old.items():
                    factors.fill(module, known[f"{part}{SEPARATOR}{name}"], name, layer)
                edit = {"swaps": swaps[part], "ranks": own}
                parts[part] = self._saved(model.parts[part], module, context, (part, edit, met[part]))
        split = [one for one in spectra if one.name in ranks]
        whole_still = {_label(one.name): "is better whole" for one in spectra if one.name not in ranks}
        notes = {
            "ranks": {_label(one.name): ranks[one.name] for one in split},
            "errors": {_label(one.name): factors.error_at(one, ranks[one.name]) for one in split},
            "left_alone": left_alone | whole_still,
        }
        return model.map_parts(parts, notes={**model.notes, "low_rank": notes})

    def _spectra(
        self, net: Net, model: Model, met: Mapping[str, Any], given: tuple[Mapping[str, Tensor], Context]
    ) -> tuple[list[Spectrum], float, dict[str, str]]:
        """Return the spectra of layers by part/layer, the operations of all, and layers left alone with the reason."""
        moments, context = given
        spectra: list[Spectrum] = []
        left_alone: dict[str, str] = {}
        whole = 0.0
        for part, module in zip(net.names, net.parts, strict=True):
            counted = operations_of_layers(module, artefact.arguments(met[part], model.parts[part].signature))
            whole += sum(counted.values())
            for name, layer in module.named_modules():
                if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
                    continue
                context.check_time()
                key = f"{part}{SEPARATOR}{name}"
                reason = _reason(module, layer, key in moments and name in counted)
                if reason:
                    left_alone[label(part, name)] = reason
                else:
                    spectra.append(factors.spectrum(key, layer, moments[key], counted[name]))
        return spectra, whole, left_alone

    def _ranks(self, spectra: list[Spectrum], whole: float) -> dict[str, int]:
        if not spectra:
            return {}
        if self.energy is not None:
            return factors.within(spectra, 1 - self.energy)
        splittable = sum(float(one.costs[-1]) for one in spectra)
        return factors.least_error(spectra, max(0.0, splittable - self.ratio * whole))

    def _saved(self, before: Part, module: nn.Module, context: Context, done: tuple[str, dict[str, Any], Any]) -> Part:
        name, edit, example = done
        build, edits = artefact.edited(before)
        edits = [*edits, {"by": self.name(), "edit": edit}]
        part = artefact.save(module, context.scratch / name, before.signature, build, edits, example)
        cut = 1 - (1 - before.facts.cut) * part.facts.operations / max(1, before.facts.operations)
        loss = self.predict(before.facts, context.machine).quality_loss
        return replace(part, facts=replace(part.facts, cut=cut, quality_loss=loss))


def _label(name: str) -> str:
    part, _, layer = name.partition(SEPARATOR)
    return label(part, layer)


def _part(name: str) -> str:
    return name.partition(SEPARATOR)[0]


def _reason(module: nn.Module, layer: nn.Module, known: bool) -> str:
    """Return why a layer stays as it is, or nothing."""
    reason = factors.unfit(layer)
    if reason:
        return reason
    owners = [n for n, value in module.named_parameters(remove_duplicate=False) if value is layer.weight]
    if len(owners) > 1:
        return "shares its weight with another layer"
    return "" if known else "was not seen on calibration data, or reads too many features"
