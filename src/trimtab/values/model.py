"""A model as data: parts on disk, the program that drives them, and how it came to be.

A model is a folder: `model.json` beside one folder for each part. Nothing in it is code, and nothing is pickled.
A program says how parts make an answer, so that key-value caches, recurrent state, encoder-decoder decoding,
cascades and early exits are data, run by one small driver (`trimtab.run.program`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from trimtab.errors import CorruptFile
from trimtab.values.facts import Facts

MODEL_FILE = "model.json"
WHOLE = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16"})
"""Types whose numbers int32 and int64 take; the numbers of tokens and classes stay far below their ends."""
T = TypeVar("T")


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype and shape of one tensor; a string in the shape is a size known at run time."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def mistyped(self, dtype: str) -> str:
        """Say why arrays of a type cannot be fed here, and how to cast; empty where the driver casts them itself."""
        if self.dtype == dtype or (dtype in WHOLE and self.dtype in ("int32", "int64")):
            return ""
        return (
            f"the types differ, {self.dtype} and {dtype}: give the model an input of {dtype} and cast inside (torch: "
            f"x.to(torch.{self.dtype}); Keras: Input(dtype='{dtype}')), or cast in a task of your own: "
            f"array.astype('{self.dtype}')"
        )


@dataclass(frozen=True)
class Signature:
    """What a part takes and gives; `state` feeds an output back as the input of the next step."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: Mapping[str, str] = field(default_factory=dict)
    """Output name -> input name. State starts as zeros of the input's shape."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        """Read a signature from its JSON object."""
        specs = {
            side: tuple(checked(TensorSpec(s["name"], s["dtype"], _tuple(s["shape"]))) for s in data[side])
            for side in ("inputs", "outputs")
        }
        read = checked(cls(**specs, state=data.get("state", {})))
        names = [[spec.name for spec in side] for side in (read.outputs, read.inputs)]
        for fed in read.state.items():
            if any(name not in known for name, known in zip(fed, names, strict=True)):
                raise ValueError(f"the state {fed[0]!r} -> {fed[1]!r} is no output and input of the signature")
        return read


@dataclass(frozen=True)
class Part:
    """One network on disk: its format, its folder, its signature and its facts."""

    format: str
    """`torch`, `onnx`, `null`, ...: what passes and runtimes look at."""
    path: Path
    """Folder that holds the part's files."""
    signature: Signature
    facts: Facts

    def to_json(self, root: Path) -> dict[str, Any]:
        """Return the part as a JSON object, with its path relative to `root`."""
        path = self.path.relative_to(root).as_posix()
        return {
            "format": self.format,
            "path": path,
            "signature": asdict(self.signature),
            "facts": self.facts.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], root: Path) -> Part:
        """Read a part whose path is relative to `root`; a path that leaves `root` is refused."""
        path = (root / data["path"]).resolve()
        if not path.is_relative_to(root.resolve()):
            raise CorruptFile(f"part path {data['path']!r} leaves the model's folder {root}")
        facts = checked(Facts.from_json(data["facts"]))
        return checked(cls(data["format"], path, Signature.from_json(data["signature"]), facts))


@dataclass(frozen=True)
class Single:
    """One call of one part answers."""

    part: str = "main"


@dataclass(frozen=True)
class Scan:
    """One part runs along axis 1 of `over`, its state fed back; outputs are stacked along axis 1."""

    part: str = "main"
    over: tuple[str, ...] = ("input",)


@dataclass(frozen=True)
class Greedy:
    """An encoder runs once, then a decoder picks the best token until `stop` or `max_length`.

    The decoder takes the last token as `token`, gives `logits`, and feeds its state back. Encoder outputs reach the
    decoder by name, also as the first value of its state.
    """

    encoder: str | None
    decoder: str
    start: int
    stop: int
    max_length: int
    token: str = "token"  # noqa: S105  (the name of a tensor)
    logits: str = "logits"


@dataclass(frozen=True)
class Cascade:
    """Stages answer in turn: rows whose top probability reaches the stage's threshold stop there.

    Outputs of earlier stages reach later ones by name, so an early exit is a cascade whose second stage takes `hidden`.
    """

    stages: tuple[str, ...]
    thresholds: tuple[float, ...]
    """One for each stage but the last, in [0, 1]."""
    output: str = "output"
    shares: tuple[float, ...] = ()
    """Share of examples that reach each stage, as seen when the thresholds were chosen; empty: all reach all."""


Program = Single | Scan | Greedy | Cascade
PROGRAMS: Mapping[str, type[Any]] = {kind.__name__.lower(): kind for kind in (Single, Scan, Greedy, Cascade)}


def program_to_json(program: Program) -> dict[str, Any]:
    """Return the program as a JSON object that names its kind."""
    return {"kind": type(program).__name__.lower(), **asdict(program)}


def program_from_json(data: Mapping[str, Any]) -> Program:
    """Read what `program_to_json` wrote.

    >>> program_from_json({"kind": "cascade", "stages": ["small", "large"], "thresholds": [0.9]}).stages
    ('small', 'large')
    """
    kind = PROGRAMS.get(data.get("kind", ""))
    if kind is None:
        raise CorruptFile(f"unknown program {data.get('kind')!r}; known: {', '.join(PROGRAMS)}")
    known = {f.name for f in fields(kind)}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items() if key in known}
    program: Program = checked(kind(**values))
    return program


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


FITS: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or isinstance(value, str),
    "int": _whole,
    "float": _number,
    "tuple[str, ...]": _texts,
    "tuple[float, ...]": lambda value: isinstance(value, tuple) and all(map(_number, value)),
    "tuple[int | str, ...]": lambda value: all(isinstance(size, str) or _whole(size) for size in value),
    "Mapping[str, str]": lambda value: isinstance(value, Mapping) and _texts([*value.values()]),
    "Mapping[str, int]": lambda value: isinstance(value, Mapping) and all(map(_whole, value.values())),
}
"""Whether a value read from JSON is what a field's annotation says; other annotations are not looked at."""


def checked(thing: T) -> T:
    """Return a dataclass as it is; raises TypeError that names the first field whose value is of another type."""
    for each in fields(thing):  # type: ignore[arg-type]
        value = getattr(thing, each.name)
        if not FITS.get(str(each.type), lambda value: True)(value):
            raise TypeError(f"{each.name!r} of a {type(thing).__name__.lower()} cannot be {value!r}")
    return thing


def _tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is not a list")
    return tuple(value)


def _check_program(program: Program, parts: Mapping[str, Part]) -> None:
    """Raise ValueError where a program names a part, or an output of a part, that is not there."""
    answers: dict[str, str] = {}
    if isinstance(program, Cascade):
        answers = dict.fromkeys(program.stages, program.output)
        if not program.stages or len(program.thresholds) != len(program.stages) - 1:
            raise ValueError("a cascade has one threshold for each stage but the last")
    if isinstance(program, Greedy):
        answers = {program.decoder: program.logits}
    used = [program.part] if isinstance(program, Single | Scan) else [*answers, *_encoder(program)]
    for name in used:
        if name not in parts:
            raise ValueError(f"its program runs the part {name!r}; it has {', '.join(parts)}")
    for name, output in answers.items():
        if output not in [spec.name for spec in parts[name].signature.outputs]:
            raise ValueError(f"its program takes {output!r} of the part {name!r}, which has no such output")


def _encoder(program: Program) -> list[str]:
    return [program.encoder] if isinstance(program, Greedy) and program.encoder is not None else []


def _check_frontend(frontend: Any) -> Mapping[str, Any]:
    """Return the frontend if its lists are lists; what a step holds is looked at where it is carried out."""
    if not isinstance(frontend, Mapping):
        raise TypeError(f"its frontend cannot be {frontend!r}")
    for name in ("steps", "inputs", "labels"):
        value = frontend.get(name, [])
        if not isinstance(value, list) or (name == "inputs" and not _texts(value)):
            raise TypeError(f"{name!r} of its frontend cannot be {value!r}")
    return frontend


@dataclass(frozen=True)
class Model:
    """Parts, the program that drives them, how inputs are prepared and answers named, and the lineage."""

    parts: Mapping[str, Part]
    program: Program = field(default_factory=Single)
    frontend: Mapping[str, Any] = field(default_factory=dict)
    """JSON: `steps` (see `trimtab.run.frontend`) and `labels`."""
    lineage: tuple[str, ...] = ()
    """The source's reference, then each pass that made it, in canonical text."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """JSON that a pass wants on the tab: layers it left alone and why, what it cut, what it compared."""

    @property
    def main(self) -> Part:
        """The first part, which is the only one in most models."""
        return next(iter(self.parts.values()))

    @property
    def format(self) -> str:
        """The format all parts share; `mixed` where they differ."""
        formats = {part.format for part in self.parts.values()}
        return formats.pop() if len(formats) == 1 else "mixed"

    @property
    def facts(self) -> Facts:
        """The parts' facts added up; operations of a cascade's stage count for the share of examples that reach it."""
        shares: Mapping[str, float] = {}
        if isinstance(self.program, Cascade):
            shares = dict(zip(self.program.stages, self.program.shares, strict=False))
        facts = {name: part.facts for name, part in self.parts.items()}
        if len(facts) == 1:
            return replace(self.main.facts, format=self.format)
        kinds = {kind for each in facts.values() for kind in (*each.layers, *each.operations_by, *each.parameters_by)}
        calls = max(each.calls for each in facts.values())
        shares = {name: shares.get(name, 1) * each.calls / calls for name, each in facts.items()}

        def total(field: str, weights: Mapping[str, float]) -> dict[str, int]:
            sums = {k: sum(getattr(f, field).get(k, 0) * weights.get(n, 1) for n, f in facts.items()) for k in kinds}
            return {kind: round(count) for kind, count in sorted(sums.items()) if count}

        parameters = sum(each.parameters for each in facts.values())
        bits = sum(each.parameters * each.weight_bits for each in facts.values())
        on_disk = sum(each.parameters * each.weight_bits * each.stored for each in facts.values())
        return replace(
            self.main.facts,
            format=self.format,
            parameters=parameters,
            weight_bits=bits / parameters if parameters else self.main.facts.weight_bits,
            stored=on_disk / bits if bits else 1.0,
            operations=round(sum(each.operations * shares[name] for name, each in facts.items())),
            layers=total("layers", {}),
            operations_by=total("operations_by", shares),
            parameters_by=total("parameters_by", {}),
            dynamic=any(each.dynamic for each in facts.values()),
            calls=calls,
        )

    def map_parts(self, change: Mapping[str, Part], **others: Any) -> Model:
        """Return this model with `change` in place of parts of the same names, and other fields replaced."""
        return replace(self, parts={**self.parts, **change}, **others)

    def save(self, root: Path) -> None:
        """Write `model.json` into `root`, the folder that holds every part."""
        data = {
            "parts": {name: part.to_json(root) for name, part in self.parts.items()},
            "program": program_to_json(self.program),
            "frontend": dict(self.frontend),
            "lineage": list(self.lineage),
            "notes": dict(self.notes),
        }
        (root / MODEL_FILE).write_text(json.dumps(data, indent=1))

    @classmethod
    def open(cls, root: Path) -> Model:
        """Read the model whose folder is `root`; raises CorruptFile where it is not one."""
        try:
            data = json.loads((root / MODEL_FILE).read_text())
            parts = {name: Part.from_json(part, root) for name, part in data["parts"].items()}
            program = program_from_json(data["program"])
            if not parts:
                raise ValueError("it has no parts")
            _check_program(program, parts)
            frontend = _check_frontend(data["frontend"])
            return checked(cls(parts, program, frontend, _tuple(data["lineage"]), dict(data["notes"])))
        except KeyError as error:
            raise CorruptFile(f"{root} is not a model folder: it lacks {error}") from error
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptFile(f"{root} is not a model folder: {error}") from error
