"""Keeps the first blocks of a convolutional net alone: a new head answers from what they see.

What a pretrained net learnt last is often of no use to a smaller task: a linear layer on features half-way answers
nearly as well as the whole (Alain and Bengio 2016, arXiv 1610.01644; Yosinski et al. 2014, arXiv 1411.1792, section 4).
The head is fitted to the net's own answers by least squares, so that little is lost before any recovery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trimtab.errors import Refused
from trimtab.fit import halves
from trimtab.fit import module as artefact
from trimtab.fit.checkpoint import seeded
from trimtab.fit.effort import step_seconds
from trimtab.fit.program import inputs
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Single

CONVOLUTIONS = 20
"""Fewest layers of a net that has blocks to spare; small ones that were trained for their task need all of theirs."""
LOSS = 0.35
"""Share of the score lost at no blocks at all, before any recovery; it falls with the square of what is gone."""
RIDGE = 1e-3
"""Weight of the head's squares in the least squares, as a share of those of a feature."""
BATCH = 64


@dataclass(frozen=True)
class Shorten(Pass):
    """Keeps as many of the first blocks as hold at most a `share` of the operations."""

    share: float = 0.5
    """Of the operations, above 0 and below 1."""
    samples: int = 1000
    """Training examples that the new head is fitted on."""

    formats: ClassVar[Mapping[str, str]] = {"torch": "torch"}
    stage: ClassVar[Stage] = "structure"
    version: ClassVar[int] = 2
    uses: ClassVar[frozenset[Use]] = frozenset({"train"})

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share is above 0 and below 1, got {self.share}")
        if self.samples < 1:
            raise ValueError(f"samples is at least 1, got {self.samples}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return two depths for nets of many convolutions that were not cut before."""
        deep = facts.layers.get("conv", 0) >= CONVOLUTIONS and facts.calls == 1
        return (cls(share=0.6), cls(share=0.4)) if deep and not facts.cut else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect the blocks to be alike in their work, and most parameters to be in the last."""
        left, gone = self.share, 1 - self.share
        return replace(
            facts,
            parameters=round(facts.parameters * left**2),
            operations=round(facts.operations * left),
            layers={kind: max(1, round(count * left)) for kind, count in facts.layers.items()},
            operations_by={kind: round(number * left) for kind, number in facts.operations_by.items()},
            parameters_by={kind: round(number * left**2) for kind, number in facts.parameters_by.items()},
            quality_loss=min(1.0, facts.quality_loss + LOSS * gone**2),
            cut=1 - (1 - facts.cut) * left,
            blocks=0,
        )

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Expect a forward pass of the whole net for each example."""
        return step_seconds(facts, machine, self.samples) / 3 or None

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one network of convolutions that one call answers with one tensor."""
        if not isinstance(model.program, Single) or len(model.parts) > 1:
            return "shorten takes one network, before several are put together"
        if [spec.name for spec in model.main.signature.outputs] != ["output"]:
            return "shorten takes a net that gives one tensor, `output`"
        return None if model.main.facts.layers.get("conv") else "shorten takes nets of convolutions"

    def apply(self, model: Model, context: Context) -> Model:
        """Cut the net, fit the head, and write what is left; notes say after which block it was cut.

        Raises:
            Refused: the net's blocks do not follow each other, or its answers are no row of numbers for each example.
        """
        context.check_time()
        reason = self.refuses(model, context.machine)
        if reason:
            raise Refused(reason)
        part, batch = model.main, artefact.example(context.task)
        module, given = artefact.load(part, editable=True), artefact.arguments(batch, part.signature)
        after = halves.place(module, self.share, given)
        with seeded(context.seed, context.threads):
            features, answers = self._seen(module, after, context)
        if answers.ndim != features.ndim:
            shape = list(answers.shape[1:])
            raise Refused(f"shorten takes a net that gives a row for each example, not the shape {shape}")
        edit = {"after": after, "width": features.shape[1], "classes": answers.shape[1]}
        short = self.rebuild(module, edit)
        short.get_submodule("first.exit").load_state_dict(_head(features, answers).state_dict())
        build, edits = artefact.edited(part)
        edits = [*edits, {"by": self.name(), "edit": edit}]
        name = next(iter(model.parts))
        saved = artefact.save(short, context.scratch / name, part.signature, build, edits, batch)
        cut = 1 - (1 - part.facts.cut) * saved.facts.operations / max(1, part.facts.operations)
        loss = self.predict(part.facts, context.machine).quality_loss
        saved = replace(saved, facts=replace(saved.facts, cut=cut, quality_loss=loss))
        return model.map_parts({name: saved}, notes={**model.notes, "shorten": {"after": after}})

    @staticmethod
    def rebuild(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
        """Keep the recorded blocks of a freshly built module, and put the head behind them."""
        body = halves.cut(module, int(edit["after"]), ()).body
        return halves.Short(halves.First(body, int(edit["width"]), int(edit["classes"])))

    @torch.no_grad()
    def _seen(self, module: nn.Module, after: int, context: Context) -> tuple[Tensor, Tensor]:
        """Return what comes out of the block, pooled [n, W], and the net's answers [n, K], of training examples."""
        body, main, takes = halves.cut(module, after, ())
        if takes:
            raise Refused(
                f"shorten takes a net whose later blocks read nothing but the earlier, not {', '.join(takes)}"
            )
        features, answers = [], []
        for batch in context.task.batches("train", BATCH, self.samples):
            context.check_time()
            pooled, hidden = body(*inputs(batch).values())
            features.append(pooled)
            answers.append(main(hidden))
        return torch.cat(features), torch.cat(answers)


def _head(features: Tensor, answers: Tensor) -> nn.Sequential:
    """Return a normalization and a linear layer that answer as is meant, by least squares."""
    norm, linear = nn.LayerNorm(features.shape[1]), nn.Linear(features.shape[1], answers.shape[1])
    with torch.no_grad():
        x = norm(features).double()
        x, y = torch.cat([x, torch.ones(len(x), 1)], 1), answers.double()
        squares = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        found = torch.linalg.solve(squares, x.T @ y).float()
        linear.weight.copy_(found[:-1].T)
        linear.bias.copy_(found[-1])
    return nn.Sequential(norm, linear)
