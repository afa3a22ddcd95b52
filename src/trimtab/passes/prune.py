"""Removes whole units of structure, so that any runtime gets a smaller dense net: no sparse kernel is needed.

`of` says which: channels of convolutional and plain nets, attention heads, feed-forward neurons, hidden units of LSTM
and GRU layers, features of an embedding, the width of a whole encoder, or the rows of a vocabulary that the training
data never uses.

`ratio` is the share of the cost to remove. By "operations" units are ranked by importance and multiply-accumulates
count; by "time" units of all layers are ranked by importance per millisecond that they save, measured on this machine,
and predicted milliseconds count. Ranking is over the whole net ("global") or takes the same share of each layer
("layer"); the cut is deepened by bisection until the cost fits. Sizes stay multiples of 8 where a layer has 32 units or
more, because vector kernels work in eights; no layer loses more than nine tenths. The cut is data, and proved: the
smaller net answers as the whole one with the removed units silenced (`trimtab.fit.proof`).
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
from trimtab.fit.checkpoint import seeded
from trimtab.fit.cost import Costs, costs
from trimtab.fit.facts import operations
from trimtab.fit.program import Net
from trimtab.fit.proof import apart, difference
from trimtab.fit.structure import KINDS, Structure, survey
from trimtab.fit.units import Cut, Group, Plan, cuts_of, narrowed, read_cuts, repeat
from trimtab.fit.vocabulary import unseen
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Cascade, Model, Part

OF = ("", *KINDS, "vocabulary")
SCOPES, IMPORTANCES, BYS = ("global", "layer"), ("magnitude", "batch_norm", "taylor"), ("operations", "time")
UNASKED = ("channels", "heads", "feed_forward", "hidden", "embedding")
"""What goes unless `of` says otherwise: width and vocabulary change every layer or none, so they are asked for."""
DEEPEST = 0.9
"""Largest share of a layer's units that may go."""
ROUNDS = 7
"""Bisection steps: the share of units is found to within 1/128."""
LOSS = 1.2
"""Share of the score lost for each share of operations, before any recovery: seen on small residual nets."""
ROWS = 0.5
"""Share of a vocabulary expected to be unseen, before the data was looked at."""
UNSEEN_LOSS = 0.006
"""Share of the score expected to hang on words that training never saw: seen on 3,085 sentences by MiniLM."""
PRUNABLE = ("conv", "linear", "lstm", "gru")


@dataclass(frozen=True)
class Prune(Pass):
    """Removes the least important units until a share `ratio` of the cost is gone."""

    ratio: float = 0.5
    """Share of the cost to remove, above 0 and below 1; a vocabulary loses what is unseen, whatever the ratio."""
    scope: str = "global"
    """`global` ranks all units together, `layer` takes the same share of each layer."""
    importance: str = "magnitude"
    """`magnitude`: L2 norm of the weights of a unit; `batch_norm`: its scales; `taylor`: the loss its removal costs."""
    of: str = ""
    """`channels`, `heads`, `feed_forward`, `hidden`, `embedding`, `width` or `vocabulary`; empty: the first five."""
    by: str = "operations"
    """What the ratio counts: `operations`, or measured `time`, where importance per millisecond ranks the units."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "structure"
    version: ClassVar[int] = 2
    uses: ClassVar[frozenset[Use]] = frozenset({"seed", "train", "machine"})
    needs: ClassVar[frozenset[str]] = frozenset({"taylor", "time"})

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio is above 0 and below 1, got {self.ratio}")
        known = {"scope": SCOPES, "importance": IMPORTANCES, "of": OF, "by": BYS}
        for name, values in known.items():
            if getattr(self, name) not in values:
                shown = ", ".join(value for value in values if value)
                raise ValueError(f"{name} is one of {shown}, got {getattr(self, name)!r}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return a few depths for the kind of net, and the vocabulary's where most parameters are embeddings.

        The deepest cuts take the same share of each layer: ranked together, whole layers would nearly go. Where words
        are all that was left, a recovery without the unseen ones takes fewer seconds.
        """
        words = (cls(of="vocabulary"),) if 2 * facts.parameters_by.get("embedding", 0) > facts.parameters else ()
        if not any(facts.layers.get(kind) for kind in PRUNABLE):
            return words
        if facts.cut:
            return ()
        if facts.layers.get("lstm") or facts.layers.get("gru"):
            return (*words, *(cls(ratio=ratio, importance="taylor") for ratio in (0.3, 0.5, 0.75, 0.9)))
        if facts.layers.get("attention"):
            return (*words, *(cls(ratio=ratio, importance="taylor", by="time") for ratio in (0.25, 0.5, 0.7)))
        ranked = [cls(ratio=ratio) for ratio in (0.5, 0.7, 0.8, 0.9)]
        timed = [cls(ratio=ratio, by="time") for ratio in (0.7, 0.9)]
        even = [cls(ratio=ratio, scope="layer") for ratio in (0.9, 0.95, 0.975)]
        return tuple(sorted([*ranked, *timed, *even], key=lambda one: one.ratio))

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect weights to go with the operations, and the score to fall fast until the net is retrained."""
        words = facts.parameters_by.get("embedding", 0)
        if self.of == "vocabulary":
            gone = round(ROWS * words)
            lost = min(1.0, facts.quality_loss + UNSEEN_LOSS)
            by = {**facts.parameters_by, "embedding": words - gone}
            return replace(facts, parameters=facts.parameters - gone, parameters_by=by, quality_loss=lost)
        left = 1 - self.ratio
        return replace(
            facts,
            parameters=round((facts.parameters - words) * left + words),
            operations=round(facts.operations * left),
            operations_by={kind: round(number * left) for kind, number in facts.operations_by.items()},
            quality_loss=min(1.0, facts.quality_loss + LOSS * self.ratio),
            cut=1 - (1 - facts.cut) * left,
        )

    def wants(self) -> frozenset[str]:
        """Return what this importance and this cost are read off."""
        return frozenset({"taylor"} if self.importance == "taylor" else ()) | ({"time"} if self.by == "time" else set())

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take nets that have layers of which units can be removed."""
        if isinstance(model.program, Cascade):
            return "prune takes the stages of a cascade one by one, before they are put together"
        kinds = {kind for part in model.parts.values() for kind, count in part.facts.layers.items() if count}
        if not kinds & {*PRUNABLE}:
            return f"prune removes units of {', '.join(PRUNABLE)} layers; this model has none"
        if self.of == "vocabulary" and "embedding" not in kinds:
            return "prune(of='vocabulary') removes rows of an embedding; this model has none"
        return None

    def apply(self, model: Model, context: Context) -> Model:
        """Remove the units; the edits and the weights become the new artefact."""
        context.check_time()
        with seeded(context.seed, context.threads):
            return self._applied(model, context)

    def _applied(self, model: Model, context: Context) -> Model:
        net = Net.load(model, editable=True).eval()
        if self.of == "vocabulary":
            cuts, left_alone = unseen(net, context.task, context.check_time)
            if not cuts:
                raise Refused(f"no row of a vocabulary can be removed: {_listed(left_alone)}")
            modules = dict(zip(net.names, net.parts, strict=True))
            wrong = apart((model, model), modules, cuts, artefact.example(context.task))
            if wrong:
                raise Refused(f"of its vocabulary this model {wrong}")
            return self._saved(model, net, context, (cuts, (), left_alone))
        batch = artefact.example(context.task)
        scoring = (self.importance, context.statistics.get("taylor", {}))
        if self.importance == "taylor" and not scoring[1]:
            raise Refused("importance='taylor' is read off calibration data, and there are no statistics of this model")
        found = survey(net, batch, (self.of,) if self.of else UNASKED, scoring)
        plan = self._search(found, context)
        cuts = {part: [*found.swaps.get(part, ()), *those] for part, those in cuts_of(plan).items()}
        wrong = difference(model, found.modules, plan, batch)
        if wrong:
            raise Refused(f"at ratio {self.ratio} this model {wrong}")
        left_alone = {group.name: group.kept_because for group in found.groups if group.kept_because}
        return self._saved(
            model, Net.load(model, editable=True), context, (cuts, plan, {**found.left_alone, **left_alone})
        )

    @staticmethod
    def rebuild(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
        """Repeat the recorded cut on a freshly built module."""
        return repeat(module, read_cuts(edit.get("cuts")))

    def _saved(
        self, model: Model, net: Net, context: Context, done: tuple[Mapping[str, list[Cut]], Plan, Mapping[str, str]]
    ) -> Model:
        """Write every part that was cut; `done`: the cuts, the plan behind them, and layers left alone with reasons."""
        cuts, plan, left_alone = done
        modules = {n: repeat(m, cuts.get(n, ())) for n, m in zip(net.names, net.parts, strict=True)}
        smaller = narrowed(model, plan)
        met = Net(modules, smaller).met(artefact.example(context.task))
        parts = {}
        for name, those in cuts.items():
            before = model.parts[name]
            build, edits = artefact.edited(before)
            edits = [*edits, {"by": self.name(), "edit": {"cuts": those}}]
            signature = smaller.parts[name].signature
            part = artefact.save(modules[name], context.scratch / name, signature, build, edits, met[name])
            parts[name] = replace(part, facts=self._facts(before, part, context.machine))
        result = model.map_parts(parts)
        notes = _notes(model, result, cuts, plan) | {"left_alone": dict(left_alone), "by": self.by}
        return replace(result, notes={**model.notes, "prune": notes})

    def _search(self, found: Structure, context: Context) -> Plan:
        """Return the plan whose removed share of the cost is nearest to `ratio`."""
        if not found.groups:
            why = f": {_listed(found.left_alone)}" if found.left_alone else ""
            raise Refused(f"this model has no {self.of or 'units'} that prune can find{why}")
        free = [group for group in found.groups if not group.kept_because]
        given = {part: found.arguments(part) for part in found.modules}
        times = context.statistics.get("time", {}) if self.by == "time" else {}
        table = costs(found.modules, given, free, times, found.calls)
        whole, low, high = self._cost(found, ()), 0.0, 1.0
        best: tuple[float, Plan] = (self.ratio, ())
        for turn in range(ROUNDS):
            context.check_time()
            share = (low + high) / 2
            plan = self._plan(free, share, table)
            removed = table.removed(plan) if self.by == "time" else 1 - self._cost(found, plan) / whole
            best = min(best, (abs(removed - self.ratio), plan), key=lambda pair: pair[0])
            low, high = (share, high) if removed < self.ratio else (low, share)
            context.progress(f"removes {removed:.0%} of the {self.by}", (turn + 1) / ROUNDS)
        if not best[1]:
            kept = {group.name: group.kept_because for group in found.groups if group.kept_because}
            raise Refused(f"nothing can be removed at ratio {self.ratio}: {_listed({**found.left_alone, **kept})}")
        return best[1]

    @staticmethod
    def _cost(found: Structure, plan: Plan) -> int:
        """Return the operations of one call of every part once the planned units are gone."""
        total, cuts, smaller = 0, cuts_of(plan), narrowed(found.model, plan)
        modules = {part: repeat(copy.deepcopy(m), cuts.get(part, ())) for part, m in found.modules.items()}
        met = Net(modules, smaller).met(found.batch)
        for part, module in modules.items():
            total += operations(module, artefact.arguments(met[part], smaller.parts[part].signature))
        return total

    def _plan(self, free: Sequence[Group], share: float, table: Costs) -> Plan:
        """Return which units of which groups go when about `share` of all go; by operations, of all of a kind."""
        timed = self.by == "time"
        ranks = {group.name: group.scores / table.of_unit(group) if timed else group.scores for group in free}
        plan = []
        for group in free:
            rivals = [other for other in free if timed or other.kind == group.kind]
            wanted = share * len(group.scores)
            if self.scope == "global":
                threshold = _threshold(torch.cat([ranks[other.name] for other in rivals]), share)
                wanted = int((ranks[group.name] <= threshold).sum())
            gone = len(group.scores) - _kept(len(group.scores), int(wanted))
            units = sorted(group.scores.argsort(stable=True)[:gone].tolist())
            plan += [(group, units)] if units else []
        return plan

    def _facts(self, before: Part, after: Part, machine: Machine) -> Facts:
        loss = self.predict(before.facts, machine).quality_loss
        if self.of == "vocabulary":
            return replace(after.facts, cut=before.facts.cut, quality_loss=loss)
        cut = 1 - (1 - before.facts.cut) * after.facts.operations / max(1, before.facts.operations)
        return replace(after.facts, cut=cut, quality_loss=loss)


def _threshold(ranks: Tensor, share: float) -> float:
    ranked = ranks.sort().values
    count = int(share * len(ranked))
    return float(ranked[count - 1] if count else ranked[0] - 1)


def _kept(size: int, gone: int) -> int:
    """Return how many of `size` units stay when about `gone` should go.

    >>> _kept(64, 30), _kept(192, 192), _kept(10, 4), _kept(58, 0)
    (32, 16, 6, 58)
    """
    step = 8 if size >= 32 else 4 if size >= 16 else 1
    least = step * max(1, round(size * (1 - DEEPEST) / step))
    return min(size, max(least, step * round((size - gone) / step))) if gone else size


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {reason}" for name, reason in reasons.items()) or "no layer can be narrower"


def _notes(before: Model, after: Model, cuts: Mapping[str, list[Cut]], plan: Plan) -> dict[str, Any]:
    removed = {group.name: len(units) for group, units in plan}
    rows = {name: len(gone) for those in cuts.values() for name, side, gone in those if side == "rows"}
    return {
        "operations": [before.facts.operations, after.facts.operations],
        "parameters": [before.facts.parameters, after.facts.parameters],
        "removed": removed | rows,
        "kinds": sorted({group.kind for group, _ in plan}),
    }
