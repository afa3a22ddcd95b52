"""The one-line notation: `prune(ratio=0.5) | onnx @ onnxruntime(threads=1)`. Text to data and back, never evaluated.

    recipe := [step ("|" step)*] ["@" step]        passes from left to right, then the runtime
    step   := name ["(" [argument ("," argument)*] ")"]
    argument := [name "="] value                   positional ones first
    value  := a Python literal, or a recipe

The split is ours because Python's precedence differs (`@` binds before `|`); `ast.literal_eval` reads literals only.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, TypeVar, get_type_hints

from trimtab.errors import RecipeError, suggest

NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
OPENING, CLOSING = "([{", ")]}"
PLAIN = (bool, int, float, str, tuple)
"""Types of the fields that a reference can say."""
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """A name with its arguments, exactly as written.

    >>> str(Step("prune", (0.5,), {"scope": "global"}))
    "prune(0.5, scope='global')"
    """

    name: str
    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not NAME.match(self.name):
            raise RecipeError(f"{self.name!r} is not a step: a name is lower-case letters, digits and _, as in prune")
        for value in (*self.positional, *self.named.values()):
            _check_value(value, self.name)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        shown = [_show(v) for v in self.positional] + [f"{k}={_show(v)}" for k, v in self.named.items()]
        return f"{self.name}({', '.join(shown)})" if shown else self.name

    @classmethod
    def parse(cls, text: str, whole: str = "") -> Step:
        """Read one step; `whole` is the recipe that errors quote."""
        text = text.strip()
        name, bracket, rest = text.partition("(")
        if not bracket:
            return cls(_named(name, whole or text))
        if not rest.rstrip().endswith(")"):
            raise RecipeError(f"step {text!r} does not end in ')' in: {whole or text}")
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for argument in split(rest.rstrip()[:-1], ","):
            key, value = _argument(argument, whole or text)
            if key in named:
                raise RecipeError(f"step {name.strip()!r} has {key} twice in: {whole or text}")
            if key:
                named[key] = value
            elif named:
                raise RecipeError(f"positional value {argument.strip()} after named ones in: {whole or text}")
            else:
                positional.append(value)
        return cls(_named(name, whole or text), tuple(positional), named)

    def build(self, kind: type[T]) -> T:
        """Make the dataclass `kind` of this step's arguments; positional ones fill its fields in order."""
        known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
        if len(self.positional) > len(known):
            raise RecipeError(f"{self.name} takes at most {len(known)} arguments, got {len(self.positional)}: {self}")
        values = dict(zip(known, self.positional, strict=False))
        for key, value in self.named.items():
            if key not in known:
                raise RecipeError(f"{self.name} has no argument {key!r}{suggest(key, known)}")
            if key in values:
                raise RecipeError(f"{self.name} gets {key} twice: {self}")
            values[key] = value
        absent = [
            k for k, f in known.items() if k not in values and f.default is MISSING and f.default_factory is MISSING
        ]
        if absent:
            raise RecipeError(f"{self.name} needs {', '.join(absent)}: write {self.name}({absent[0]}=...)")
        hints = _hints(kind)  # type: ignore[arg-type]
        try:
            return kind(**{key: _fit(self.name, key, value, hints[key]) for key, value in values.items()})
        except ValueError as error:
            raise RecipeError(f"{self}: {error}") from error


@dataclass(frozen=True)
class Recipe:
    """A chain of passes and, if named, the runtime that serves the result.

    >>> str(Recipe.parse("train(steps=2000)|prune(0.5) | onnx@openvino( threads = 1 )"))
    'train(steps=2000) | prune(0.5) | onnx @ openvino(threads=1)'
    """

    steps: tuple[Step, ...] = ()
    runtime: Step | None = None

    def __str__(self) -> str:
        chain = " | ".join(map(str, self.steps))
        return chain if self.runtime is None else f"{chain} @ {self.runtime}".strip()

    def __add__(self, other: Recipe) -> Recipe:
        return Recipe(self.steps + other.steps, other.runtime or self.runtime)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read a recipe; raises RecipeError that names the step."""
        chain, *runtimes = split(text, "@")
        if len(runtimes) > 1:
            raise RecipeError(f"a recipe has one runtime, this has {len(runtimes)}: {text}")
        runtime = Step.parse(runtimes[0], text) if runtimes else None
        return cls(tuple(Step.parse(step, text) for step in split(chain, "|")), runtime)


@cache
def _hints(kind: type[object]) -> dict[str, Any]:
    return get_type_hints(kind)


def split(text: str, mark: str) -> list[str]:
    """Split at `mark` outside brackets and quotes; blank text gives one blank part for '@', none otherwise.

    >>> split("a | b('x|y') | c(d=e | f)", "|")
    ['a ', " b('x|y') ", ' c(d=e | f)']
    """
    if not text.strip() and mark != "@":
        return []
    parts, start = [], 0
    for position in _outside(text, mark):
        parts.append(text[start:position])
        start = position + 1
    return [*parts, text[start:]]


def _outside(text: str, mark: str) -> Iterator[int]:
    depth, quote, escaped = 0, "", False
    for position, char in enumerate(text):
        if quote:
            quote = "" if char == quote and not escaped else quote
            escaped = char == "\\" and not escaped
        elif char in "'\"":
            quote = char
        elif char in OPENING:
            depth += 1
        elif char in CLOSING:
            depth -= 1
            if depth < 0:
                raise RecipeError(f"{char!r} closes nothing at character {position + 1} of: {text}")
        elif char == mark and depth == 0:
            yield position
    if depth or quote:
        raise RecipeError(f"{'a quote' if quote else 'a bracket'} is not closed in: {text}")


def _named(name: str, whole: str) -> str:
    if not NAME.match(name.strip()):
        raise RecipeError(f"{name.strip()!r} is not a step name (as in prune or onnx) in: {whole}")
    return name.strip()


def _argument(text: str, whole: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if equals and NAME.match(key.strip()):
        return key.strip(), _value(value.strip(), whole)
    return "", _value(text.strip(), whole)


def _value(text: str, whole: str) -> Any:
    if not text:
        raise RecipeError(f"an argument is empty in: {whole}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return Recipe.parse(text)
    return tuple(value) if isinstance(value, list) else value


def _check_value(value: Any, name: str) -> None:
    if isinstance(value, tuple):
        for item in value:
            _check_value(item, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{name} cannot take {value}: numbers are finite")
    elif isinstance(value, Recipe) and not value.steps:
        raise RecipeError(f"{name} cannot take a recipe without steps")
    elif not isinstance(value, bool | int | float | str | Recipe | None):
        raise RecipeError(
            f"{name} cannot take {value!r}: values are numbers, strings, True, False, None, tuples, recipes"
        )


def _show(value: Any) -> str:
    return str(value) if isinstance(value, Recipe) else repr(value)


def _fit(name: str, key: str, value: Any, hint: Any) -> Any:
    """Check a value against its field's type; a bare word is a string, a whole number is a float."""
    kinds = set(getattr(hint, "__args__", ())) if not isinstance(hint, type) or hasattr(hint, "__args__") else {hint}
    origin = getattr(hint, "__origin__", None)
    if origin is tuple:
        return value if isinstance(value, tuple) else (_word(value),)
    if str in kinds and isinstance(value, Recipe):
        value = _word(value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    classes = tuple(kind for kind in kinds if isinstance(kind, type))
    if classes and (not isinstance(value, classes) or (isinstance(value, bool) and bool not in kinds)):
        wanted = " or ".join(sorted("nothing" if k is type(None) else k.__name__ for k in classes))
        raise RecipeError(f"{name}: {key} takes {wanted}, got {_show(value)}")
    return value


def _word(value: Any) -> Any:
    bare = isinstance(value, Recipe) and len(value.steps) == 1 and value.runtime is None
    return value.steps[0].name if bare and str(value) == value.steps[0].name else value


def plain_fields(thing: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that a reference can say, without those at their default."""
    named = {f.name: getattr(thing, f.name) for f in fields(thing)}
    plain = [f for f in fields(thing) if isinstance(named[f.name], PLAIN)]
    return {f.name: named[f.name] for f in plain if named[f.name] != f.default}


def show(thing: Any, name: str) -> str:
    """Write a dataclass as the step that would build it, leaving out fields at their default."""
    named = {f.name: getattr(thing, f.name) for f in fields(thing) if getattr(thing, f.name) != f.default}
    return str(Step(name, (), named))
