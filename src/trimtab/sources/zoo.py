"""Nets made for the task at hand: mlp, vgg, resnet, lstm, gru, transformer, efficientnet_lite0, g2p, neumf, two_tower.

`zoo:resnet`, or with sizes: `zoo:resnet(width=16, depth=2)`. Each builder is fully described by its JSON arguments;
input shapes and the number of classes come from the task. Weights are random, from `seed`: a recipe trains them. Two
nets come with weights that travel as packages, unless told otherwise: `zoo:efficientnet_lite0(pretrained=False)`.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trimtab.errors import DataError, RecipeError, UnknownName, suggest
from trimtab.fit import code
from trimtab.fit import module as artefact
from trimtab.sources import Source, _zoo_efficientnet, _zoo_g2p
from trimtab.sources._zoo_efficientnet import efficientnet_lite0
from trimtab.sources._zoo_g2p import g2p_decoder, g2p_encoder
from trimtab.sources._zoo_nets import gru, lstm, mlp, resnet, transformer, vgg
from trimtab.sources._zoo_recommend import neumf, two_tower
from trimtab.values.model import Model, Part
from trimtab.values.notation import Step
from trimtab.values.task import Batch, TaskView
from trimtab.values.trust import ZOO

NETS = (mlp, vgg, resnet, lstm, gru, transformer, efficientnet_lite0, neumf, two_tower)
"""Of one part: what `zoo:NAME` opens, beside g2p."""
BUILDERS: Mapping[str, Callable[..., nn.Module]] = {net.__name__: net for net in (*NETS, g2p_encoder, g2p_decoder)}
"""Everything that a part on disk may name as its builder."""
OPENED: Mapping[str, Callable[..., nn.Module]] = {**{net.__name__: net for net in NETS}, "g2p": g2p_encoder}
"""By the name in a reference, a callable whose arguments are those of the reference."""
PRETRAINED = ("efficientnet_lite0", "g2p")


class Zoo(Source):
    """Opens `zoo:NAME(size=...)`: a net that fits the task."""

    def open(self, ref: str, scratch: Path, task: TaskView) -> Model:
        """Return the net with random weights from `seed` (an argument of the reference, 0 unless given), or pretrained.

        Raises:
            DataError: the net does not fit the task, or pretrained weights cannot be had.
        """
        step = _parse(ref)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step.named.get("seed", 0))
            model = _g2p(step, scratch, task) if step.name == "g2p" else _net(step, scratch, task)
        return model

    def fingerprint(self, ref: str) -> str:
        """Return a hash of the reference and of the files that build nets."""
        files = sorted(Path(__file__).parent.glob("*zoo*.py"))
        said = f"{_parse(ref)} {[code.file_hash(path) for path in files]}"
        return hashlib.sha256(said.encode()).hexdigest()

    def sized_by(self, ref: str, task: TaskView) -> int | None:
        """Return how many rows a table of tokens has; None where the net has none."""
        name = _parse(ref).name
        return None if name == "g2p" else _fitted(name, task).get("vocabulary")


def _net(step: Step, scratch: Path, task: TaskView) -> Model:
    sizes = {key: value for key, value in step.named.items() if key not in ("seed", "pretrained")}
    build = _build(step.name, _fitted(step.name, task) | sizes)
    net = code.build(build)
    if _pretrained(step):
        _zoo_efficientnet.fill(net)
    part = artefact.save(net, scratch / "main", artefact.signature(net, task), build, (), artefact.example(task))
    return Model({"main": part}, frontend=task.task.frontend(), lineage=(f"zoo:{step}",))


def _g2p(step: Step, scratch: Path, task: TaskView) -> Model:
    inputs = task.split("train")[0].inputs
    if list(inputs) != ["letters", "length"]:
        raise DataError(
            f"zoo:g2p takes letters and length, as cmudict gives; {task.task.name} gives {', '.join(inputs)}"
        )
    width = step.named.get("width", _zoo_g2p.WIDTH)
    builds = {part: _build(f"g2p_{part}", {"width": width}) for part in ("encoder", "decoder")}
    nets = {part: code.build(build) for part, build in builds.items()}
    if _pretrained(step):
        if width != _zoo_g2p.WIDTH:
            raise RecipeError(f"zoo:g2p: the pretrained weights have width={_zoo_g2p.WIDTH}; write pretrained=False")
        _zoo_g2p.fill(nets)
    known = artefact.example(task)
    first = {"token": np.full(len(known), _zoo_g2p.PROGRAM.start), "state": np.zeros((len(known), width), np.float32)}
    batch = Batch({**known.inputs, **first}, None)
    parts: dict[str, Part] = {
        part: artefact.save(net, scratch / part, signature, builds[part], (), batch)
        for (part, net), signature in zip(nets.items(), _zoo_g2p.signatures(width).values(), strict=True)
    }
    decoder, said = parts["decoder"], np.asarray(known.targets) >= 0
    parts["decoder"] = replace(decoder, facts=replace(decoder.facts, calls=round(said.sum() / len(said))))
    return Model(parts, _zoo_g2p.PROGRAM, task.task.frontend(), (f"zoo:{step}",))


def _build(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"ref": f"{ZOO}:{name}", "arguments": dict(arguments), "sha256": None}


def _pretrained(step: Step) -> bool:
    return step.name in PRETRAINED and bool(step.named.get("pretrained", True))


def _parse(ref: str) -> Step:
    step = Step.parse(ref)
    if step.name not in OPENED:
        raise UnknownName("zoo net", step.name, OPENED)
    known = {*inspect.signature(OPENED[step.name]).parameters, "seed"} - {"shape", "classes"}
    known |= {"pretrained"} if step.name in PRETRAINED else set()
    if step.positional:
        raise RecipeError(f"zoo:{step.name} takes named sizes, as in {step.name}({min(known)}=...): {ref}")
    for key, value in step.named.items():
        if key not in known:
            raise RecipeError(f"zoo:{step.name} has no argument {key!r}{suggest(key, known)}")
        if key == "pretrained":
            if not isinstance(value, bool):
                raise RecipeError(f"zoo:{step.name}: pretrained is True or False, got {value!r}")
        elif not isinstance(value, int) or isinstance(value, bool) or value < (key != "seed"):
            raise RecipeError(f"zoo:{step.name}: {key} is a whole number from 1, got {value!r}")
    return step


def _fitted(name: str, view: TaskView) -> dict[str, Any]:
    """Return the builder's arguments that the task decides."""
    batch, inputs = artefact.example(view, 1), view.split("train")[0].inputs
    first = next(iter(inputs))
    wanted = "vocabulary" in inspect.signature(BUILDERS[name]).parameters
    if len(inputs) - ("length" in inputs) != 1 or ("length" in inputs and not wanted):
        raise DataError(
            f"zoo:{name} takes one input, {view.task.name} gives {', '.join(inputs)}; use torch:FILE:callable"
        )
    classes = len(view.task.labels) or int(np.asarray(batch.targets).size)
    fitted: dict[str, Any] = {"shape": [int(size) for size in inputs[first].shape], "classes": classes}
    tokens = wanted and inputs[first].dtype.kind in "iu"
    return fitted | ({"vocabulary": 1 + view.largest(first)} if tokens else {})
