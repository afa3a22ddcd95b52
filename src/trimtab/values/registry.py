"""The file is the registration: a registry lists its folder and imports nothing until asked.

`registry("passes").take("prune")` imports `trimtab/passes/prune.py` and returns the one class in it that fulfils the
contract. Third parties join by an entry point in the group `trimtab.passes`; a notebook or a test by `add`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Mapping
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from trimtab.errors import MissingExtra, UnknownName

KINDS = ("sources", "tasks", "passes", "runtimes", "meters")
EXTRAS: Mapping[str, str] = {
    "torch": "torch",
    "torch_pruning": "torch",
    "safetensors": "torch",
    "openvino": "openvino",
    "pyarrow": "data",
    "PIL": "data",
    "sklearn": "data",
    "pynvml": "nvidia",
    "tokenizers": "text",
    "transformers": "hf",
    "keras": "keras",
    "h5py": "keras",
    "nncf": "nncf",
    "ray": "ray",
}


class Registry:
    """The things of one kind, by name."""

    def __init__(self, kind: str) -> None:
        if kind not in KINDS:
            raise UnknownName("registry", kind, KINDS)
        self.kind = kind
        self._folder = Path(__file__).parent.parent / kind
        self._added: dict[str, type[Any]] = {}

    def names(self) -> tuple[str, ...]:
        """Return every name, sorted; imports nothing."""
        return tuple(sorted({*self._files, *self._entry_points(), *self._added}))

    def take(self, name: str) -> type[Any]:
        """Return the class of that name; raises UnknownName, or MissingExtra with the pip line."""
        if name in self._added:
            return self._added[name]
        if name in self._files:
            return self._load(name)
        if name in self._entry_points():
            loaded: type[Any] = self._entry_points()[name].load()
            return loaded
        raise UnknownName(self.kind.removesuffix("es" if self.kind == "passes" else "s"), name, self.names())

    def add(self, name: str, thing: type[Any]) -> None:
        """Add a class for the life of this process."""
        self._added[name] = thing

    def summary(self, name: str) -> str:
        """Return the first line of the thing's documentation, read without importing it."""
        path = self._files.get(name)
        doc = ast.get_docstring(ast.parse(path.read_text())) if path else self.take(name).__doc__
        return (doc or "").strip().partition("\n")[0]

    @cached_property
    def _files(self) -> dict[str, Path]:
        return {path.stem: path for path in self._folder.glob("*.py") if not path.stem.startswith("_")}

    def _entry_points(self) -> dict[str, metadata.EntryPoint]:
        return {point.name: point for point in metadata.entry_points(group=f"trimtab.{self.kind}")}

    def _load(self, name: str) -> type[Any]:
        try:
            module = importlib.import_module(f"trimtab.{self.kind}.{name}")
        except ModuleNotFoundError as error:
            raise missing(error, f"{self.kind}/{name}") from error
        contract: type[Any] = importlib.import_module(f"trimtab.{self.kind}").CONTRACT
        things = [
            thing
            for thing in vars(module).values()
            if inspect.isclass(thing) and issubclass(thing, contract) and thing.__module__ == module.__name__
        ]
        if len(things) != 1:
            raise TypeError(f"{module.__name__} must define one {contract.__name__}, it defines {len(things)}")
        return things[0]


def missing(error: ModuleNotFoundError, wanted_by: str) -> MissingExtra:
    """Turn a failed import into the sentence with the pip line."""
    top = (error.name or "").partition(".")[0]
    line = f"pip install 'trimtab[{EXTRAS[top]}]'" if top in EXTRAS else f"pip install {top}"
    return MissingExtra(f"{wanted_by} needs the library {top}, which is not installed; install it: {line}")


@cache
def registry(kind: str) -> Registry:
    """Return the registry of that kind, one for the whole process."""
    return Registry(kind)
