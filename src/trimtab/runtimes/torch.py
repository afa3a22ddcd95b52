"""PyTorch eager: serves `torch` parts as they are, the usual starting point and the base of comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from trimtab.fit import module
from trimtab.run.speed import Speed
from trimtab.runtimes import Runtime
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Signature
from trimtab.values.session import Arrays, Session

SPEED = Speed(efficiency=0.35, call_us=10.0, layer_us=18.0)


@dataclass(frozen=True)
class Torch(Runtime):
    """Calls the module in inference mode: `torch(threads=1)`."""

    formats: ClassVar[frozenset[str]] = frozenset({"torch"})
    native: ClassVar[frozenset[str]] = frozenset({"torch"})
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    def predict(self, facts: Facts, machine: Machine) -> dict[str, float]:
        """Return the expected `latency_ms` at batch 1; the constants are explained in `trimtab.run.speed`."""
        return {"latency_ms": SPEED.latency_ms(facts, machine, self.threads)}

    def load(self, model: Model, machine: Machine) -> Session:
        """Load every part's module."""
        torch.set_num_threads(self.threads)
        modules = {name: module.load(part) for name, part in model.parts.items()}
        return _Modules(modules, {name: part.signature for name, part in model.parts.items()})


class _Modules:
    def __init__(self, modules: Mapping[str, torch.nn.Module], signatures: Mapping[str, Signature]) -> None:
        self.modules, self.signatures = modules, signatures

    @torch.inference_mode()
    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        signature = self.signatures[part]
        tensors = (torch.from_numpy(_writable(inputs[spec.name])) for spec in signature.inputs)
        answer = self.modules[part](*tensors)
        if isinstance(answer, Mapping):
            return {spec.name: answer[spec.name].numpy() for spec in signature.outputs}
        listed = answer if isinstance(answer, tuple | list) else (answer,)
        return {spec.name: value.numpy() for spec, value in zip(signature.outputs, listed, strict=True)}


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """torch warns of arrays that cannot be written, and takes no negative strides."""
    return array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")
