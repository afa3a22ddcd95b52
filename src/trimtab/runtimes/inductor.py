"""torch.compile with inductor: serves `torch` parts as kernels fused and compiled with g++ in the worker.

Compiling is part of loading: 10 s for a small net the first time, 2 s from inductor's cache. There are two sets of
kernels: for one example, which torch treats apart, and for batches; both serve sequences of any length. A batch for
which torch has another convolution (on processors, below 16) is compiled for when it comes.
Parts of a module that cannot be compiled, such as loops over data, run as in `torch`.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch._dynamo
import torch._inductor.config
from numpy.typing import NDArray
from torch import Tensor

from trimtab.errors import Refused
from trimtab.fit import module
from trimtab.run.address import PREFIX
from trimtab.run.speed import Speed
from trimtab.runtimes import Runtime
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part, Signature, TensorSpec
from trimtab.values.session import Arrays, Session
from trimtab.values.store import default_root

BATCHES = (1, 32)
LENGTH = 9
"""Steps of the sequences that it is compiled with."""
SPEED = Speed(efficiency=0.4, call_us=25.0, layer_us=4.0)


@dataclass(frozen=True)
class Inductor(Runtime):
    """Compiles the module and calls it in inference mode: `inductor(threads=1)`."""

    formats: ClassVar[frozenset[str]] = frozenset({"torch"})
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    loading_s: ClassVar[float] = 25.0

    def predict(self, facts: Facts, machine: Machine) -> dict[str, float]:
        """Return the expected `latency_ms` at batch 1; the constants are explained in `trimtab.run.speed`."""
        return {"latency_ms": SPEED.latency_ms(facts, machine, self.threads)}

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Refuse where there is no C++ compiler; on another machine that shows when it loads there."""
        found = machine.name.startswith(PREFIX) or compiler()
        return None if found else "it compiles C++ and finds no g++; install it (apt-get install g++), or set CXX"

    def load(self, model: Model, machine: Machine) -> Session:
        """Compile every part's module; raises Refused where that cannot be done."""
        if compiler() is None:
            raise Refused("inductor compiles C++ and finds no g++; install it (apt-get install g++), or set CXX")
        torch.set_num_threads(self.threads)
        torch._inductor.config.compile_threads = 1  # no pool of helper processes beside what is measured
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(default_root().absolute() / "inductor"))
        return _Compiled({name: _compiled(part) for name, part in model.parts.items()})


def compiler() -> str | None:
    """Return the C++ compiler that inductor will call: $CXX, or g++."""
    return shutil.which(os.environ.get("CXX") or "g++")


@dataclass(frozen=True)
class _Part:
    module: Callable[..., Any]
    signature: Signature

    @torch.inference_mode()
    def __call__(self, inputs: Arrays) -> dict[str, Tensor]:
        specs = self.signature.inputs
        answer = module.named(self.module(*(_tensor(inputs[spec.name], spec) for spec in specs)))
        return dict(zip((spec.name for spec in self.signature.outputs), answer.values(), strict=False)) | answer


def _compiled(part: Part) -> _Part:
    """Return a part compiled for one example and for batches: it is called once with each, on ones."""
    torch._dynamo.reset()  # counts its recompilations by code, and parts share code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _Part(torch.compile(module.load(part)), part.signature)
        for rows in BATCHES:
            found({s.name: np.ones(_shape(s, rows), s.dtype) for s in part.signature.inputs})
    return found


def _shape(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    return (rows, *(LENGTH if isinstance(size, str) else size for size in spec.shape[1:]))


def _tensor(array: NDArray[Any], spec: TensorSpec) -> Tensor:
    """Return the array as a tensor whose named sizes are free; a batch of one stays fixed."""
    tensor = torch.from_numpy(np.array(array, order="C"))
    for axis, size in enumerate(spec.shape):
        if isinstance(size, str) and tensor.shape[axis] > 1:
            torch._dynamo.maybe_mark_dynamic(tensor, axis)
    return tensor


class _Compiled:
    def __init__(self, parts: Mapping[str, _Part]) -> None:
        self.parts = parts

    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        found = self.parts[part](inputs)
        return {spec.name: found[spec.name].numpy() for spec in self.parts[part].signature.outputs}
