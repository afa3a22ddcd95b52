"""Sources open a model by reference: `zoo:resnet`, `torch:net.py:build`, `onnx:model.onnx`. One file is one source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from trimtab.values.model import Model
from trimtab.values.task import TaskView


class Source(ABC):
    """Opens references of one kind; made without arguments."""

    @abstractmethod
    def open(self, ref: str, scratch: Path, task: TaskView) -> Model:
        """Return the model, its files copied or written into `scratch`. `ref` is without the source's name.

        Raises:
            UnsafeFile: the file could run code or reaches outside its folder.
            CorruptFile: the file is truncated or not what it says.
            DataError: the model does not fit the task's inputs.
        """

    @abstractmethod
    def fingerprint(self, ref: str) -> str:
        """Return a hash of all that the reference depends on: the user's code file, the weights. In the cache key."""

    def sized_by(self, ref: str, task: TaskView) -> int | None:
        """Return a number by which data outside of the training split sizes the model; in the cache key where given.

        Raises:
            DataError: the model does not fit the task's inputs.
        """
        return None


CONTRACT = Source
