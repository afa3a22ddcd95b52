"""Torch artefacts as data: a build reference, a list of edits, and weights. No whole-module pickle, ever.

The folder of a part of format "torch":

    torch.json            {"build": {"ref", "arguments", "sha256"}, "edits": [{"by", "edit"}], "tied", "exported"}
    weights.safetensors   the state, tied tensors once
    exported.pt2          only for modules that live in the user's process: what a worker loads instead

`load` calls the build reference, replays the edits (each by the pass that made it) and fills in the weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.errors import CorruptFile, DataError, Refused, UnknownName
from trimtab.fit import code, tensors
from trimtab.fit.exporting import reason
from trimtab.fit.facts import count
from trimtab.fit.order import LOOKED_AT
from trimtab.run.lengths import check_lengths
from trimtab.values.codehash import described
from trimtab.values.model import Part, Signature, TensorSpec
from trimtab.values.registry import registry
from trimtab.values.store import write_atomically
from trimtab.values.task import Batch, TaskView
from trimtab.values.trust import NAMED, TORCH_FILE

WEIGHTS_FILE, EXPORTED_FILE = "weights.safetensors", "exported.pt2"
KEYS = frozenset({"build", "edits", "tied", "extra", "exported"})
PLUMBING = frozenset(vars(nn.Module()))
"""Attributes that every module has."""
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
LIVE: dict[str, nn.Module] = {}
"""Modules that exist only in this process, by key, as they were when registered."""


def register_live(module: nn.Module) -> str:
    """Keep a copy of a module that no file can rebuild; returns its key, the same for the same content and code."""
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    key = tensors.digest(state | _loose(module), repr(module) + _behaviour(module))[:16]
    LIVE[key] = copy.deepcopy(module)
    NAMED.add(f"live:{key}")
    return key


def _loose(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that the state leaves out: buffers that are not saved, and plain attributes."""
    found = dict(module.named_buffers())
    for place, each in module.named_modules():
        found |= {f"{place}.{name}": value for name, value in vars(each).items() if isinstance(value, Tensor)}
    return {name: value for name, value in found.items() if value.layout == torch.strided}


def _behaviour(module: nn.Module) -> str:
    """Return what decides the answers besides tensors: of every part its class's code, its attributes and its hooks."""
    parts = []
    for place, each in module.named_modules():
        own = {name: value for name, value in vars(each).items() if name not in PLUMBING}
        hooks = [list(vars(each).get(name, {}).values()) for name in HOOKS]
        parts.append((place, type(each), own, hooks))
    return described(parts)


def live_build(key: str) -> dict[str, Any]:
    """Return the build description of a registered module."""
    return {"ref": f"live:{key}", "arguments": {}, "sha256": None}


def live(build: Mapping[str, Any]) -> nn.Module:
    """Return a copy of the registered module of a build description."""
    return copy.deepcopy(LIVE[build["ref"].removeprefix("live:")])


def save(  # noqa: PLR0913  (what an artefact is made of)
    module: nn.Module,
    folder: Path,
    signature: Signature,
    build: Mapping[str, Any],
    edits: Sequence[Mapping[str, Any]],
    example: Batch,
) -> Part:
    """Write the module as data into `folder` and return the part, its facts counted on `example`.

    Raises:
        Refused: the module keeps state that is neither a tensor nor JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = module.eval()
    facts = count(module, arguments(example, signature))
    kept, tied, extra = _state(module)
    tensors.write(folder / WEIGHTS_FILE, kept)
    exported = _export(module, folder, signature, example) if build["ref"].startswith("live:") else None
    about = {"build": dict(build), "edits": [dict(edit) for edit in edits]}
    data = about | {"tied": tied, "extra": extra, "exported": exported}
    write_atomically(folder / TORCH_FILE, json.dumps(data))
    return Part("torch", folder, signature, facts)


def load(part: Part, editable: bool = False) -> nn.Module:
    """Rebuild the part's module in eval mode.

    `editable`: the module itself is needed, to train or prune it; an exported program does not do.

    Raises:
        CorruptFile: weights, code or description are not what was written.
        Refused: the module lives in another process and an editable one was asked for.
    """
    data = _read(part)
    ref = data["build"]["ref"]
    if ref.startswith("live:") and ref.removeprefix("live:") not in LIVE:
        return _exported(part, data, editable)
    module = live(data["build"]) if ref.startswith("live:") else code.build(data["build"])
    for edit in data["edits"]:
        module = replay(module, edit)
    _fill(module, part.path / WEIGHTS_FILE, data)
    return module.eval()


def replay(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
    """Repeat one structural change through the pass that made it; raises CorruptFile where that cannot be done."""
    try:
        kind = registry("passes").take(edit["by"])
    except UnknownName as error:
        raise CorruptFile(f"the model was changed by a pass that is not installed here: {error}") from error
    if not hasattr(kind, "rebuild"):
        raise CorruptFile(f"the pass {edit['by']} changes no structure, so it has no edit to repeat")
    try:
        rebuilt: nn.Module = kind.rebuild(module, edit["edit"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFile(f"the recorded edit of {edit['by']} does not fit the module: {error}") from error
    return rebuilt


def edited(part: Part) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the part's build description and its list of edits."""
    data = _read(part)
    return data["build"], data["edits"]


def arguments(batch: Batch, signature: Signature) -> tuple[Tensor, ...]:
    """Return the batch as positional arguments, in the signature's order."""
    return tuple(torch.from_numpy(batch.inputs[spec.name].copy()) for spec in signature.inputs)


def named(result: Any) -> dict[str, Tensor]:
    """Return a result by name: one tensor is `output`, several `output`, `output_1`, ..., a dict has its own keys."""
    if isinstance(result, Tensor):
        return {"output": result}
    if isinstance(result, Mapping):
        return {str(key): value for key, value in result.items() if isinstance(value, Tensor)}
    if isinstance(result, Sequence) and result and all(isinstance(item, Tensor) for item in result):
        return {"output" if i == 0 else f"output_{i}": item for i, item in enumerate(result)}
    raise DataError(f"the module gives a {type(result).__name__}; it must give a tensor, or a tuple or dict of tensors")


def example(view: TaskView, size: int = 2) -> Batch:
    """Return some of the first training examples as a batch: one of mean length, then the shortest, which are padded.

    Raises:
        DataError: the split is empty.
    """
    split = view.split("train")
    if not len(split):
        raise DataError(f"the train split of {view.task.name} is empty")
    first = [split[place] for place in range(min(max(size, LOOKED_AT), len(split)))]
    sizes = [sum(array.size for array in one.inputs.values()) for one in first]
    mean = fmean(sizes)
    usual = min(range(len(first)), key=lambda place: abs(sizes[place] - mean))
    others = sorted((place for place in range(len(first)) if place != usual), key=sizes.__getitem__)
    return view.task.collate([first[place] for place in islice(cycle([usual, *others]), size)])


def signature(module: nn.Module, view: TaskView) -> Signature:
    """Return what the module takes and gives on this task, found by running it once.

    Raises:
        DataError: the module does not take the task's inputs, or not as long ones.
    """
    batch = example(view)
    inputs = tuple(_input_spec(name, batch, view) for name in batch.inputs)
    partial = Signature(inputs, ())
    try:
        with torch.no_grad():
            outputs = named(module.eval()(*arguments(batch, partial)))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        with torch.no_grad():
            check_lengths(lambda batch: module(*arguments(batch, partial)), view, truncates=False)
        shown = ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in inputs)
        raise DataError(f"the model does not take the inputs of {view.task.name} ({shown}): {error}") from error
    times = {batch.inputs[s.name].shape[s.shape.index("time")] for s in inputs if "time" in s.shape}
    return Signature(inputs, tuple(_output_spec(name, value, times) for name, value in outputs.items()))


def _input_spec(name: str, batch: Batch, view: TaskView) -> TensorSpec:
    examples = view.split("train")
    inputs = [examples[i].inputs for i in range(min(LOOKED_AT, len(examples)))]
    shapes = {each[name].shape for each in inputs}
    lengths = "length" in batch.inputs and name != "length"
    timed = name in _ragged(view) or (lengths and all(_spans(each, name) for each in inputs))
    rest = batch.inputs[name].shape[1:]
    varies = [len({shape[axis] for shape in shapes}) > 1 or (timed and axis == 0) for axis in range(len(rest))]
    shape = ["time" if changing else size for size, changing in zip(rest, varies, strict=True)]
    return TensorSpec(name, str(batch.inputs[name].dtype), ("batch", *shape))


def _spans(inputs: Mapping[str, NDArray[Any]], name: str) -> bool:
    """Tell whether an input is as long as its example says, or padded; what is shorter is no sequence."""
    return inputs[name].ndim > 0 and len(inputs[name]) >= int(inputs["length"])


def _ragged(view: TaskView) -> set[str]:
    """Return the inputs that are as long as the longest text of a batch, even if all texts seen were cut off."""
    steps = [step for step in view.task.frontend().get("steps", ()) if step.get("padding") == "longest"]
    return {step[key] for step in steps for key in ("output", "mask")}


def _output_spec(name: str, value: Tensor, times: set[int]) -> TensorSpec:
    rest = ["time" if axis == 0 and value.ndim > 2 and n in times else n for axis, n in enumerate(value.shape[1:])]
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), ("batch", *rest))


def _state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """Return tensors with memory of their own, the names tied to them, and JSON state."""
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    extra: dict[str, Any] = {}
    seen: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            extra[name] = _json(name, value)
            continue
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and key in seen:
            tied[name] = seen[key]
            continue
        seen[key] = name
        storage = value.untyped_storage().data_ptr()
        kept[name] = value.clone() if storage in storages else value
        storages.add(storage)
    return kept, tied, extra


def _json(name: str, value: Any) -> Any:
    try:
        same = json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        same = False
    if not same:
        raise Refused(f"the module keeps {name} as a {type(value).__name__}; state must be tensors or plain JSON")
    return value


def _fill(module: nn.Module, path: Path, data: Mapping[str, Any]) -> None:
    state: dict[str, Any] = dict(tensors.read(path)[0])
    try:
        state |= {name: state[source] for name, source in data["tied"].items()} | data["extra"]
        module.load_state_dict(state, strict=True)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFile(f"{path} does not fit the module that {data['build']['ref']} builds: {error}") from error


def _read(part: Part) -> dict[str, Any]:
    path = part.path / TORCH_FILE
    try:
        data = json.loads(path.read_text())
        missing = KEYS - set(data)
        if not missing:
            _check_types(data)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptFile(f"{path} is not a torch part's description: {error}") from error
    if missing:
        raise CorruptFile(f"{path} lacks {', '.join(sorted(missing))}; make the artefact again")
    return dict(data)


def _check_types(data: Mapping[str, Any]) -> None:
    """Raise TypeError that names the field of `torch.json` whose value is of another type."""
    build, edits, tied = data["build"], data["edits"], data["tied"]
    fits = {
        "build": isinstance(build, dict)
        and isinstance(build.get("ref"), str)
        and isinstance(build.get("arguments"), dict)
        and isinstance(build.get("sha256"), str | None),
        "edits": isinstance(edits, list) and all(map(_is_edit, edits)),
        "tied": isinstance(tied, dict) and all(isinstance(name, str) for name in tied.values()),
        "extra": isinstance(data["extra"], dict),
        "exported": isinstance(data["exported"], str | None),
    }
    for name, whole in fits.items():
        if not whole:
            raise TypeError(f"{name} cannot be {str(data[name])[:80]}")


def _is_edit(edit: Any) -> bool:
    return isinstance(edit, dict) and isinstance(edit.get("by"), str) and isinstance(edit.get("edit"), dict)


def _export(module: nn.Module, folder: Path, signature: Signature, example: Batch) -> str:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple({i: dynamic for i, n in enumerate(s.shape) if isinstance(n, str)} for s in signature.inputs)
    inputs = tuple(torch.cat([argument[:1], argument[:1]]) for argument in arguments(example, signature))
    try:
        program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    except Exception as error:
        raise Refused(
            f"torch.export cannot take this module, so no worker can run it: {reason(error)}; give it as "
            "torch:FILE.py:FUNCTION: then torch itself serves it, and it can be pruned and distilled"
        ) from error
    torch.export.save(program, folder / EXPORTED_FILE)
    return code.file_hash(folder / EXPORTED_FILE)


def _exported(part: Part, data: Mapping[str, Any], editable: bool) -> nn.Module:
    path = part.path / EXPORTED_FILE
    if editable:
        raise Refused("this module lives only in the process that defined it; open it again there, or from a file")
    if not path.is_file() or code.file_hash(path) != data["exported"]:
        raise CorruptFile(f"{path} is missing or not the program that was exported; make the artefact again")
    program: nn.Module = torch.export.load(path).module()
    return program
