"""What is done to raw inputs before a model sees them, as data: a task and the bundle made on it share this one path.

A frontend is JSON: `steps`, carried out in order on named arrays with one row an example; `inputs`, the names that are
the model's; `labels`. numpy is all it takes, so a bundle needs neither the task nor its libraries.

    {"op": "shape", "input": "image", "shape": [28, 28]}       each example must have this shape
    {"op": "channels", "input": "image"}                       [n, H, W(, C)] -> [n, C, H, W]
    {"op": "resize", "input": "image", "size": [64, 64]}       bilinear, on [n, C, H, W]; smooths nothing
    {"op": "repeat", "input": "image", "times": 3}             [n, 1, H, W] -> [n, 3, H, W]: grey to colour
    {"op": "scale", "input": X, "by": 1, "mean": 0, "std": 1}  (x * by - mean) / std; may have "axis", "length"
    {"op": "cast", "input": X, "dtype": "int64"}
    {"op": "columns", "output": X, "numeric": [...], "categorical": [...]}   table columns -> float32 [n, F]
    {"op": "sequence", "inputs": [...], "output": X, "length": L}            lists -> float32 [n, T, D] and int64 [n]
    {"op": "frames", "input": X, "size": 512, "context": 64, "output": Y, "length": L}
                                                               samples [n, any] -> float32 [n, T, context + size]: each
                                                               frame begins with the last `context` of the one before
    {"op": "letters", "input": X, "alphabet": [...], "unknown": 1, "stop": 2, "output": Y, "length": L}
                                                               words -> int64 [n, T], places in the alphabet + stop
    {"op": "tokenize", "input": X, "tokenizer": "...", "max_length": 128, "pad": 0, "padding": "longest", "output": Y,
     "mask": M}                                                texts -> int64 [n, T] twice; see `trimtab.run.tokens`
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import CorruptFile, DataError, suggest
from trimtab.run import tokens

Array = NDArray[Any]
Step = Mapping[str, Any]
PADDINGS = ("longest", "max")
"""Texts are as long as the longest of their batch, or all of them `max_length`."""


def prepare(frontend: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Array]:
    """Turn raw inputs, one row an example, into the model's inputs with a batch axis in front.

    Raises:
        CorruptFile: a step that is unknown, incomplete or malformed.
        DataError: an input that is absent, or does not fit.
    """
    values: dict[str, Any] = dict(raw)
    for step in steps_of(frontend):
        try:
            OPERATIONS[step["op"]](values, step)
        except (ValueError, TypeError, IndexError) as error:
            raise DataError(f"the inputs do not fit the step {step['op']!r}: {error}") from error
    return {name: np.ascontiguousarray(_taken(values, name)) for name in frontend.get("inputs") or values}


def raw_inputs(frontend: Mapping[str, Any]) -> list[str]:
    """Return the names that `prepare` takes: of a table its columns, elsewhere mostly the model's own inputs.

    >>> raw_inputs({"steps": [{"op": "sequence", "inputs": ["x"], "output": "s", "length": "n"}], "inputs": ["s", "n"]})
    ['x']
    """
    raw: dict[str, None] = {}
    made: set[str] = set()
    for step in steps_of(frontend):
        columns = [column["name"] for column in (*step.get("numeric", ()), *step.get("categorical", ()))]
        used = columns or step.get("inputs") or [step.get("input")]
        raw |= dict.fromkeys(name for name in used if name not in made)
        made |= {step[key] for key in ("output", "length", "mask") if key in step}
    return list(raw | dict.fromkeys(name for name in frontend.get("inputs", ()) if name not in made))


def masked(frontend: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the names of the tokens and of their mask where texts are padded to the longest of a batch, else None."""
    for step in frontend.get("steps", ()):
        if step["op"] == "tokenize" and step["padding"] == "longest":
            return step["output"], step["mask"]
    return None


def steps_of(frontend: Mapping[str, Any]) -> list[Step]:
    """Return the steps; raises CorruptFile where one is unknown, lacks something or holds a value of another type."""
    steps = frontend.get("steps", ())
    if not _list(steps):
        raise CorruptFile(f"the frontend's steps are no list: {steps!r}")
    for step in steps:
        op = step.get("op") if isinstance(step, Mapping) else step
        if not isinstance(op, str) or not isinstance(step, Mapping) or op not in OPERATIONS:
            raise CorruptFile(f"unknown frontend step {op!r}{suggest(str(op), OPERATIONS)}")
        wanted = {name.rstrip("?"): (fits, name.endswith("?")) for name, fits in FIELDS[op].items()}
        for name, (fits, optional) in wanted.items():
            if name not in step and not optional:
                raise CorruptFile(f"frontend step {op!r} has no {name!r}: {str(dict(step))[:200]}")
            if name in step and not fits(step[name]):
                raise CorruptFile(f"frontend step {op!r} cannot have {str(step[name])[:200]!r} as its {name!r}")
    return list(steps)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _whole(value: Any) -> bool:
    return isinstance(value, Integral)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _numbers_or_one(value: Any) -> bool:
    return _number(value) or (_list(value) and all(map(_number, value)))


def _several(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: _list(value) and all(map(fits, value))


def _object(**wanted: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, Mapping) and all(name in value and fits(value[name]) for name, fits in wanted.items())
    )


def _dtype(value: Any) -> bool:
    try:
        return _text(value) and np.dtype(value).kind in "biuf"
    except TypeError:
        return False


FIELDS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "shape": {"input": _text, "shape": _several(_whole)},
    "channels": {"input": _text},
    "resize": {"input": _text, "size": lambda value: _several(_whole)(value) and len(value) == 2 and min(value) > 0},
    "repeat": {"input": _text, "times": _whole},
    "scale": {
        "input": _text,
        "by?": _number,
        "mean?": _numbers_or_one,
        "std?": _numbers_or_one,
        "axis?": _whole,
        "length?": _text,
    },
    "cast": {"input": _text, "dtype": _dtype},
    "columns": {
        "output": _text,
        "numeric": _several(_object(name=_text, mean=_number, std=_number)),
        "categorical": _several(_object(name=_text, values=_several(_text))),
    },
    "sequence": {"inputs": _several(_text), "output": _text, "length": _text},
    "frames": {
        "input": _text,
        "size": lambda value: _whole(value) and value > 0,
        "context": lambda value: _whole(value) and value >= 0,
        "output": _text,
        "length": _text,
    },
    "letters": {
        "input": _text,
        "alphabet": _several(_text),
        "unknown": _whole,
        "stop": _whole,
        "output": _text,
        "length": _text,
    },
    "tokenize": {
        "input": _text,
        "tokenizer": _text,
        "max_length": lambda value: _whole(value) and value > 0,
        "pad": _whole,
        "padding": lambda value: value in PADDINGS,
        "output": _text,
        "mask": _text,
    },
}
"""What each step holds and whether a value fits; a name with a ? may be left out."""


def _taken(values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        raise DataError(f"input {name!r} is absent{suggest(name, values)}")
    return values[name]


def _numbers(values: Mapping[str, Any], name: str, dtype: Any) -> Array:
    try:
        given = np.asarray(_taken(values, name))
        if given.dtype.kind == "c":
            raise ValueError(f"it is {given.dtype}")
        with np.errstate(over="ignore", invalid="raise"):
            array = given.astype(dtype, copy=False)
    except (ValueError, TypeError, OverflowError, FloatingPointError) as error:
        raise DataError(f"input {name!r} must hold numbers: {error}") from error
    return _within(array, given, f"input {name!r}") if array.dtype.kind == "f" else array


def _within(array: Array, before: Array, what: str) -> Array:
    """Return the array; raises DataError that names the first row where a finite number became infinite."""
    lost = np.isinf(array)
    if lost.any():
        lost &= np.isfinite(before.astype(np.float64))
    if lost.any():
        row = int(np.argmax(lost.reshape(len(lost), -1).any(axis=1))) if lost.ndim else 0
        raise DataError(f"row {row}: {what} holds a number too large for {array.dtype}; scale it, or leave the row out")
    return array


def _float32(array: Array, what: str) -> Array:
    with np.errstate(over="ignore"):
        return _within(array.astype(np.float32), array, what)


def _shape(values: dict[str, Any], step: Step) -> None:
    array, wanted = np.asarray(_taken(values, step["input"])), tuple(step["shape"])
    if array.shape[1:] != wanted:
        raise DataError(f"each {step['input']} must have the shape {list(wanted)}, got {list(array.shape[1:])}")


def _channels(values: dict[str, Any], step: Step) -> None:
    array = np.asarray(_taken(values, step["input"]))
    if array.ndim not in (3, 4):
        raise DataError(f"{step['input']} must be [n, H, W] or [n, H, W, C], got {array.ndim} axes")
    values[step["input"]] = array[:, None] if array.ndim == 3 else np.moveaxis(array, -1, 1)


def _resize(values: dict[str, Any], step: Step) -> None:
    array = _numbers(values, step["input"], np.float32)
    if array.ndim != 4:
        raise DataError(f"{step['input']} must be [n, C, H, W] to be resized, got {array.ndim} axes")
    down, across = (_bilinear(old, new) for old, new in zip(array.shape[2:], step["size"], strict=True))
    values[step["input"]] = down @ array @ across.T


def _bilinear(old: int, new: int) -> Array:
    """Return float32 [new, old]: what each new pixel takes of the old ones, whose centres lie at i + 1/2."""
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(old))), dtype=np.float32)


def _repeat(values: dict[str, Any], step: Step) -> None:
    values[step["input"]] = np.repeat(np.asarray(_taken(values, step["input"])), step["times"], axis=1)


def _scale(values: dict[str, Any], step: Step) -> None:
    given = _numbers(values, step["input"], np.float32)
    with np.errstate(over="ignore"):
        array = given * np.float32(step.get("by", 1))
    shape = [1] * array.ndim
    if "axis" in step:
        shape[step["axis"]] = -1
    mean, std = (np.asarray(step.get(k, d), np.float32) for k, d in (("mean", 0), ("std", 1)))
    try:
        with np.errstate(all="ignore"):
            array = _within((array - mean.reshape(shape)) / std.reshape(shape), given, f"input {step['input']!r}")
    except ValueError as error:
        raise DataError(f"{step['input']} does not fit the scale learnt in training: {error}") from error
    if "length" in step:
        lengths = _numbers(values, step["length"], np.int64)
        array = array * (np.arange(array.shape[1]) < lengths[:, None])[:, :, None]
    values[step["input"]] = array.astype(np.float32)


def _cast(values: dict[str, Any], step: Step) -> None:
    values[step["input"]] = _numbers(values, step["input"], np.dtype(step["dtype"]))


def _columns(values: dict[str, Any], step: Step) -> None:
    parts = []
    for column in step["numeric"]:
        numbers = _numbers(values, column["name"], np.float64)
        if not np.isfinite(numbers).all():
            row = int(np.argmin(np.isfinite(numbers)))
            raise DataError(f"column {column['name']!r} has no number in row {row}; fill it in or leave the row out")
        parts.append(_float32((numbers - column["mean"]) / column["std"], f"column {column['name']!r}")[:, None])
    for column in step["categorical"]:
        words = np.asarray(_taken(values, column["name"])).astype(str)
        parts.append(words[:, None] == np.asarray(column["values"], dtype=str))
    for column in (*step["numeric"], *step["categorical"]):
        del values[column["name"]]
    values[step["output"]] = np.hstack(parts).astype(np.float32)


def _sequence(values: dict[str, Any], step: Step) -> None:
    columns = [_taken(values, name) for name in step["inputs"]]
    rows = [_joined(parts, number, step["inputs"]) for number, parts in enumerate(zip(*columns, strict=True))]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    padded = np.zeros((len(rows), int(lengths.max(initial=0)), rows[0].shape[1] if rows else 0), dtype=np.float32)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    for name in step["inputs"]:
        del values[name]
    values[step["output"]], values[step["length"]] = padded, lengths


def _joined(parts: Sequence[Any], number: int, names: Sequence[str]) -> Array:
    try:
        with np.errstate(over="ignore"):
            row = np.stack([np.asarray(part, dtype=np.float32) for part in parts], axis=-1)
    except (ValueError, TypeError) as error:
        raise DataError(f"row {number}: {', '.join(names)} must be lists of numbers of one length: {error}") from error
    if not row.size or not np.isfinite(row).all():
        raise DataError(f"row {number}: {', '.join(names)} must hold at least one step, and numbers only")
    return row.reshape(len(row), -1) if row.ndim > 1 else row[None]


def _letters(values: dict[str, Any], step: Step) -> None:
    places, unknown, stop = {letter: i for i, letter in enumerate(step["alphabet"])}, int(step["unknown"]), step["stop"]
    words = np.asarray(_taken(values, step["input"]))
    rows = [[*(places.get(letter, unknown) for letter in str(word)), stop] for word in words]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    padded = np.zeros((len(rows), int(lengths.max(initial=0))), dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    del values[step["input"]]
    values[step["output"]], values[step["length"]] = padded, lengths


def _tokenize(values: dict[str, Any], step: Step) -> None:
    texts, whole = _taken(values, step["input"]), step["padding"] == "max"
    ids, mask = tokens.encode(texts, step["tokenizer"], step["max_length"], step["pad"], whole)
    del values[step["input"]]
    values[step["output"]], values[step["mask"]] = ids, mask


def _frames(values: dict[str, Any], step: Step) -> None:
    size, context = step["size"], step["context"]
    rows = [_joined([row], number, [step["input"]])[:, 0] for number, row in enumerate(_taken(values, step["input"]))]
    lengths = np.array([-(-len(row) // size) for row in rows], dtype=np.int64)
    framed = np.zeros((len(rows), int(lengths.max(initial=0)), context + size), dtype=np.float32)
    for target, row, length in zip(framed, rows, lengths, strict=True):
        signal = np.zeros(context + length * size, dtype=np.float32)
        signal[context : context + len(row)] = row
        target[:length] = np.lib.stride_tricks.sliding_window_view(signal, context + size)[::size]
    del values[step["input"]]
    values[step["output"]], values[step["length"]] = framed, lengths


OPERATIONS: Mapping[str, Callable[[dict[str, Any], Step], None]] = {
    "shape": _shape,
    "channels": _channels,
    "resize": _resize,
    "repeat": _repeat,
    "scale": _scale,
    "cast": _cast,
    "columns": _columns,
    "sequence": _sequence,
    "frames": _frames,
    "letters": _letters,
    "tokenize": _tokenize,
}


def fit_scale(array: Array, axis: int) -> dict[str, Any]:
    """Learn `mean` and `std` along every axis but one, for a `scale` step; a constant is left at its mean."""
    others = tuple(a for a in range(array.ndim) if a != axis % array.ndim)
    mean, std = array.mean(axis=others, dtype=np.float64), array.std(axis=others, dtype=np.float64)
    return {"mean": mean.tolist(), "std": np.where(std > 0, std, 1.0).tolist(), "axis": axis}


def fit_columns(raw: Mapping[str, Any], numeric: Sequence[str], categorical: Sequence[str], most: int = 100) -> Step:
    """Learn a `columns` step: mean and spread of each number, and the words of each category.

    The `most` frequent words of a category get an input each; every other word, also one never seen, is all zeros.
    """
    numbers = []
    for name in numeric:
        array = np.asarray(raw[name], dtype=np.float64)
        numbers.append({"name": name, "mean": float(array.mean()), "std": float(array.std()) or 1.0})
    categories = []
    for name in categorical:
        words, counts = np.unique(np.asarray(raw[name]).astype(str), return_counts=True)
        kept = np.sort(words[np.argsort(-counts, kind="stable")[:most]])
        categories.append({"name": name, "values": kept.tolist()})
    return {"op": "columns", "output": "features", "numeric": numbers, "categorical": categories}
