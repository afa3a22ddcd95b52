"""Imports the user's own file by its path: a model's builder, a task. It runs the user's code, as they asked."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from trimtab.errors import DataError
from trimtab.values.registry import missing
from trimtab.values.store import file_hash


def import_file(path: Path) -> ModuleType:
    """Return the file as a module, run once for each content; files beside it can be imported by it.

    Raises:
        DataError: there is no such file, or its code fails.
        MissingExtra: it imports a library that is not installed.
    """
    try:
        name = f"trimtab_user_{file_hash(path)[:16]}"
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DataError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importable(path.resolve().parent):
            spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        del sys.modules[name]
        raise missing(error, str(path)) from error
    except Exception as error:
        del sys.modules[name]
        raise DataError(f"the code in {path} fails: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
