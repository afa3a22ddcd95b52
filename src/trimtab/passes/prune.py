"""Removes whole channels and neurons, so that any runtime gets a smaller dense net: no sparse kernel is needed.

`ratio` is the share of multiply-accumulates to remove. Channels are ranked by importance, over the whole net ("global")
or the same share of each layer ("layer"), and the cut is deepened by bisection until the counted operations fit.
Channel counts stay multiples of 8 where a layer has 32 or more, because vector kernels work in eights; no layer loses
more than nine tenths. The cut is data: the edit lists which channels of which layer went.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trimtab.errors import Refused
from trimtab.fit import module as artefact
from trimtab.fit.channels import Group, cut, groups, read_cuts, repeat
from trimtab.fit.facts import operations
from trimtab.passes import Context, Pass, Stage
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part, Single

SCOPES, IMPORTANCES = ("global", "layer"), ("magnitude", "batch_norm")
DEEPEST = 0.9
"""Largest share of a layer's channels that may go."""
ROUNDS = 7
"""Bisection steps: the share of channels is found to within 1/128."""
LOSS = 1.2
"""Share of the score lost for each share of operations, before any recovery: seen on small residual nets."""
NOT_YET = ("lstm", "gru", "attention")


@dataclass(frozen=True)
class Prune(Pass):
    """Removes the least important channels until a share `ratio` of the multiply-accumulates is gone."""

    ratio: float = 0.5
    """Share of multiply-accumulates to remove, above 0 and below 1."""
    scope: str = "global"
    """`global` ranks all channels together, `layer` takes the same share of each layer."""
    importance: str = "magnitude"
    """`magnitude`: L2 norm of the weights of a channel, over all layers coupled to it; `batch_norm`: its scales."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "structure"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio is above 0 and below 1, got {self.ratio}")
        if self.scope not in SCOPES:
            raise ValueError(f"scope is one of {', '.join(SCOPES)}, got {self.scope!r}")
        if self.importance not in IMPORTANCES:
            raise ValueError(f"importance is one of {', '.join(IMPORTANCES)}, got {self.importance!r}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return five depths, for nets of convolutions and linear layers that are whole."""
        if facts.cut or _unfit(facts.layers):
            return ()
        return tuple(cls(ratio=ratio) for ratio in (0.3, 0.5, 0.7, 0.8, 0.9))

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect weights to go with the operations, and the score to fall fast until the net is retrained."""
        left = 1 - self.ratio
        return replace(
            facts,
            parameters=round(facts.parameters * left),
            operations=round(facts.operations * left),
            quality_loss=min(1.0, facts.quality_loss + LOSS * self.ratio),
            cut=1 - (1 - facts.cut) * left,
        )

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one network of convolutions and linear layers."""
        if len(model.parts) != 1 or not isinstance(model.program, Single):
            return f"prune takes one network, this model has the parts {', '.join(model.parts)}"
        return _unfit(model.facts.layers)

    def apply(self, model: Model, context: Context) -> Model:
        """Remove the channels; the edit and the weights become the new artefact."""
        (name,) = model.parts
        module = artefact.load(model.main, editable=True)
        example = artefact.example(context.task)
        inputs = artefact.arguments(example, model.main.signature)
        found = groups(module, inputs, self.importance)
        cuts = self._search(module, inputs, found, context)
        pruned = repeat(module, cuts)
        build, edits = artefact.edited(model.main)
        edits = [*edits, {"by": self.name(), "edit": {"cuts": cuts}}]
        part = artefact.save(pruned, context.scratch / name, model.main.signature, build, edits, example)
        part = replace(part, facts=self._facts(model.main, part, context.machine))
        return model.map_parts({name: part}, notes={**model.notes, "prune": _notes(model.main, part, found, cuts)})

    @staticmethod
    def rebuild(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
        """Repeat the recorded cut on a freshly built module."""
        return repeat(module, read_cuts(edit.get("cuts")))

    def _search(
        self, module: nn.Module, inputs: tuple[Tensor, ...], found: Sequence[Group], context: Context
    ) -> list[Any]:
        """Return the cuts whose removed share of operations is nearest to `ratio`."""
        whole, low, high = operations(module, inputs), 0.0, 1.0
        best: tuple[float, list[Any]] = (self.ratio, [])
        for turn in range(ROUNDS):
            context.check_time()
            share = (low + high) / 2
            trial = copy.deepcopy(module)
            cuts = cut(trial, inputs, self._plan(found, share))
            removed = 1 - operations(trial, inputs) / whole
            best = min(best, (abs(removed - self.ratio), cuts), key=lambda pair: pair[0])
            low, high = (share, high) if removed < self.ratio else (low, share)
            context.progress(f"removes {removed:.0%} of operations", (turn + 1) / ROUNDS)
        if not best[1]:
            raise Refused(f"nothing can be removed at ratio {self.ratio}: {_why(found)}")
        return best[1]

    def _plan(self, found: Sequence[Group], share: float) -> dict[str, list[int]]:
        """Return which channels of which root layer go when about `share` of all channels go."""
        free = [group for group in found if not group.kept_because]
        if not free:
            return {}
        ranked = torch.cat([group.scores for group in free]).sort().values
        count = int(share * len(ranked))
        threshold = ranked[count - 1] if count else ranked[0] - 1
        plan = {}
        for group in free:
            wanted = int((group.scores <= threshold).sum()) if self.scope == "global" else share * len(group.scores)
            gone = len(group.scores) - _kept(len(group.scores), int(wanted))
            plan[group.root] = sorted(group.scores.argsort(stable=True)[:gone].tolist())
        return {root: indices for root, indices in plan.items() if indices}

    def _facts(self, before: Part, after: Part, machine: Machine) -> Facts:
        expected = self.predict(before.facts, machine)
        cut = 1 - (1 - before.facts.cut) * after.facts.operations / max(1, before.facts.operations)
        return replace(after.facts, cut=cut, quality_loss=expected.quality_loss)


def _kept(size: int, gone: int) -> int:
    """Return how many of `size` channels stay when about `gone` should go.

    >>> _kept(64, 30), _kept(192, 192), _kept(10, 4), _kept(58, 0)
    (32, 16, 6, 58)
    """
    step = 8 if size >= 32 else 4 if size >= 16 else 1
    least = step * max(1, round(size * (1 - DEEPEST) / step))
    return min(size, max(least, step * round((size - gone) / step))) if gone else size


def _unfit(layers: Mapping[str, int]) -> str | None:
    strange = [f"{layers[kind]} {kind}" for kind in NOT_YET if layers.get(kind)]
    if strange:
        return f"prune removes channels of convolutions and linear layers; this model has {', '.join(strange)}"
    if not layers.get("conv") and not layers.get("linear"):
        return "prune removes channels of convolutions and linear layers; this model has none"
    return None


def _why(found: Sequence[Group]) -> str:
    kept = [f"{group.root} {group.kept_because}" for group in found if group.kept_because]
    return "; ".join(kept) or "every layer is as narrow as it may be"


def _notes(before: Part, after: Part, found: Sequence[Group], cuts: Sequence[Any]) -> dict[str, Any]:
    return {
        "operations": [before.facts.operations, after.facts.operations],
        "parameters": [before.facts.parameters, after.facts.parameters],
        "removed": {name: len(indices) for name, side, indices in cuts if side == "out"},
        "left_alone": {group.root: group.kept_because for group in found if group.kept_because},
    }
