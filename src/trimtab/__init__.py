"""trimtab makes AI models cheaper to train and to run, and certifies that they still do their job.

    result = trimtab.trim("zoo:resnet | train(epochs=5)", "mnist5k", "accuracy >= base - 0.01", within="5m")
    answer = trimtab.load(result.bundle).predict(images)

Importing this package loads the standard library only; the rest comes when it is first used.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Task", "load", "trim"]

if TYPE_CHECKING:
    from trimtab.api import trim as trim
    from trimtab.pack import load as load
    from trimtab.values.task import Task as Task

_HOMES = {"trim": "trimtab.api", "load": "trimtab.pack", "Task": "trimtab.values.task"}


# OpenVINO reports its use to its maker whenever it is imported, unless the sender is missing.
if "openvino" not in sys.modules:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
