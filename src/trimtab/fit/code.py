"""Finds the callable that builds a module: a builder of ours, in an installed module, or in the user's own file.

Building runs the user's code, so a reference is checked against the hash of the code it was made from, and one into the
standard library is refused: a folder of data from elsewhere must not be able to name `os:system`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from trimtab.errors import CorruptFile, DataError, UnknownName, UnsafeFile
from trimtab.values import codehash, store
from trimtab.values.registry import missing
from trimtab.values.trust import BUILT_IN
from trimtab.values.usercode import import_file


def find(ref: str) -> Callable[..., Any]:
    """Return the callable of `FILE.py:name` or `module:name`.

    Raises:
        DataError: no such file or module, or its code fails.
        UnknownName: no such callable in it; says the near name.
        UnsafeFile: it is the standard library's.
    """
    place, _, name = ref.rpartition(":")
    if place in BUILT_IN:
        return _builder(place, name)
    module = import_file(Path(place)) if place.endswith(".py") else _from_module(place)
    found = getattr(module, name, None)
    if not callable(found):
        here = [k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise UnknownName(f"callable of {place}", name, here)
    return found  # type: ignore[no-any-return]


def _builder(place: str, name: str) -> Callable[..., Any]:
    source = place.rpartition(".")[2]
    try:
        builders: Mapping[str, Callable[..., Any]] = importlib.import_module(place).BUILDERS
    except ModuleNotFoundError as error:
        raise missing(error, f"sources/{source}") from error
    if name not in builders:
        raise UnknownName(f"{source} net", name, builders)
    return builders[name]


def code_hash(ref: str) -> str | None:
    """Return the hash of the code behind the reference, with all of the user's that it imports.

    None for trimtab's own, which has its version. Of one file alone it is the file's sha256.

    Raises:
        DataError: a file cannot be read.
    """
    place = ref.rpartition(":")[0]
    if place in BUILT_IN:
        return None
    path = Path(place) if place.endswith(".py") else Path(_from_module(place).__file__ or "")
    try:
        return codehash.code_hash(codehash.files_behind(path))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}") from error


def file_hash(path: Path) -> str:
    """Return the sha256 of a file; raises DataError where it cannot be read."""
    try:
        return store.file_hash(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def build(description: Mapping[str, Any]) -> nn.Module:
    """Call `description["ref"]` with its arguments; raises CorruptFile where the code is not what it was."""
    ref, wanted = description["ref"], description.get("sha256")
    if wanted != code_hash(ref):
        place = ref.rpartition(":")[0]
        raise CorruptFile(f"{place}, or code it imports, has changed since the model was opened; open the model again")
    return call(ref, description["arguments"])


def call(ref: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call the callable; raises DataError where it fails or gives no torch module."""
    try:
        made = find(ref)(**arguments)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        raise DataError(f"{ref} fails with arguments {dict(arguments)}: {error}") from error
    if not isinstance(made, nn.Module):
        raise DataError(f"{ref} gives a {type(made).__name__}; it must return a torch.nn.Module")
    return made


def _from_module(name: str) -> ModuleType:
    if name.partition(".")[0] in sys.stdlib_module_names:
        raise UnsafeFile(f"{name} is part of Python itself and builds no model; refused")
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot import {name or 'an empty name'}: {error}; give FILE.py:callable") from error
