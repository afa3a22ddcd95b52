"""Keras 3 models: `keras:model.keras`, as torch modules where all layers have one, else through Keras's ONNX export.

The file is data: it is opened by Keras with `safe_mode`, in a process of its own, and only after every class that it
names is seen to be Keras's own: a file with Lambda layers or custom classes is refused, and so is the older .h5 format,
in which code can hide. Torch modules get the weights, and their answers are compared with Keras's on real inputs.

Images: Keras models take [H, W, C]. Where the task gives [C, H, W], as ours do, the model is turned to take that.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trimtab.errors import CorruptFile, DataError, Refused, UnsafeFile
from trimtab.fit import code
from trimtab.fit import module as artefact
from trimtab.maths.gap import gap
from trimtab.run import onnx_check, onnx_files, onnx_order
from trimtab.sources import Source, _keras_net, _keras_weights
from trimtab.sources._keras_net import Net, Unknown
from trimtab.values.model import Model
from trimtab.values.registry import missing, registry
from trimtab.values.task import TaskView
from trimtab.values.trust import KERAS

SECONDS = 600
TOLERANCE = 1e-4
"""Largest difference from Keras, as a share of the largest answer (at least 1)."""
OWN = ("keras", "builtins")
"""Packages that a file may name."""
KEEPS_ORDER = ("Activation", "Dropout", "ELU", "LeakyReLU", "ReLU", "Rescaling")
"""Layers between Flatten and Dense that treat every number alike."""
UNUSED = ("_initializer", "_regularizer", "_constraint")


BUILDERS = {"net": _keras_net.build}


class Keras(Source):
    """Opens `keras:FILE.keras`: a functional or sequential model of Keras's own layers."""

    def open(self, ref: str, scratch: Path, task: TaskView) -> Model:
        """Return the model as a torch part, or as ONNX with the reason in its notes."""
        path = _checked(ref)
        with TemporaryDirectory() as folder:
            room = Path(folder)
            told = _read(path, room, task)
            try:
                return self._native(ref, room, told, scratch, task)
            except Unknown as unknown:
                reason = str(unknown)
            _read(path, room, task, "onnx")
            return _through_onnx(ref, room, told, scratch, task, reason)

    def fingerprint(self, ref: str) -> str:
        """Return a hash of the file and of the code that translates it."""
        files = (_path(ref), Path(__file__), Path(_keras_net.__file__), Path(_keras_weights.__file__))
        return hashlib.sha256("".join(code.file_hash(file) for file in files).encode()).hexdigest()

    def _native(self, ref: str, room: Path, told: Mapping[str, Any], scratch: Path, task: TaskView) -> Model:
        plan = plan_of(json.loads((room / "config.json").read_text()), told["turned"], task)
        net = _keras_net.build(plan)
        _keras_weights.fill(net, plan, _arrays(room / "weights.npz"))
        worst = _difference(net.eval(), room)
        notes: dict[str, Any] = {"format": "torch", "max_difference": worst}
        if task.task.objective == "cross_entropy" and _drop_softmax(plan):
            notes["softmax"] = "left off: the loss takes the numbers before it, and the order of classes is the same"
        trimmed = _keras_net.build(plan)
        trimmed.load_state_dict(net.state_dict())
        build = {"ref": f"{KERAS}:net", "arguments": {"plan": plan}, "sha256": None}
        part = artefact.save(
            trimmed, scratch / "main", artefact.signature(trimmed, task), build, (), artefact.example(task)
        )
        return Model({"main": part}, frontend=task.task.frontend(), lineage=(f"keras:{ref}",), notes={"keras": notes})


def _path(ref: str) -> Path:
    path = Path(ref).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {ref}; keras: takes the path of a .keras file")
    return path


def _checked(ref: str) -> Path:
    """Return the file's path if it names nothing but Keras's own classes."""
    path = _path(ref)
    if path.suffix != ".keras":
        raise UnsafeFile(
            f"{path} is no .keras file; older formats can carry code: save it where you trust it, "
            "with model.save('model.keras')"
        )
    try:
        with zipfile.ZipFile(path) as file:
            config = json.loads(file.read("config.json"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} is not a whole .keras file ({error}); save it again") from error
    for named in _classes(config):
        if named["class_name"] == "Lambda":
            raise UnsafeFile(f"{path} has a Lambda layer, whose code would run; write it as one of Keras's own layers")
        place = str(named.get("module") or named.get("registered_name") or "keras")
        if (named.get("module", "") is not None and place.partition(".")[0] not in OWN) or ">" in place:
            raise UnsafeFile(
                f"{path} uses {named['class_name']} ({place}), which is not Keras's own; export it where you "
                "trust it, with model.export('model.onnx', format='onnx'), and open that with onnx:model.onnx"
            )
    return path


def _classes(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of the configuration that names a class."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for value in config.values():
            yield from _classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _classes(value)


def _read(path: Path, room: Path, task: TaskView, *more: str) -> dict[str, Any]:
    """Have Keras read the file into `room`; raises what it says as an error of ours."""
    np.savez(room / "example.npz", allow_pickle=False, **artefact.example(task).inputs)
    settings = {"KERAS_BACKEND": "torch", "KERAS_HOME": str(room), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "trimtab.sources._keras_reader", str(path.resolve()), str(room), *more]
    try:
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        told: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise CorruptFile(f"Keras cannot open {path}: {error}") from error
    if "missing" in told:
        raise missing(ModuleNotFoundError(name=told["missing"]), "sources/keras")
    if "misfit" in told:
        raise DataError(f"{path} does not fit {task.task.name}: {told['misfit']}")
    if "error" in told:
        first = str(told["error"]).strip().partition("\n")[0]
        raise Refused(f"Keras cannot run {path} on {task.task.name}: {first}")
    return told


def _arrays(path: Path) -> dict[str, list[NDArray[Any]]]:
    found: dict[str, list[NDArray[Any]]] = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            found.setdefault(name.rpartition("/")[0], []).append(file[name])
    return found


def plan_of(config: Mapping[str, Any] | None, turned: list[bool], task: TaskView) -> dict[str, Any]:
    """Return the plan of a graph's configuration (`trimtab.sources._keras_net`); raises Unknown."""
    if config is None:
        raise Unknown("a model that is neither functional nor sequential")
    layers = config["layers"]
    shapes = {layer["name"]: layer["config"]["batch_shape"] for layer in layers if layer["class_name"] == "InputLayer"}
    inputs, outputs = _names(config["input_layers"]), _names(config["output_layers"])
    steps = [_step(layer) for layer in layers if layer["class_name"] != "InputLayer"]
    for name, is_turned in zip(inputs, turned, strict=True):
        if len(shapes[name]) == 4 and not is_turned:
            steps = _behind(steps, name, shapes[name])
    _put_in_order(steps, outputs)
    return {"inputs": inputs, "outputs": outputs, "steps": steps}


def _names(places: Any) -> list[str]:
    """Return the layers' names of `[name, 0, 0]`, or of a list or dict of such."""
    if isinstance(places, dict):
        return _names(list(places.values()))
    listed = [places] if places and isinstance(places[0], str) else places
    return [str(place[0]) for place in listed]


def _step(layer: Mapping[str, Any]) -> dict[str, Any]:
    name, kind, nodes = layer["name"], layer["class_name"], layer["inbound_nodes"]
    if len(nodes) != 1:
        raise Unknown(f"{kind} ({name}), which is used {len(nodes)} times")
    given = nodes[0]["args"]
    tensors = given[0] if len(given) == 1 and isinstance(given[0], list) else given
    if any(nodes[0]["kwargs"].values()) or not all(isinstance(t, dict) and "config" in t for t in tensors):
        raise Unknown(f"{kind} ({name}) with a mask or constants")
    histories = [tensor["config"]["keras_history"] for tensor in tensors]
    return {
        "name": name,
        "kind": kind,
        "config": _kept(layer["config"]),
        "inputs": [history[0] for history in histories],
        "shapes": [tensor["config"]["shape"] for tensor in tensors],
    }


def _kept(config: Any) -> Any:
    """Leave out what matters only when a layer is made anew."""
    if not isinstance(config, dict):
        return config
    return {k: _kept(v) for k, v in config.items() if not k.endswith(UNUSED) and k not in ("dtype", "build_config")}


def _behind(steps: list[dict[str, Any]], name: str, shape: list[Any]) -> list[dict[str, Any]]:
    """Put the step that turns an input [H, W, C] into the inside's order before everything else."""
    turned = f"{name}_turned"
    first = {"name": turned, "kind": "Permuted", "config": {"axes": [3, 1, 2]}, "inputs": [name], "shapes": [shape]}
    return [first, *({**s, "inputs": [turned if i == name else i for i in s["inputs"]]} for s in steps)]


def _put_in_order(steps: list[dict[str, Any]], outputs: list[str]) -> None:
    """Tell each dense layer behind a flattened image in which order its inputs come; raises Unknown elsewhere."""
    orders: dict[str, list[int]] = {}
    for step in steps:
        order = next((orders[name] for name in step["inputs"] if name in orders), None)
        if step["kind"] == "Flatten" and len(step["shapes"][0]) == 4:
            orders[step["name"]] = step["shapes"][0][1:]
        elif order and step["kind"] == "Dense":
            step["config"]["order"] = order
        elif order and step["kind"] in KEEPS_ORDER:
            orders[step["name"]] = order
        elif order:
            raise Unknown(f"{step['kind']} ({step['name']}) behind a flattened image")
        if step["name"] in outputs and step["name"] in orders:
            raise Unknown("a flattened image as the answer")


def _drop_softmax(plan: dict[str, Any]) -> bool:
    """Take the softmax off the end of the plan; return whether there was one."""
    last = next(step for step in plan["steps"] if step["name"] == plan["outputs"][0])
    if last["kind"] == "Softmax":
        last.update(kind="Activation", config={"activation": "linear"})
        return True
    if last["config"].get("activation") != "softmax":
        return False
    last["config"]["activation"] = "linear"
    return True


def _difference(net: Net, room: Path) -> float:
    """Return the greatest absolute difference from Keras's answers; raises Unknown where it is beyond the tolerance."""
    with np.load(room / "example.npz", allow_pickle=False) as given, np.load(room / "answer.npz") as wanted:
        inputs = [torch.from_numpy(given[name]) for name in given.files]
        expected = [wanted[name] for name in wanted.files]
    try:
        with torch.no_grad():
            found = [answer.numpy() for answer in artefact.named(net(*inputs)).values()]
    except (RuntimeError, TypeError, ValueError) as error:
        raise Unknown(f"a graph that torch runs otherwise ({str(error).partition(chr(10))[0]})") from error
    return _largest(found, expected)


def _largest(found: Iterable[NDArray[Any]], expected: Iterable[NDArray[Any]]) -> float:
    """Return the greatest absolute difference; raises Unknown where it is beyond the tolerance, or no number."""
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape:
            raise Unknown(f"answers of shape {list(theirs.shape)}, here {list(ours.shape)}")
        difference, largest = gap(ours, theirs)
        if not difference <= TOLERANCE * max(1.0, largest):
            raise Unknown(f"answers that differ from its own by {difference:.3g}")
        worst = max(worst, difference)
    return worst


def _through_onnx(  # noqa: PLR0913  (what was found out before)
    ref: str, room: Path, told: Mapping[str, Any], scratch: Path, task: TaskView, reason: str
) -> Model:
    """Open Keras's own export as `onnx:FILE` is opened, its images turned; refused where it answers otherwise."""
    onnx_order.channels_first(room / "model.onnx", told["turned"])
    opened: Model = registry("sources").take("onnx")().open(str(room / "model.onnx"), scratch, task)
    session = onnx_check.session(onnx_files.load(opened.main).SerializeToString())
    with np.load(room / "example.npz", allow_pickle=False) as given, np.load(room / "answer.npz") as wanted:
        found = session.run(None, {value.name: given[value.name] for value in session.get_inputs()})
        try:
            _largest(found, [wanted[name] for name in wanted.files])
        except Unknown as error:
            raise Refused(f"{ref}: there is no torch module for {reason}, and Keras's export gives {error}") from error
    note = f"no torch module for {reason}; exported by Keras to ONNX, where training and pruning do not apply"
    return Model(
        opened.parts,
        frontend=opened.frontend,
        lineage=(f"keras:{ref}",),
        notes={**opened.notes, "keras": {"format": "onnx", "reason": note}},
    )
