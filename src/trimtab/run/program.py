"""The driver of programs: turns parts that run once into answers, so that every runtime only has to run a part.

Decoding loops, recurrent state, key-value caches, cascades and early exits live here once, in numpy, whatever
runtime holds the parts. Which of them a model needs is data: its `Program` and each part's `Signature`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.values.model import Cascade, Greedy, Model, Scan, Signature, Single, TensorSpec
from trimtab.values.session import Session

Values = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]


def drive(model: Model, session: Session, inputs: Values) -> Outputs:
    """Run the model's whole program on a batch; arrays have the batch axis in front.

    Single gives the part's outputs. Scan stacks outputs along axis 1 and adds the last state. Greedy gives `tokens`
    int64[B, L], `lengths` int64[B] (with the stop token) and `log_probability` float32[B, L] of the tokens chosen;
    after its stop a row holds stop tokens of log-probability 0. Cascade gives its output and `stage` int64[B], the
    stage that answered each row. A part whose batch axis is fixed runs in pieces of that size.

    Raises:
        DataError: an input is missing, or has a type or shape that the part does not take.
    """
    program = model.program
    entry = _entry(program)
    size = _fixed_batch(model.parts[entry].signature)
    rows = len(next(iter(inputs.values())))
    if size in (None, rows):
        return _drive(model, session, inputs)
    return _in_pieces(model, session, inputs, size or rows)


def _drive(model: Model, session: Session, inputs: Values) -> Outputs:
    program = model.program
    if isinstance(program, Single):
        return _call(model, session, program.part, inputs)
    if isinstance(program, Scan):
        return _scan(program, model, session, inputs)
    if isinstance(program, Greedy):
        return _greedy(program, model, session, inputs)
    return _cascade(program, model, session, inputs)


def _call(model: Model, session: Session, part: str, values: Values) -> Outputs:
    return session.run(_fitted(model, part, values), part)


def _fitted(model: Model, part: str, values: Values) -> Outputs:
    """Return those of the values that a part takes; state that is not among them starts as zeros."""
    signature = model.parts[part].signature
    fed = set(signature.state.values())
    plain = {spec.name: _fit(part, spec, values) for spec in signature.inputs if spec.name not in fed}
    sizes = _sizes(signature, plain)
    state = {
        spec.name: _fit(part, spec, values) if spec.name in values else _zeros(spec, sizes)
        for spec in signature.inputs
        if spec.name in fed
    }
    return {**plain, **state}


def _fed_back(signature: Signature, outputs: Outputs) -> Outputs:
    """Return the state for the next step, in the type its input takes; beyond that a step is not checked again."""
    dtypes = {spec.name: spec.dtype for spec in signature.inputs}
    return {name: np.asarray(outputs[output], dtype=dtypes[name]) for output, name in signature.state.items()}


def _fit(part: str, spec: TensorSpec, values: Values) -> NDArray[Any]:
    if spec.name not in values:
        raise DataError(f"part {part!r} takes {spec.name}; it got {', '.join(sorted(values)) or 'nothing'}")
    try:
        array = np.asarray(values[spec.name], dtype=spec.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"part {part!r} takes {spec.name} as {spec.dtype}: {error}") from error
    fixed = [(want, got) for want, got in zip(spec.shape, array.shape, strict=False) if isinstance(want, int)]
    if array.ndim != len(spec.shape) or any(want != got for want, got in fixed):
        raise DataError(f"part {part!r} takes {spec.name} {list(spec.shape)}; it got {list(array.shape)}")
    return array


def _sizes(signature: Signature, values: Values) -> dict[str, int]:
    """What the names in the shapes stand for, read off the inputs at hand."""
    return {
        name: size
        for spec in signature.inputs
        if spec.name in values
        for name, size in zip(spec.shape, values[spec.name].shape, strict=True)
        if isinstance(name, str)
    }


def _zeros(spec: TensorSpec, sizes: Mapping[str, int]) -> NDArray[Any]:
    """The first state: a size that no input tells is 0, as the past of a key-value cache is at the start."""
    shape = [sizes.get(size, 0) if isinstance(size, str) else size for size in spec.shape]
    return np.zeros(shape, dtype=spec.dtype)


def _scan(program: Scan, model: Model, session: Session, inputs: Values) -> Outputs:
    signature = model.parts[program.part].signature
    windows = {name: _windows(signature, name, inputs) for name in program.over}
    counts = {len(steps) for steps in windows.values()}
    if len(counts) != 1:
        raise DataError(f"{', '.join(program.over)} have {sorted(counts)} steps; a scan takes as many of each")
    first = {name: steps[0] for name, steps in windows.items()}
    given, gathered = _fitted(model, program.part, {**inputs, **first}), []
    for step in range(counts.pop()):
        given = {**given, **{name: steps[step] for name, steps in windows.items()}}
        outputs = session.run(given, program.part)
        given |= _fed_back(signature, outputs)
        gathered.append({name: array for name, array in outputs.items() if name not in signature.state})
    stacked = {name: np.stack([outputs[name] for outputs in gathered], axis=1) for name in gathered[0]}
    return stacked | {output: given[name] for output, name in signature.state.items()}


def _windows(signature: Signature, name: str, inputs: Values) -> list[NDArray[Any]]:
    """Cut an input along axis 1: into single steps, or where the part keeps that axis, into pieces of its size."""
    spec = next((spec for spec in signature.inputs if spec.name == name), None)
    if spec is None or name not in inputs or inputs[name].ndim < 2 or not inputs[name].shape[1]:
        raise DataError(f"a scan over {name!r} takes an input of that name with steps along axis 1")
    array = np.asarray(inputs[name], dtype=spec.dtype)
    if len(spec.shape) == array.ndim - 1:
        return [array[:, step] for step in range(array.shape[1])]
    width = spec.shape[1] if isinstance(spec.shape[1], int) else 1
    if array.shape[1] % width:
        raise DataError(f"{name} has {array.shape[1]} steps; the part takes pieces of {width}: pad it to a multiple")
    return [array[:, start : start + width] for start in range(0, array.shape[1], width)]


def _greedy(program: Greedy, model: Model, session: Session, inputs: Values) -> Outputs:
    values = dict(inputs)
    if program.encoder is not None:
        values |= _call(model, session, program.encoder, inputs)
    signature = model.parts[program.decoder].signature
    rows = len(next(iter(inputs.values())))
    column = next((len(spec.shape) for spec in signature.inputs if spec.name == program.token), 1) == 2
    token = np.full(rows, program.start, dtype=np.int64)
    given = _fitted(model, program.decoder, {**values, program.token: token[:, None] if column else token})
    done, stopped = np.zeros(rows, dtype=bool), False
    tokens: list[NDArray[np.int64]] = []
    sums: list[NDArray[np.float64]] = []
    while len(tokens) < program.max_length and not (stopped and done.all()):
        outputs = session.run(given, program.decoder)
        logits = outputs[program.logits].reshape(rows, -1, outputs[program.logits].shape[-1])[:, -1]
        token = logits.argmax(axis=1)
        sums.append(_exponents(logits, token))
        token = np.where(done, program.stop, token) if stopped else token
        done |= token == program.stop
        stopped = stopped or bool(done.any())
        tokens.append(token)
        given = {**given, **_fed_back(signature, outputs), program.token: token[:, None] if column else token}
    return _said(program, tokens, sums, rows)


def _said(program: Greedy, tokens: list[NDArray[Any]], sums: list[NDArray[np.float64]], rows: int) -> Outputs:
    """Return the answer of a decoder: rows are cut at their first stop, which counts."""
    if not tokens:
        nothing = np.zeros((rows, 0), np.int64)
        return {"tokens": nothing, "lengths": nothing.sum(axis=1), "log_probability": nothing.astype(np.float32)}
    said = np.stack(tokens, axis=1)
    ended = np.cumsum(said == program.stop, axis=1) - (said == program.stop) > 0
    chances = np.where(ended, 0.0, -np.log(np.stack(sums, axis=1)))
    return {"tokens": said, "lengths": (~ended).sum(axis=1), "log_probability": chances.astype(np.float32)}


def _exponents(logits: NDArray[Any], best: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of exp(logit - best logit) of each row of logits[B, K]: one over the highest softmax probability."""
    top = logits[np.arange(len(best)), best][:, None]
    return np.asarray(np.exp(np.subtract(logits, top, dtype=np.float64)).sum(axis=1))


def _log_top(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log of the highest softmax probability of each row of logits[B, K]."""
    return np.asarray(-np.log(_exponents(logits, logits.argmax(axis=1))))


def confidence(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the highest softmax probability of each row of logits[B, K]: what a cascade's thresholds are about."""
    return np.asarray(np.exp(_log_top(logits)))


def _cascade(program: Cascade, model: Model, session: Session, inputs: Values) -> Outputs:
    if len(program.thresholds) != len(program.stages) - 1:
        raise DataError(
            f"{len(program.stages)} stages take {len(program.stages) - 1} thresholds, one for each but last"
        )
    rows = len(next(iter(inputs.values())))
    asking, values = np.arange(rows), dict(inputs)
    answer: NDArray[Any] | None = None
    stage = np.zeros(rows, dtype=np.int64)
    for number, part in enumerate(program.stages):
        outputs = _call(model, session, part, values)
        logits = outputs[program.output]
        answer = np.empty((rows, *logits.shape[1:]), logits.dtype) if answer is None else answer
        answer[asking], stage[asking] = logits, number
        if number == len(program.thresholds):
            break
        unsure = ~(confidence(logits) >= program.thresholds[number])  # of what is no number nobody is sure
        asking = asking[unsure]
        if not len(asking):
            break
        values = {name: array[unsure] for name, array in (values | outputs).items()}
    return {program.output: np.asarray(answer), "stage": stage}


def _entry(program: object) -> str:
    if isinstance(program, Greedy):
        return program.encoder or program.decoder
    return program.stages[0] if isinstance(program, Cascade) else str(getattr(program, "part", "main"))


def _fixed_batch(signature: Signature) -> int | None:
    fed = set(signature.state.values())
    sizes = {spec.shape[0] for spec in signature.inputs if spec.shape and spec.name not in fed}
    fixed = [size for size in sizes if isinstance(size, int)]
    return fixed[0] if len(fixed) == len(sizes) == 1 else None


def _in_pieces(model: Model, session: Session, inputs: Values, size: int) -> Outputs:
    """Run a part that takes exactly `size` rows; the last piece is filled up by repeating its last row."""
    rows = len(next(iter(inputs.values())))
    gathered: list[Outputs] = []
    for start in range(0, rows, size):
        index = np.minimum(np.arange(start, start + size), rows - 1)
        gathered.append(_drive(model, session, {name: array[index] for name, array in inputs.items()}))
    return {name: _joined([outputs[name] for outputs in gathered])[:rows] for name in gathered[0]}


def _joined(pieces: list[NDArray[Any]]) -> NDArray[Any]:
    """Lay pieces one below the other; a decoder's end at different steps: what then follows is the stop token, or 0."""
    longest = max((piece.shape[1] for piece in pieces if piece.ndim == 2), default=0)
    filled = [
        np.pad(piece, ((0, 0), (0, longest - piece.shape[1])), "edge" if piece.dtype.kind in "iu" else "constant")
        if piece.ndim == 2 and piece.shape[1] < longest
        else piece
        for piece in pieces
    ]
    return np.concatenate(filled)
