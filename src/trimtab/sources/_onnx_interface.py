"""How the inputs and outputs of an ONNX graph meet those of a task: names, constants, state and steps.

    state='stateN:state'     the output `stateN` is the input `state` of the next step
    over='input'             the graph takes one step of that input; the driver walks along axis 1
    fixed='sr=16000'         the input `sr` is always that number, so it becomes a constant

What is obvious need not be said: an input that the task does not give, beside an output of nearly its name and shape,
is state; a graph with state that takes one axis less than the task gives is walked along it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trimtab.errors import DataError, suggest
from trimtab.values.model import Program, Scan, Signature, Single, TensorSpec

Arrays = Mapping[str, NDArray[Any]]
AFFIXES = re.compile(r"(?:^|_)(?:in|out|new|next|prev|past|present|n|0|1)(?=_|$)|(?<=[a-z0-9])N$|(?<=^[a-z])[n01]$")
"""What tells the state that goes in from the state that comes out: `stateN`, `hn`, `c_out`, `past_key`."""


@dataclass(frozen=True)
class Reading:
    """How a reference says that the graph is to be read; each may hold several, as ('h1:h0', 'c1:c0')."""

    state: tuple[str, ...] = ()
    """`OUTPUT:INPUT` of each state that is fed back."""
    over: tuple[str, ...] = ()
    """Inputs walked along axis 1, by the graph's name or the task's."""
    fixed: tuple[str, ...] = ()
    """`INPUT=NUMBER` of each input that is always the same."""


@dataclass(frozen=True)
class Fit:
    """Which names change, what is fed back and walked along, so that the graph serves the task."""

    names: Mapping[str, str]
    """Input of the graph -> input of the task."""
    state: Mapping[str, str]
    """Output -> input, the graph's names."""
    over: tuple[str, ...]
    """Inputs of the task that are walked along."""

    @property
    def program(self) -> Program:
        """What drives the part `main`."""
        return Scan("main", self.over) if self.over else Single()


def fix_inputs(model: onnx.ModelProto, fixed: tuple[str, ...]) -> dict[str, Any]:
    """Turn inputs into constants, in place; return their values.

    Raises:
        DataError: there is no such input, or it does not take that number.
    """
    values = {}
    for text in fixed:
        name, equals, number = (word.strip() for word in text.partition("="))
        known = {value.name: value for value in model.graph.input}
        if not equals or name not in known:
            raise DataError(f"fixed={text!r} is not INPUT=NUMBER{suggest(name, known)}")
        tensor = known[name].type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        try:
            values[name] = ast.literal_eval(number)
            array = np.full([dim.dim_value or 1 for dim in tensor.shape.dim], values[name])
            if not np.array_equal(array, array.astype(dtype)):
                raise ValueError(f"it is {dtype}")
        except (ValueError, SyntaxError, TypeError, OverflowError) as error:
            raise DataError(f"fixed={text!r}: the input {name} does not take {number!r}: {error}") from error
        model.graph.input.remove(known[name])
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(dtype), name))
    return values


def drop_twins(model: onnx.ModelProto) -> list[str]:
    """Leave out outputs that stand twice in the list, in place, which no runtime takes; return their names."""
    seen: set[str] = set()
    twins = []
    for value in list(model.graph.output):
        if value.name in seen:
            twins.append(value.name)
        seen.add(value.name)
    first = {value.name: value for value in reversed(model.graph.output)}
    kept = [first[name] for name in dict.fromkeys(value.name for value in model.graph.output)]
    if twins:
        del model.graph.output[:]
        model.graph.output.extend(kept)
    return twins


def fit(found: Signature, given: Arrays, reading: Reading, task: str) -> Fit:
    """Say how a graph serves a task whose examples are `given`, arrays without a batch axis.

    Raises:
        DataError: the graph takes something that the task does not give, or takes it otherwise.
    """
    state = _said_state(found, reading.state) if reading.state else _obvious_state(found, given)
    plain = [spec for spec in found.inputs if spec.name not in state.values()]
    if len(plain) > len(given):
        raise DataError(f"the model takes {show(found.inputs)}, and {task} gives {_given(given)} only{_advice(plain)}")
    wanted = {spec.name for spec in plain}
    left = (name for name in given if name not in wanted)  # goes by the order
    names = {spec.name: spec.name if spec.name in given else next(left) for spec in plain}
    asked = {names.get(name, name) for name in reading.over}
    if asked - set(names.values()):
        raise DataError(f"over={(asked - set(names.values())).pop()!r} is no input{suggest('', names)}")
    over = []
    for spec in plain:
        name = names[spec.name]
        steps = name in asked or (not asked and bool(state) and given[name].ndim == len(spec.shape))
        over += [name] if steps else []
        why = _misfit(spec, given[name], steps)
        if why:
            raise DataError(
                f"input {spec.name!r} of the model takes {show((spec,))}, but {task} gives "
                f"{_given({name: given[name]})}: {why}"
            )
    return Fit(names, state, tuple(over))


def set_state(model: onnx.ModelProto, state: Mapping[str, str]) -> None:
    """Give each state a batch axis where it has one free axis, and its output the shape of its input, in place."""
    inputs = {value.name: value for value in model.graph.input}
    for output in model.graph.output:
        if output.name not in state:
            continue
        shape = inputs[state[output.name]].type.tensor_type.shape
        free = [dim for dim in shape.dim if not dim.HasField("dim_value")]
        if len(free) == 1:
            free[0].dim_param = "batch"
        output.type.tensor_type.shape.CopyFrom(shape)


def show(specs: tuple[TensorSpec, ...]) -> str:
    """Write tensors as `image float32[batch, 3, 32, 32]`."""
    return ", ".join(f"{spec.name} {spec.dtype}[{', '.join(map(str, spec.shape))}]" for spec in specs)


def _given(arrays: Arrays) -> str:
    return ", ".join(f"{name} {a.dtype}[{', '.join(map(str, ('batch', *a.shape)))}]" for name, a in arrays.items())


def _advice(specs: list[TensorSpec]) -> str:
    scalar = next((spec.name for spec in specs if all(size == 1 for size in spec.shape)), None)
    fixed = f"fixed='{scalar}=NUMBER' makes a constant of an input; " if scalar else ""
    return f"; after the file's name, {fixed}state='OUTPUT:INPUT' feeds an output back: onnx:FILE(...)"


def _said_state(found: Signature, state: tuple[str, ...]) -> dict[str, str]:
    outputs, inputs = ({spec.name: spec for spec in side} for side in (found.outputs, found.inputs))
    pairs = {}
    for text in state:
        output, colon, name = (word.strip() for word in text.partition(":"))
        if not colon or output not in outputs:
            raise DataError(f"state={text!r} is not OUTPUT:INPUT, or has no such output{suggest(output, outputs)}")
        if name not in inputs:
            raise DataError(f"state={text!r}: the model has no input {name!r}{suggest(name, inputs)}")
        if not _alike(outputs[output], inputs[name]):
            raise DataError(f"state={text!r} cannot be: {show((outputs[output],))} is no {show((inputs[name],))}")
        pairs[output] = name
    return pairs


def _obvious_state(found: Signature, given: Arrays) -> dict[str, str]:
    strangers = [spec for spec in found.inputs if spec.name not in given]
    if len(found.inputs) < 2 or not strangers:
        return {}
    pairs = {
        output.name: spec.name
        for spec in strangers
        for output in found.outputs
        if _stem(output.name) == _stem(spec.name) and _alike(output, spec)
    }
    return pairs if len(set(pairs.values())) < len(found.inputs) else {}


def _stem(name: str) -> str:
    return AFFIXES.sub("", name).strip("_").lower()


def _alike(output: TensorSpec, spec: TensorSpec) -> bool:
    sizes = zip(output.shape, spec.shape, strict=False)
    fits = all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in sizes)
    return fits and output.dtype == spec.dtype and len(output.shape) == len(spec.shape)


def _misfit(spec: TensorSpec, array: NDArray[Any], steps: bool) -> str:
    """Say why one example's array, with a batch axis in front, does not fit; empty where it does."""
    if not spec.shape:
        return f"one number for the whole batch is a constant{_advice([spec])}"
    if spec.shape[0] not in (1, "batch"):
        return "its first axis is not a free batch axis; export it with a dynamic batch"
    sizes, wanted = array.shape, spec.shape[1:]
    if steps and array.ndim == len(spec.shape):
        sizes = sizes[1:]
    elif steps:
        sizes, wanted = sizes[1:], wanted[1:]
    if len(wanted) != len(sizes):
        return f"an example has {len(sizes)} axes besides the batch, the model wants {len(wanted)}"
    if mistyped := spec.mistyped(str(array.dtype)):
        return mistyped
    pairs = zip(wanted, sizes, strict=True)
    return "" if all(isinstance(n, str) or n == size for n, size in pairs) else "the sizes differ"
