"""Says what the user's code is, for keys: a file with all that it imports, or a class or module that lives in memory.

A result depends on all the code that gave it, which is seldom one file. What is installed, and trimtab itself, is left
out: it goes by its version. Nothing is imported to find out.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dis import get_instructions
from functools import cache, cached_property, partial
from importlib.machinery import PathFinder
from itertools import accumulate, takewhile
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from trimtab.values.store import file_hash

GIVEN = sys.stdlib_module_names | {"trimtab"}
"""Top packages that are not the user's, wherever they lie."""
INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Folders into which libraries are installed."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
WRAPPERS = (staticmethod, classmethod, property, cached_property, partial, MethodType)
WRAPPED = ("__func__", "fget", "func", "args", "keywords")
"""Attributes of wrappers that hold what they do."""


def files_behind(path: Path) -> dict[Path, str]:
    """Return the sha256 of a Python file and of every file that it imports, directly or not, from beside it.

    What lies elsewhere is taken for installed, whatever `sys.path` is: every process finds the same. Imports by a
    computed name are not seen.

    Raises:
        OSError: a file cannot be read.
    """
    start = path.resolve()
    root = next(folder for folder in start.parents if not (folder / "__init__.py").is_file())
    places = [str(start.parent), str(root)]
    found: dict[Path, str] = {}
    waiting = [start]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found[file] = file_hash(file)
            waiting += _imported(file, found[file], places) if _is_own(file) else ()
    return found


def code_hash(files: Mapping[Path, str]) -> str:
    """Return one hash of what `files_behind` found, wherever the files lie; of a single file its own sha256."""
    if len(files) == 1:
        return next(iter(files.values()))
    named = sorted((file.name, value) for file, value in files.items())
    return hashlib.sha256(repr(named).encode()).hexdigest()


def _is_own(file: Path) -> bool:
    return not INSTALLED & set(file.parts)


def _imported(file: Path, sha256: str, places: Sequence[str]) -> Iterator[Path]:
    """Yield what runs when a file is imported: the packages that it is in, and what it imports."""
    packages = (folder / "__init__.py" for folder in file.parents)
    yield from takewhile(Path.is_file, packages)
    for name, level in _names(file, sha256):
        if level:
            yield from _resolved(name, [str(file.parents[min(level, len(file.parents)) - 1])])
        elif name.partition(".")[0] not in GIVEN:
            yield from _resolved(name, places)


@cache
def _names(file: Path, sha256: str) -> tuple[tuple[str, int], ...]:
    """Return every dotted name that a file imports, and the dots before it, for a content that its hash names."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError, RecursionError):  # no Python, or broken: importing it says so
        return ()
    plain = [(alias.name, 0) for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    parts = [
        (f"{node.module}.{alias.name}" if node.module else alias.name, node.level)
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    return tuple(dict.fromkeys(plain + parts))


def _resolved(name: str, places: Sequence[str]) -> Iterator[Path]:
    """Yield the files that importing a dotted name runs, packages' first, up to one that is installed."""
    for part in accumulate(name.split("."), "{}.{}".format):
        spec = PathFinder.find_spec(part, places)
        if spec is None:
            return
        file = Path(spec.origin or "")
        if spec.has_location and file.is_file():
            if not _is_own(file):
                return
            yield file
        places = list(spec.submodule_search_locations or ())


def described(thing: Any) -> str:
    """Return what a value, function or class of the user's is, written the same in every process.

    Of a function: its code, its defaults, and the values and functions that it uses; of a class: its members and
    bases; of an object of such a class: its attributes.
    """
    return repr(_told(thing, {}))


def _told(thing: Any, seen: dict[int, Any]) -> Any:
    if isinstance(thing, PLAIN):
        return thing
    if isinstance(thing, set | frozenset):
        return sorted(repr(_told(each, seen)) for each in thing)
    if isinstance(thing, Mapping):
        return [(_told(key, seen), _told(value, seen)) for key, value in thing.items()]
    if isinstance(thing, tuple | list):
        return [_told(each, seen) for each in thing]
    if isinstance(thing, CodeType):
        return [thing.co_code, thing.co_names, [_told(constant, seen) for constant in thing.co_consts]]
    if isinstance(thing, WRAPPERS):
        return [type(thing).__name__, *(_told(getattr(thing, name, None), seen) for name in WRAPPED)]
    return _own(thing, seen)


def _own(thing: Any, seen: dict[int, Any]) -> Any:
    """Tell of what the user wrote; of a library's class its file; of all else what it says of itself, or its name."""
    if isinstance(thing, ModuleType):
        return _module(thing)
    kind = thing if isinstance(thing, type | FunctionType) else type(thing)
    name = f"{kind.__module__}.{getattr(thing, '__qualname__', kind.__qualname__)}"
    if id(thing) in seen:
        return name
    if hasattr(thing, "dtype") and hasattr(thing, "shape"):
        return [name, *_array(thing)]
    if _installed(kind.__module__ or "") or not hasattr(thing, "__dict__"):
        said = _edition(kind.__module__) if isinstance(thing, type) else repr(thing)
        return [name, "" if " at 0x" in said else said]
    seen[id(thing)] = thing  # held, so that no other object gets its number
    if isinstance(thing, FunctionType):
        return [name, _function(thing, seen)]
    if isinstance(thing, type):
        members = {key: value for key, value in vars(thing).items() if callable(value) or not key.startswith("__")}
        return [name, _told(thing.__bases__, seen), _told(members, seen)]
    return [name, _told(type(thing), seen), _told(vars(thing), seen)]


def _array(thing: Any) -> list[str]:
    """Tell of an array or tensor its type, its shape and a hash of every number; its `repr` has a few of them."""
    import numpy as np

    plain = thing.detach().cpu() if hasattr(thing, "detach") else thing
    try:
        numbers = np.ascontiguousarray(plain)
    except TypeError:  # bfloat16, which numpy lacks
        numbers = np.ascontiguousarray(plain.float())
    content = repr(numbers.tolist()).encode() if numbers.dtype.hasobject else numbers.tobytes()
    return [str(thing.dtype), str(tuple(thing.shape)), hashlib.sha256(content).hexdigest()]


def _function(function: FunctionType, seen: dict[int, Any]) -> Any:
    names = sorted({name for code in _codes(function.__code__) for name in _globals(code)})
    used = {name: function.__globals__[name] for name in names if name in function.__globals__}
    cells = [_content(cell) for cell in function.__closure__ or ()]
    return _told([function.__code__, function.__defaults__, function.__kwdefaults__, cells, used], seen)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _globals(code: CodeType) -> Iterator[str]:
    return (str(each.argval) for each in get_instructions(code) if each.opname == "LOAD_GLOBAL")


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty as yet
        return None


def _module(module: ModuleType) -> str:
    file = Path(getattr(module, "__file__", None) or "")
    if _installed(module.__name__) or not file.is_file():
        return module.__name__
    return code_hash(files_behind(file))


def _edition(module: str) -> str:
    """Return the sha256 of the file of a library's module, which changes with its version; nothing of `GIVEN`."""
    file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return file_hash(file) if file.suffix == ".py" and module.partition(".")[0] not in GIVEN else ""


def _installed(name: str) -> bool:
    """Tell whether a module, by its name, is none of the user's; what was typed in or is run as a script is."""
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    given = name.partition(".")[0] in GIVEN or not _is_own(Path(file))
    return given and name != "__main__"
