"""Leaves out whole blocks: encoder layers, residual blocks of a convolutional net, upper levels of an LSTM or GRU.

A residual block adds to what passes through it, so the net still works without one; a shallower net is faster on every
runtime, in proportion, where a narrower one may not be. The least useful blocks change what passes through them least:
block influence, 1 - cosine similarity of what comes in and goes out (Men et al. 2024, arXiv 2403.03853, section 3.1).
An encoder can do without any: the mean of a text's embeddings is often enough to tell what it is about (Iyyer et al.
2015, Deep unordered composition, ACL, section 3). Each level of a recurrent layer waits for its own step before, which
no narrowing makes quicker; the lowest stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import nn

from trimtab.errors import Refused, one_line
from trimtab.fit import blocks
from trimtab.fit import module as artefact
from trimtab.fit.program import Arrays, Net
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Cascade, Model
from trimtab.values.task import Batch

METHODS = ("importance", "even", "top")
LOSS = 0.8
"""Share of the score lost for each share of the blocks, before any recovery."""
INSIDE = {"attention": 0.99, "recurrent": 1.0, "": 0.6}
"""Share of a net's operations that its blocks are expected to hold: of an encoder, of recurrent levels, of others."""
REPEATED = ("attention", "linear", "norm")
"""Layers of an encoder that are expected to stand in its blocks, all but a few."""


@dataclass(frozen=True)
class DropLayers(Pass):
    """Leaves out blocks until `keep` are left, or those that `drop` names."""

    keep: int | None = None
    """How many blocks stay; half of them unless given, and none where it is 0."""
    drop: tuple[int, ...] = ()
    """Blocks to leave out, counted from 0; replaces `keep` and `method`."""
    method: str = "importance"
    """Which stay: those of `importance`, evenly spaced ones (`even`), or all below those left out on `top`.

    Of recurrent levels the lowest stay in any case."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "structure"
    uses: ClassVar[frozenset[Use]] = frozenset({"seed", "train"})
    needs: ClassVar[frozenset[str]] = frozenset({"block"})

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 0:
            raise ValueError(f"keep is a number of blocks from 0, got {self.keep}")
        if self.method not in METHODS:
            raise ValueError(f"method is one of {', '.join(METHODS)}, got {self.method!r}")
        if self.keep is not None and self.drop:
            raise ValueError(f"give keep or drop, not both: keep={self.keep}, drop={self.drop}")
        if any(index < 0 for index in self.drop) or len(set(self.drop)) < len(self.drop):
            raise ValueError(f"drop names different blocks, counted from 0, got {self.drop}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return depths of two thirds, a half, a third and one block, and an encoder's embeddings alone."""
        if facts.cut or not facts.blocks:
            return ()
        depths = {max(1, facts.blocks * share // 6) for share in (4, 3, 2, 0)}
        without = [0] if facts.layers.get("attention") and facts.layers.get("embedding") else []
        return tuple(cls(keep=depth) for depth in [*sorted(depths, reverse=True), *without] if depth < facts.blocks)

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect the blocks to be alike and to hold most of the work."""
        if not facts.blocks:
            return facts
        kept = max(1, facts.blocks - len(self.drop)) if self.drop else min(self._depth(facts.blocks), facts.blocks)
        gone = 1 - kept / facts.blocks
        encoder = bool(facts.layers.get("attention"))
        recurrent = bool(facts.layers.get("lstm") or facts.layers.get("gru"))
        left = 1 - gone * INSIDE["attention" if encoder else "recurrent" if recurrent else ""]
        inside = REPEATED if encoder else ()
        words = facts.parameters_by.get("embedding", 0)
        return replace(
            facts,
            parameters=round((facts.parameters - words) * left + words),
            operations=round(facts.operations * left),
            layers={kind: math.ceil(n * (1 - gone)) if kind in inside else n for kind, n in facts.layers.items()},
            operations_by={kind: round(number * left) for kind, number in facts.operations_by.items()},
            quality_loss=min(1.0, facts.quality_loss + LOSS * gone),
            cut=1 - (1 - facts.cut) * left,
            blocks=kept,
        )

    def wants(self) -> frozenset[str]:
        """Return what the importance of blocks is read off."""
        return self.needs if self.method == "importance" and not self.drop and self.keep != 0 else frozenset()

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take nets of two blocks or more that could be left out."""
        if isinstance(model.program, Cascade):
            return "drop_layers takes the stages of a cascade one by one, before they are put together"
        count = max(part.facts.blocks for part in model.parts.values())
        if not count:
            return "drop_layers leaves out blocks that give the shape they take; this model has no two of a kind"
        if self.drop and (max(self.drop) >= count or len(self.drop) >= count):
            return f"this model has the blocks 0 to {count - 1}, of which one must stay; drop names {self.drop}"
        if not self.drop and self._depth(count) >= count:
            return f"this model has {count} blocks already; keep is fewer"
        return None

    def apply(self, model: Model, context: Context) -> Model:
        """Leave out the blocks; the edit and the weights become the new artefact."""
        context.check_time()
        reason = self.refuses(model, context.machine)
        if reason:
            raise Refused(reason)
        net = Net.load(model, editable=True).eval()
        batch = artefact.example(context.task)
        name = max(model.parts, key=lambda part: model.parts[part].facts.blocks)
        part, met = model.parts[name], net.met(batch)
        module = net.parts[net.names.index(name)]
        names = blocks.find(module, artefact.arguments(met[name], part.signature))
        gone = self._gone(names, {one: context.statistics.get("block", {}).get(f"{name}/{one}") for one in names})
        before = net.answer(batch)
        edit = {"drop": gone, "mean": False}
        module = self.rebuild(module, edit)
        after, bare = _answer(net, batch, gone), len(gone) == len(names)
        if bare and _alike(after, before):
            edit["mean"] = True
            module = blocks.put_mean(module, gone)
            after = _answer(net, batch, gone)
        _check(before, after, gone)
        if bare and _alike(after, before):
            raise Refused(f"without {', '.join(gone)} this model answers every example alike")
        build, edits = artefact.edited(part)
        edits = [*edits, {"by": self.name(), "edit": edit}]
        saved = artefact.save(module, context.scratch / name, part.signature, build, edits, met[name])
        cut = 1 - (1 - part.facts.cut) * saved.facts.operations / max(1, part.facts.operations)
        loss = self.predict(part.facts, context.machine).quality_loss
        saved = replace(saved, facts=replace(saved.facts, cut=cut, quality_loss=loss))
        notes = {"dropped": gone, "kept": [one for one in names if one not in gone]}
        return model.map_parts({name: saved}, notes={**model.notes, "drop_layers": notes})

    @staticmethod
    def rebuild(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
        """Leave the recorded blocks out of a freshly built module."""
        names = [str(name) for name in edit["drop"]]
        module = blocks.leave_out(module, names)
        return blocks.put_mean(module, names) if edit.get("mean") else module

    def _depth(self, count: int) -> int:
        return max(1, count // 2) if self.keep is None else self.keep

    def _gone(self, names: Sequence[str], influence: Mapping[str, Any]) -> list[str]:
        """Return the names of the blocks to leave out, in the module's order."""
        keep = self._depth(len(names))
        if blocks.are_levels(names) and (not keep or 0 in self.drop):
            raise Refused("the first level of a recurrent layer reads the inputs and stays: keep 1, or drop others")
        if not keep:
            return list(names)
        if self.drop:
            return [name for index, name in enumerate(names) if index in self.drop]
        if self.method == "top" or blocks.are_levels(names):
            return list(names[keep:])
        if self.method == "even":
            step = (len(names) - 1) / max(1, keep - 1)
            kept = {round(index * step) for index in range(keep)}
            return [name for index, name in enumerate(names) if index not in kept]
        if any(value is None for value in influence.values()):
            raise Refused("the influence of blocks is read off calibration data; there are no statistics of this model")
        ranked = sorted(names, key=lambda name: float(influence[name][0]))
        least = {*ranked[: len(names) - keep]}
        return [name for name in names if name in least]


def _answer(net: Net, batch: Batch, gone: Sequence[str]) -> Arrays:
    """Return what the net answers now; raises Refused where it no longer does."""
    try:
        return net.answer(batch)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise Refused(f"without {', '.join(gone)} this model fails: {one_line(error)}") from error


def _check(before: Arrays, after: Arrays, gone: Sequence[str]) -> None:
    """Raise Refused where the net no longer answers in the same shape."""
    for name, array in before.items():
        if after[name].shape[:1] + after[name].shape[2:] != array.shape[:1] + array.shape[2:]:
            raise Refused(f"without {', '.join(gone)} this model gives {name} in the shape {after[name].shape}")


def _alike(after: Arrays, before: Arrays) -> bool:
    """Tell whether every example of a batch gets the same answer, which was not so before."""
    same = [all(np.allclose(array, array[:1]) for array in answers.values()) for answers in (after, before)]
    return same == [True, False]
