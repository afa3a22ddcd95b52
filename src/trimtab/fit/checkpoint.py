"""Checkpoints that make an interrupted training end exactly as an uninterrupted one.

One safetensors file holds the model, the best weights so far, the optimizer's state and the random states; its note
holds the step and the history. It is written atomically and carries a digest, so a torn one is noticed and said.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.errors import CorruptFile
from trimtab.fit import tensors

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass
class Progress:
    """Where a training stands: what must survive a crash besides weights and optimizer."""

    step: int = 0
    loss_sum: float = 0.0
    """Of the steps of the current epoch."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry an epoch: epoch, loss, and the validation metric by name."""
    best: float | None = None
    waited: int = 0
    """Epochs since the best."""
    best_state: dict[str, Tensor] = field(default_factory=dict)


def write(folder: Path, key: str, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write the checkpoint of the run that `key` identifies."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {f"model.{name}": value for name, value in _tensors(module).items()}
    held |= {f"best.{name}": value for name, value in progress.best_state.items()}
    for index, state in optimizer.state_dict()["state"].items():
        held |= {f"optimizer.{index}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
    held["random.torch"] = torch.get_rng_state()
    note = {"key": key, "step": progress.step, "history": progress.history, "best": progress.best}
    note |= {"waited": progress.waited, "loss_sum": progress.loss_sum}
    note |= {"python": random.getstate(), "numpy": _numpy_state()}
    tensors.write(folder / CHECKPOINT_FILE, {name: value.clone() for name, value in held.items()}, note)


def read(folder: Path, key: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Progress, str]:
    """Put module, optimizer and random states where the checkpoint left them.

    Returns the progress, fresh where no checkpoint is usable, and a sentence for what happened (may be empty).
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return Progress(), ""
    try:
        held, note = tensors.read(path)
        if note["key"] != key:
            return Progress(), "the checkpoint found belongs to other settings or data; started afresh"
        _restore(held, note, module, optimizer)
    except (CorruptFile, KeyError, ValueError, RuntimeError) as error:
        return Progress(), f"the checkpoint found is not usable; started afresh: {error}"
    best = {name.removeprefix("best."): value for name, value in held.items() if name.startswith("best.")}
    progress = Progress(note["step"], note["loss_sum"], note["history"], note["best"], note["waited"], best)
    return progress, f"resumed at step {progress.step}"


def copy_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the module's tensors."""
    return {name: value.detach().clone() for name, value in _tensors(module).items()}


@contextmanager
def seeded(seed: int, threads: int) -> Iterator[None]:
    """Seed torch, numpy and Python, use `threads` and deterministic kernels; all is put back afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_num_threads()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_num_threads(before[2])
            torch.use_deterministic_algorithms(strict, warn_only=warn)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _restore(
    held: Mapping[str, Tensor], note: Mapping[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in held.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = value
    model = {name.removeprefix("model."): value for name, value in held.items() if name.startswith("model.")}
    version, numbers, gauss = note["python"]
    module.load_state_dict(model, strict=False)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    torch.set_rng_state(held["random.torch"])
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(note["numpy"]))


def _numpy_state() -> list[Any]:
    name, numbers, *rest = np.random.get_state(legacy=True)
    return [name, [int(number) for number in numbers], *rest]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
