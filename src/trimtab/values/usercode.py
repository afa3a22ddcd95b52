"""Imports the user's own file by its path: a model's builder, a task. It runs the user's code, as they asked."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from trimtab.errors import DataError
from trimtab.values.codehash import code_hash, files_behind
from trimtab.values.registry import missing

_IMPORTED: dict[Path, str] = {}
"""The sha256 of the user's files at their last import here."""


def import_file(path: Path) -> ModuleType:
    """Return the file as a module, run once for each content of it and of what it imports, as files beside it.

    Raises:
        DataError: there is no such file, or its code fails.
        MissingExtra: it imports a library that is not installed.
    """
    try:
        files = files_behind(path)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}") from error
    name = f"trimtab_user_{code_hash(files)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    _forget_others(path.resolve(), files)
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


def _forget_others(start: Path, files: Mapping[Path, str]) -> None:
    """Let what a file imports be imported anew where its name stands for another folder's, or it has changed since."""
    changed = any(_IMPORTED.get(file, value) != value for file, value in files.items())
    helpers = [file.relative_to(start.parent) for file in files if file != start and file.is_relative_to(start.parent)]
    tops = {helper.parts[0].removesuffix(".py") for helper in helpers}
    placed = {name: getattr(module, "__file__", None) for name, module in sys.modules.items() if name != "__main__"}
    for name, file in ((name, Path(file)) for name, file in placed.items() if file):
        elsewhere = name.partition(".")[0] in tops and not file.is_relative_to(start.parent)
        if elsewhere or (changed and file in files):
            del sys.modules[name]
    _IMPORTED.update(files)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
