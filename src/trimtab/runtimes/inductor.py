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
from collections.abc import Callable, Mapping, Sequence
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
SPEED = Speed(efficiency=0.4, call_us=60.0, layer_us=9.0)
"""By eye, beside `torch` on the same nets: 1.3 times its time for a small MLP, 0.6 to 0.8 for a CNN, an encoder."""


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
    def __call__(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        answer = module.named(self.module(*tensors))
        return {spec.name: answer[spec.name] for spec in self.signature.outputs}


def _compiled(part: Part) -> _Part:
    """Return a part compiled for one example and for batches: it is called once with each, on ones."""
    torch._dynamo.reset()  # it counts recompilations by code, and parts share code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _Part(torch.compile(module.load(part)), part.signature)
        for rows in BATCHES:
            found([_ones(spec, rows) for spec in part.signature.inputs])
    return found


def _ones(spec: TensorSpec, rows: int) -> Tensor:
    """Return an input of ones whose named sizes are free; a batch of one stays fixed."""
    shape = (rows, *(LENGTH if isinstance(size, str) else size for size in spec.shape[1:]))
    tensor = torch.from_numpy(np.ones(shape, spec.dtype))
    for axis, size in enumerate(spec.shape):
        if isinstance(size, str) and shape[axis] > 1:
            torch._dynamo.maybe_mark_dynamic(tensor, axis)
    return tensor


class _Compiled:
    def __init__(self, parts: Mapping[str, _Part]) -> None:
        self.parts = parts

    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        compiled = self.parts[part]
        tensors = [torch.from_numpy(writable(inputs[spec.name])) for spec in compiled.signature.inputs]
        return {name: tensor.numpy() for name, tensor in compiled(tensors).items()}


def writable(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array, or a copy where torch would warn (read-only memory) or refuse (negative strides)."""
    return array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")
