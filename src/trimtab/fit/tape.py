"""A step of torch as its operators: what each one is, how often it runs, what it allocates, how long it takes alone.

Operators are told apart by name, shapes, number formats and memory layout, so that one that was timed in one net is
known in every other. What a step takes beyond its operators is told by three counts: operators, calls of modules, and
bytes allocated, whose pages the system hands out anew.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

FEWEST, MOST = 5, 1000
"""Runs that are timed."""
ALONE_SECONDS = 0.01
"""For one operator."""
TENTH = 10
"""What else a machine does makes times longer, never shorter: the time told is the lowest tenth's end."""
Call = Callable[[], Any]


@dataclass
class Tape:
    """What one step did."""

    counts: Counter[str] = field(default_factory=Counter)
    """Operator -> how often it ran."""
    work: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Operator -> (additions and multiplications, bytes read and written) of one call."""
    modules: int = 0
    """Calls of modules."""
    allocated: float = 0.0
    """Bytes of all tensors made, each once."""
    peak: float = 0.0
    """Bytes of tensors made in the step that lived at once, at most."""


def recorded(step: Call, module: nn.Module, times: dict[str, float] | None = None) -> Tape:
    """Run a step and return what it did; operators that are not in `times` are timed into it."""
    tape = Tape()
    with _counted(module, tape), _Recorder(tape, times):
        step()
    return tape


def steady_s(step: Call, seconds: float = 1.0) -> float:
    """Return the lowest tenth's end of a step's wall time, in seconds, after two runs that are not counted."""
    step()
    step()
    return _low(step, seconds)


def _low(call: Call, seconds: float, prepare: Call = lambda: None) -> float:
    taken: list[float] = []
    ends = time.perf_counter() + seconds
    while len(taken) < FEWEST or (time.perf_counter() < ends and len(taken) < MOST):
        prepare()
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return sorted(taken)[len(taken) // TENTH]


@contextmanager
def _counted(module: nn.Module, tape: Tape) -> Iterator[None]:
    def count(*_: Any) -> None:
        tape.modules += 1

    hooks = [each.register_forward_hook(count) for each in module.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Recorder(TorchDispatchMode):
    """Sees every operator of a step, of its backward pass too."""

    def __init__(self, tape: Tape, times: dict[str, float] | None) -> None:
        super().__init__()
        self.tape, self.times = tape, times
        self.living: dict[int, tuple[Any, int]] = {}
        self.held = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        name = named(operator, args, given)
        if self.times is not None and name not in self.times:
            self.times[name] = _alone_s(operator, args, given)
        result = operator(*args, **given)
        self.tape.counts[name] += 1
        if name not in self.tape.work:
            self.tape.work[name] = _work(operator, args, given, result)
        seen = {tensor.untyped_storage()._cdata for tensor in _tensors((args, given))}
        for tensor in _tensors(result):
            if tensor.untyped_storage()._cdata not in seen:
                self._hold(tensor)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.living:
            return

        def gone(_: Any) -> None:
            self.held -= self.living.pop(key)[1]

        self.living[key] = (weakref.ref(storage, gone), size)
        self.held += size
        self.tape.allocated += size
        self.tape.peak = max(self.tape.peak, self.held)


def named(operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return an operator's name with all that its time depends on; values of numbers are left out.

    >>> named(torch.ops.aten.mul.Tensor, (torch.ones(2, 3), 0.5), {})
    'aten.mul.Tensor(float32[2, 3], float)'
    """
    words = [*map(_word, args), *(f"{key}={_word(value)}" for key, value in kwargs.items())]
    return f"{operator}({', '.join(words)})"


def _word(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}{_layout(value)}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_word, value))}]"
    return "float" if isinstance(value, float) else str(value)


def _layout(value: Tensor) -> str:
    if value.is_contiguous():
        return ""
    last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
    return "last" if last else f"@{list(value.stride())}"


def _tensors(value: Any) -> list[Tensor]:
    return [each for each in trees.tree_leaves(value) if isinstance(each, Tensor)]


def _work(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> tuple[float, float]:
    counted = flop_registry.get(operator.overloadpacket)
    operations = float(counted(*args, **kwargs, out_val=result)) if counted else 0.0
    return operations, float(sum(each.numel() * each.element_size() for each in _tensors((args, kwargs, result))))


def _alone_s(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Return the time of an operator by itself; what it would change is a fresh copy each time.

    (Changed again and again, numbers end among those next to zero, with which processors are slow.)
    """
    given: Any = (args, kwargs)

    def copy() -> None:
        nonlocal given
        given = trees.tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, (args, kwargs))

    def call() -> Any:
        return operator(*given[0], **given[1])

    prepare = copy if operator._schema.is_mutable else lambda: None
    prepare()
    call()
    return _low(call, ALONE_SECONDS, prepare)
