"""What is done to raw inputs before a model sees them, as data: a task and the bundle made on it share this one path.

A frontend is JSON: `steps`, carried out in order on named arrays with one row an example; `inputs`, the names that are
the model's; `labels`. numpy is all it takes, so a bundle needs neither the task nor its libraries.

    {"op": "shape", "input": "image", "shape": [28, 28]}       each example must have this shape
    {"op": "channels", "input": "image"}                       [n, H, W(, C)] -> [n, C, H, W]
    {"op": "scale", "input": X, "by": 1, "mean": 0, "std": 1}  (x * by - mean) / std; may have "axis", "length"
    {"op": "cast", "input": X, "dtype": "int64"}
    {"op": "columns", "output": X, "numeric": [...], "categorical": [...]}   table columns -> float32 [n, F]
    {"op": "sequence", "inputs": [...], "output": X, "length": L}            lists -> float32 [n, T, D] and int64 [n]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import CorruptFile, DataError, suggest

Array = NDArray[Any]
Step = Mapping[str, Any]


def prepare(frontend: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Array]:
    """Turn raw inputs, one row an example, into the model's inputs with a batch axis in front.

    Raises:
        CorruptFile: a step that is unknown or incomplete.
        DataError: an input that is absent, or does not fit.
    """
    values: dict[str, Any] = dict(raw)
    for step in frontend.get("steps", ()):
        operation = OPERATIONS.get(step.get("op", ""))
        if operation is None:
            raise CorruptFile(f"unknown frontend step {step.get('op')!r}{suggest(str(step.get('op')), OPERATIONS)}")
        try:
            operation(values, step)
        except KeyError as error:
            raise CorruptFile(f"frontend step {step['op']!r} has no {error}: {dict(step)}") from error
        except ValueError as error:
            raise DataError(f"the inputs do not fit the step {step['op']!r}: {error}") from error
    return {name: np.ascontiguousarray(_taken(values, name)) for name in frontend.get("inputs") or values}


def raw_inputs(frontend: Mapping[str, Any]) -> list[str]:
    """Return the names that `prepare` takes: of a table its columns, elsewhere mostly the model's own inputs.

    >>> raw_inputs({"steps": [{"op": "sequence", "inputs": ["x"], "output": "s", "length": "n"}], "inputs": ["s", "n"]})
    ['x']
    """
    raw: dict[str, None] = {}
    made: set[str] = set()
    for step in frontend.get("steps", ()):
        columns = [column["name"] for column in (*step.get("numeric", ()), *step.get("categorical", ()))]
        used = columns or step.get("inputs") or [step.get("input")]
        raw |= dict.fromkeys(name for name in used if name not in made)
        made |= {step[key] for key in ("output", "length") if key in step}
    return list(raw | dict.fromkeys(name for name in frontend.get("inputs", ()) if name not in made))


def _taken(values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        raise DataError(f"input {name!r} is absent{suggest(name, values)}")
    return values[name]


def _numbers(values: Mapping[str, Any], name: str, dtype: Any) -> Array:
    try:
        return np.asarray(_taken(values, name), dtype=dtype)
    except (ValueError, TypeError) as error:
        raise DataError(f"input {name!r} must hold numbers: {error}") from error


def _shape(values: dict[str, Any], step: Step) -> None:
    array, wanted = np.asarray(_taken(values, step["input"])), tuple(step["shape"])
    if array.shape[1:] != wanted:
        raise DataError(f"each {step['input']} must have the shape {list(wanted)}, got {list(array.shape[1:])}")


def _channels(values: dict[str, Any], step: Step) -> None:
    array = np.asarray(_taken(values, step["input"]))
    if array.ndim not in (3, 4):
        raise DataError(f"{step['input']} must be [n, H, W] or [n, H, W, C], got {array.ndim} axes")
    values[step["input"]] = array[:, None] if array.ndim == 3 else np.moveaxis(array, -1, 1)


def _scale(values: dict[str, Any], step: Step) -> None:
    array = _numbers(values, step["input"], np.float32) * np.float32(step.get("by", 1))
    shape = [1] * array.ndim
    if "axis" in step:
        shape[step["axis"]] = -1
    mean, std = (np.asarray(step.get(k, d), np.float32) for k, d in (("mean", 0), ("std", 1)))
    try:
        array = (array - mean.reshape(shape)) / std.reshape(shape)
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
        parts.append(((numbers - column["mean"]) / column["std"])[:, None])
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
        row = np.stack([np.asarray(part, dtype=np.float32) for part in parts], axis=-1)
    except (ValueError, TypeError) as error:
        raise DataError(f"row {number}: {', '.join(names)} must be lists of numbers of one length: {error}") from error
    if not row.size or not np.isfinite(row).all():
        raise DataError(f"row {number}: {', '.join(names)} must hold at least one step, and numbers only")
    return row.reshape(len(row), -1) if row.ndim > 1 else row[None]


OPERATIONS: Mapping[str, Callable[[dict[str, Any], Step], None]] = {
    "shape": _shape,
    "channels": _channels,
    "scale": _scale,
    "cast": _cast,
    "columns": _columns,
    "sequence": _sequence,
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
