"""Lets easy examples leave half-way: an exit after some blocks answers where it is sure.

The first blocks are shared, so a hard example costs little more than before (Teerapittayanon et al. 2016, arXiv
1709.01686). The exit learns to answer as the whole net does while all else stays as it is, so what goes on is answered
exactly as before. When it may answer is chosen on validation data (`trimtab.fit.thresholds`); the threshold is part of
the artefact, so the certificate covers it. Latency is the mean of those that leave and those that go on, `latency_p90`
tells of the latter. It stands among the passes of recovery: nothing is cut or retrained behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from trimtab.errors import Refused
from trimtab.fit import halves, thresholds
from trimtab.fit import module as artefact
from trimtab.fit.checkpoint import seeded
from trimtab.fit.effort import step_seconds
from trimtab.fit.loop import fit
from trimtab.fit.program import Net
from trimtab.fit.settings import Settings, Surroundings
from trimtab.maths.gap import gap
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part, Signature, TensorSpec
from trimtab.values.task import Batch

GOING_ON = 0.3
"""Share of examples expected to go on."""
CONVOLUTIONS = 4
"""Fewest layers of a convolutional net that an exit is worth trying on."""
BLOCKS, HALF = 4, 0.5
"""Fewest blocks of any other net, and the share of the operations before an exit where nothing else is said."""
LR, BATCH = 0.01, 32
"""Of the exit, a linear layer on fixed features."""
TOLERANCE = 1e-4
"""Largest difference of the two halves from the whole, as a share of the largest output (at least 1)."""


@dataclass(frozen=True)
class EarlyExit(Pass):
    """Adds an exit after block `after`, taken where its answer is sure."""

    after: int | None = None
    """Blocks before the exit, counted from 1; those that hold at most half of the operations, unless given."""
    loss: float = 0.002
    """Share of examples that may be wrong in addition, on validation data."""
    steps: int = 512
    """Optimizer steps for the exit."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "recover"
    version: ClassVar[int] = 2
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "validation", "seed"})

    def __post_init__(self) -> None:
        if not 0 <= self.loss < 1:
            raise ValueError(f"loss is a share from 0 to below 1, got {self.loss}")
        for name in ("after", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is from 1, got {value}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return an exit half-way for nets of four blocks and more, and for deep enough convolutional ones."""
        if facts.cut:
            return ()
        if facts.blocks >= BLOCKS:
            return (cls(after=facts.blocks // 2),) if not facts.layers.get("conv") else (cls(),)
        return (cls(),) if facts.layers.get("conv", 0) >= CONVOLUTIONS else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect three of ten examples to go on, and the loss that is allowed."""
        share = min(1.0, self.after / facts.blocks) if self.after and facts.blocks else 0.5
        left = share + GOING_ON * (1 - share)
        return replace(
            facts,
            operations=round(facts.operations * left),
            operations_by={kind: round(number * left) for kind, number in facts.operations_by.items()},
            quality_loss=min(1.0, facts.quality_loss + self.loss),
            reached=facts.reached * left,
            cut=0.0,
            blocks=0,
        )

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Expect a forward pass of the teacher and of half the net at each step; training the exit is nothing."""
        return self.steps * step_seconds(facts, machine, BATCH) / 3 or None

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one network that one call answers."""
        return thresholds.unfit(model, self.name())

    def apply(self, model: Model, context: Context) -> Model:
        """Cut the net, teach the exit, choose the threshold, and write both halves."""
        context.check_time()
        reason = self.refuses(model, context.machine)
        if reason:
            raise Refused(reason)
        thresholds.check_objective(context.task, self.name())
        with seeded(context.seed, context.threads):
            cut = _Cut.of(model, self.after, artefact.example(context.task))
        first, main = cut.built(model)
        whole, pupil = Net.load(model), Net.of(halves.Pupil(first))
        settings = Settings(steps=self.steps, lr=LR, batch=BATCH, alpha=0.7)
        around = Surroundings(context.seed, context.threads, context.check_time, context.keep, context.progress)
        report = fit(pupil, context.task, settings, around, whole)
        choice = thresholds.choose(thresholds.answers(context.task, pupil, whole, context.check_time), self.loss)
        parts = self._saved(model, cut, {"first": first, "main": main}, context)
        costs = [parts[name].facts.operations for name in thresholds.STAGES]
        thresholds.check_gain(choice, costs[0], model.main.facts.operations, costs[1])
        about = {"after": cut.edit["after"], "blocks": cut.blocks, "history": list(report.history)}
        notes = {**model.notes, self.name(): {**choice.notes(), **about, "notes": list(report.notes)}}
        return replace(model, parts=parts, program=choice.program("output"), notes=notes)

    @staticmethod
    def rebuild(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
        """Cut a freshly built module at the recorded place and return the recorded half."""
        return halves.rebuilt(module, edit)

    def _saved(self, model: Model, cut: _Cut, modules: Mapping[str, nn.Module], context: Context) -> dict[str, Part]:
        build, edits = artefact.edited(model.main)
        loss = min(1.0, model.main.facts.quality_loss + self.loss)
        parts = {}
        for name, module in modules.items():
            said = [*edits, {"by": self.name(), "edit": {**cut.edit, "half": name}}]
            folder, signature = context.scratch / name, cut.signatures[name]
            part = artefact.save(module, folder, signature, build, said, cut.batch)
            parts[name] = replace(part, facts=replace(part.facts, quality_loss=loss))
        return parts


@dataclass(frozen=True)
class _Cut:
    """Where a net is cut, and what its halves take and give."""

    edit: Mapping[str, Any]
    blocks: int
    signatures: Mapping[str, Signature]
    batch: Batch
    """An example of all inputs of both halves."""
    state: Mapping[str, torch.Tensor]
    """The exit's first weights."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, after: int | None, batch: Batch) -> _Cut:
        """Find the place and run both halves once; raises Refused where they do not answer as the whole."""
        part = model.main
        module, given = artefact.load(part, editable=True), artefact.arguments(batch, part.signature)
        if [spec.name for spec in part.signature.outputs] != ["output"] or len(given) > 2:
            raise Refused("early_exit takes a net of one or two inputs that gives one tensor, `output`")
        inputs, blocks = [spec.name for spec in part.signature.inputs], halves.places(module)
        after = after or halves.place(module, HALF, given)
        expected = module(*given)
        body, main, takes = halves.cut(module, after, inputs)
        pooled, hidden = body.eval()(*given)
        told = [given[inputs.index(name)] for name in takes]
        _check_same(expected, main.eval()(hidden, *told))
        edit = {"after": after, "inputs": inputs, "width": pooled.shape[1], "classes": expected.shape[1]}
        first = halves.First(body, pooled.shape[1], expected.shape[1])
        timed = any("time" in spec.shape for spec in part.signature.inputs)
        sizes = ("time" if timed and hidden.ndim == 3 else hidden.shape[1], *hidden.shape[2:])
        spec = TensorSpec("hidden", str(hidden.dtype).removeprefix("torch."), ("batch", *sizes))
        later = tuple(one for one in part.signature.inputs if one.name in takes)
        signatures = {
            "first": Signature(part.signature.inputs, (*part.signature.outputs, spec)),
            "main": Signature((spec, *later), part.signature.outputs),
        }
        both = Batch({**batch.inputs, "hidden": hidden.numpy()}, None)
        return cls(edit, blocks, signatures, both, first.exit.state_dict())

    def built(self, model: Model) -> tuple[halves.First, nn.Module]:
        """Return both halves, each of a module of its own."""
        first, main = (
            halves.rebuilt(artefact.load(model.main, editable=True), {**self.edit, "half": half}).eval()
            for half in thresholds.STAGES
        )
        if not isinstance(first, halves.First):
            raise TypeError("the first half has no exit")
        first.exit.load_state_dict(dict(self.state))
        return first, main


def _check_same(expected: torch.Tensor, given: torch.Tensor) -> None:
    difference, largest = gap(given.detach().numpy(), expected.detach().numpy())
    if not difference <= TOLERANCE * max(1.0, largest):
        raise Refused(f"the two halves do not answer as the whole net does: they differ by {difference:.3g}")
