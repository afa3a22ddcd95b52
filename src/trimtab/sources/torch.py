"""Opens the user's own torch module: `torch:net.py:build`, `torch:package.module:Net(weights='net.safetensors')`.

The callable makes the module; other arguments than `weights` go to it. Weights are safetensors, or a `.pt` file that
`torch.load(weights_only=True)` takes; a pickled module is refused, because opening it would run whatever is in it.
`torch:live:KEY` is a module registered in this process by `trimtab.fit.module.register_live`.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import CorruptFile, DataError, RecipeError, UnknownName, UnsafeFile, one_line
from trimtab.fit import code, tensors
from trimtab.fit import module as artefact
from trimtab.sources import Source
from trimtab.values.model import Model
from trimtab.values.notation import Step
from trimtab.values.task import TaskView
from trimtab.values.trust import NAMED

REF = re.compile(r"(?P<place>[^:]+):(?P<name>[A-Za-z_]\w*)\s*(?P<arguments>\(.*\))?\Z", re.DOTALL)
INNER = ("state_dict", "model_state_dict", "model_state")
"""Keys under which training scripts put the weights in a larger dictionary."""


class Torch(Source):
    """Opens `torch:FILE_OR_MODULE:callable`, with weights and arguments for the callable where they are given."""

    def open(self, ref: str, scratch: Path, task: TaskView) -> Model:
        """Return the module as data: how to build it, and its weights."""
        if ref.startswith("live:"):
            build, weights = _live(ref), None
            module = artefact.live(build)
        else:
            build, weights = _description(ref)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # weights that are not given are the same at every opening
                module = code.build(build)
        if weights is not None:
            _fill(module, weights)
        signature = artefact.signature(module, task)
        part = artefact.save(module, scratch / "main", signature, build, (), artefact.example(task))
        return Model({"main": part}, frontend=task.task.frontend(), lineage=(f"torch:{ref}",))

    def fingerprint(self, ref: str) -> str:
        """Return a hash of the callable, its arguments, the code file and the weights; not of where they lie."""
        if ref.startswith("live:"):
            return hashlib.sha256(_live(ref)["ref"].encode()).hexdigest()
        build, weights = _description(ref)
        parts = [build["ref"].rpartition(":")[2], build["arguments"], build["sha256"]]
        return hashlib.sha256(repr([*parts, weights and code.file_hash(weights)]).encode()).hexdigest()


def _live(ref: str) -> dict[str, Any]:
    key = ref.removeprefix("live:")
    if key not in artefact.LIVE:
        raise UnknownName("live module", key, artefact.LIVE)
    return artefact.live_build(key)


def _description(ref: str) -> tuple[dict[str, Any], Path | None]:
    """Return the build description and the weights file of a reference."""
    match = REF.match(ref.strip())
    if not match:
        raise RecipeError(f"torch:{ref} is not FILE.py:callable or module:callable, as in torch:net.py:build")
    place, name = match["place"], match["name"]
    step = Step.parse(f"arguments{match['arguments'] or ''}", ref)
    if step.positional:
        raise RecipeError(f"torch:{ref}: arguments have names, as in {name}(width=8)")
    if place.endswith(".py"):
        place = str(_file(Path(place), "Python file"))
    full = f"{place}:{name}"
    code.find(full)
    NAMED.add(full)
    named = dict(step.named)
    weights = named.pop("weights", None)
    build = {"ref": full, "arguments": named, "sha256": code.code_hash(full)}
    return build, None if weights is None else _file(Path(str(weights)), "weights file")


def _file(path: Path, what: str) -> Path:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob(f"*{path.suffix}")) if path.parent.is_dir() else []
        raise DataError(f"there is no {what} {path}" + (f"; that folder has {', '.join(near[:5])}" if near else ""))
    return path.resolve()


def _fill(module: nn.Module, path: Path) -> None:
    state = tensors.read_plain(path)[0] if path.suffix == ".safetensors" else _load_pt(path)
    wanted = module.state_dict()
    lacks, strange = [key for key in wanted if key not in state], [key for key in state if key not in wanted]
    if lacks or strange:
        raise DataError(f"{path} does not fit the module: it lacks {_first(lacks)}; it has besides {_first(strange)}")
    bad = [key for key, value in state.items() if value.shape != wanted[key].shape]
    if bad:
        shapes = f"{list(state[bad[0]].shape)}, the module's {list(wanted[bad[0]].shape)}"
        raise DataError(f"{path} does not fit the module: its {bad[0]} has shape {shapes}")
    module.load_state_dict(state)


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "") if keys else "nothing"


def _load_pt(path: Path) -> Mapping[str, Tensor]:
    how = "convert it where you trust it: safetensors.torch.save_file(module.state_dict(), 'weights.safetensors')"
    if path.suffix not in (".pt", ".pth", ".bin"):
        raise UnsafeFile(f"{path}: weights are .safetensors, or .pt and .pth that hold tensors only; {how}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFile(f"{path} holds pickled objects that could run code, and was not opened; {how}") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise CorruptFile(f"{path} is not a whole torch file ({one_line(error)}); copy it again") from error
    for key in INNER:
        found = found.get(key, found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(f"{path} holds no dictionary of tensors; save module.state_dict()")
    return found
