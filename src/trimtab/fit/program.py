"""Runs a model's program in torch so that gradients flow, and saves what was trained part by part.

`trimtab.run.program` is the driver that counts: it decodes, and evaluation here uses it on torch modules. Training
needs its twin for the forward pass alone: a decoder learns by teacher forcing, each step given the right token before
(Williams and Zipser 1989, Neural Computation 1:270), so that all steps of a batch are one differentiable answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.errors import DataError, Refused
from trimtab.fit import module as artefact
from trimtab.run.program import drive
from trimtab.values.facts import Facts
from trimtab.values.model import Greedy, Model, Part, Scan, Signature, Single
from trimtab.values.session import Session
from trimtab.values.task import Batch, TaskView

Tensors = dict[str, Tensor]
Arrays = Mapping[str, NDArray[Any]]


class Net(nn.Module):
    """A model's modules as one torch module that takes a batch; without a model, one module that takes its inputs."""

    def __init__(self, modules: Mapping[str, nn.Module], model: Model | None = None) -> None:
        super().__init__()
        self.model, self.names = model, tuple(modules)
        self.parts = nn.ModuleList(modules.values())

    @classmethod
    def load(cls, model: Model, editable: bool = False) -> Net:
        """Rebuild every part; see `trimtab.fit.module.load`."""
        return cls({name: artefact.load(part, editable) for name, part in model.parts.items()}, model)

    @classmethod
    def of(cls, module: nn.Module) -> Net:
        """Return a net of one module, which may be a net already."""
        return module if isinstance(module, Net) else cls({"main": module})

    def forward(self, batch: Batch) -> Tensors:
        """Return the outputs by name; see `forward`."""
        if self.model is None:
            return artefact.named(self.parts[0](*inputs(batch).values()))
        return forward(dict(zip(self.names, self.parts, strict=True)), self.model, batch)

    def scores(self, batch: Batch) -> Tensor:
        """Return the output that targets are compared with: the program's logits, else `output`, else the first."""
        outputs: Tensors = self(batch)
        name = getattr(self.model.program, "logits", "output") if self.model else "output"
        return outputs[name] if name in outputs else next(iter(outputs.values()))

    @torch.no_grad()
    def answer(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Return what the whole program answers, decoding included, as `trimtab.run.program.drive` gives it."""
        if self.model is None:
            return {name: value.numpy() for name, value in self(batch).items()}
        return drive(self.model, _Session(self), batch.inputs)

    def met(self, batch: Batch) -> dict[str, Batch]:
        """Return the inputs that each part first meets when the whole program answers a batch."""
        if self.model is None:
            return {self.names[0]: batch}
        session = _Session(self.eval())
        drive(self.model, session, batch.inputs)
        return session.met

    def save(self, model: Model, view: TaskView, folder: Path, settle: Callable[[Facts], Facts]) -> dict[str, Part]:
        """Write every part as an artefact of `model`, which was trained and not restructured.

        `settle` maps a part's facts before to those after. Raises Refused as `trimtab.fit.module.save` does.
        """
        parts, session = {}, _Session(self.eval())
        drive(model, session, artefact.example(view).inputs)
        for (name, part), module in zip(model.parts.items(), self.parts, strict=True):
            build, edits = artefact.edited(part)
            saved = artefact.save(module, folder / name, part.signature, build, edits, session.met[name])
            parts[name] = replace(saved, facts=settle(part.facts))
        return parts


class _Session:
    """Runs parts in this process and remembers the first inputs that each part met."""

    def __init__(self, net: Net) -> None:
        self.net, self.met = net, dict[str, Batch]()

    @torch.no_grad()
    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        self.met.setdefault(part, Batch(inputs, None))
        net = self.net
        signature = net.model.parts[part].signature if net.model else Signature((), ())
        arguments = (torch.from_numpy(np.array(inputs[spec.name])) for spec in signature.inputs)
        result = net.parts[net.names.index(part)](*(_laid_out(argument) for argument in arguments))
        return {name: value.numpy() for name, value in by_name(result, signature).items()}


def session(model: Model) -> Session:
    """Load a model's modules in this process."""
    return _Session(Net.load(model).eval())


def unfit(model: Model) -> str | None:
    """Return why a model's program cannot be trained as one, or None."""
    if isinstance(model.program, Single | Scan | Greedy):
        return None
    return f"a {type(model.program).__name__.lower()} is trained stage by stage, before its stages are put together"


def forward(modules: Mapping[str, nn.Module], model: Model, batch: Batch) -> Tensors:
    """Run a model's program on a batch so that gradients flow; batch axis in front.

    Single gives the part's outputs. Scan stacks them along axis 1. Greedy gives the logits [B, L, K] of every step of
    `batch.targets` int64[B, L], padded with -1: the decoder is given the program's start token, then the target of the
    step before.

    Raises:
        DataError: the batch lacks an input, or the targets that a decoder needs.
        Refused: the program is none of these.
    """
    program, values = model.program, inputs(batch)
    if isinstance(program, Single):
        return _call(modules, model, program.part, values)
    if isinstance(program, Scan):
        return _scan(modules, model, program, values)
    if isinstance(program, Greedy):
        return _forced(modules, model, program, values, _tokens(program, batch))
    raise Refused(str(unfit(model)))


def inputs(batch: Batch) -> Tensors:
    """Return a batch's inputs as tensors; images lie channels last, which convolutions on CPUs prefer."""
    return {name: _laid_out(torch.from_numpy(array.copy())) for name, array in batch.inputs.items()}


def _laid_out(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _call(modules: Mapping[str, nn.Module], model: Model, part: str, values: Mapping[str, Tensor]) -> Tensors:
    """Run one part on those of the values that it takes; state that is not among them starts as zeros."""
    signature = model.parts[part].signature
    fed = set(signature.state.values())
    sizes = {
        name: size
        for spec in signature.inputs
        if spec.name in values
        for name, size in zip(spec.shape, values[spec.name].shape, strict=False)
        if isinstance(name, str)
    }
    arguments = []
    for spec in signature.inputs:
        dtype = getattr(torch, spec.dtype)
        if spec.name in values:
            arguments.append(values[spec.name].to(dtype))
        elif spec.name in fed:
            arguments.append(
                torch.zeros([sizes.get(n, 0) if isinstance(n, str) else n for n in spec.shape], dtype=dtype)
            )
        else:
            raise DataError(f"part {part!r} takes {spec.name}; it got {', '.join(sorted(values)) or 'nothing'}")
    return by_name(modules[part](*arguments), signature)


def by_name(result: Any, signature: Signature) -> Tensors:
    """Return what a module gave under the names of its signature's outputs: by name, or in their order."""
    if isinstance(result, Mapping):
        return {spec.name: result[spec.name] for spec in signature.outputs}
    listed = result if isinstance(result, tuple | list) else (result,)
    return {spec.name: value for spec, value in zip(signature.outputs, listed, strict=True)}


def _scan(modules: Mapping[str, nn.Module], model: Model, program: Scan, given: Tensors) -> Tensors:
    signature = model.parts[program.part].signature
    shapes = {spec.name: spec.shape for spec in signature.inputs}
    pieces = {name: _pieces(given[name], shapes[name]) for name in program.over}
    values, gathered = dict(given), []
    for step in range(len(pieces[program.over[0]])):
        values |= {name: steps[step] for name, steps in pieces.items()}
        outputs = _call(modules, model, program.part, values)
        values |= {signature.state[name]: outputs.pop(name) for name in signature.state}
        gathered.append(outputs)
    stacked = {name: torch.stack([outputs[name] for outputs in gathered], dim=1) for name in gathered[0]}
    return stacked | {output: values[name] for output, name in signature.state.items()}


def _pieces(sequence: Tensor, shape: tuple[int | str, ...]) -> tuple[Tensor, ...]:
    """Cut along axis 1 into single steps, or where the part keeps that axis, into pieces of its size."""
    if len(shape) == sequence.ndim - 1:
        return sequence.unbind(1)
    return torch.split(sequence, shape[1] if isinstance(shape[1], int) else 1, 1)


def _forced(modules: Mapping[str, nn.Module], model: Model, program: Greedy, given: Tensors, tokens: Tensor) -> Tensors:
    signature = model.parts[program.decoder].signature
    column = next((len(spec.shape) for spec in signature.inputs if spec.name == program.token), 1) == 2
    values, gathered = dict(given), []
    if program.encoder is not None:
        values |= _call(modules, model, program.encoder, given)
    for step in range(tokens.shape[1]):
        token = tokens[:, step]
        outputs = _call(modules, model, program.decoder, {**values, program.token: token[:, None] if column else token})
        values |= {name: outputs[output] for output, name in signature.state.items()}
        logits = outputs[program.logits]
        gathered.append(logits.reshape(len(token), -1, logits.shape[-1])[:, -1])
    return {program.logits: torch.stack(gathered, dim=1)}


def _tokens(program: Greedy, batch: Batch) -> Tensor:
    """Return what the decoder is given: start, then the targets but the last; padding becomes the stop token."""
    if batch.targets is None or np.ndim(batch.targets) != 2:
        raise DataError("a decoder learns from target tokens int64[B, L], padded with -1; the task gives none")
    targets = torch.from_numpy(np.array(batch.targets, dtype=np.int64))
    start = torch.full((len(targets), 1), program.start)
    return torch.cat([start, targets[:, :-1].masked_fill(targets[:, :-1] < 0, program.stop)], dim=1)
