"""Writes the folder that every peer is given: the same trained model, calibration data and description for all.

What it holds is told in `kit.py`. The test split is sealed while it is written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.apply import Made, Workshop
from trimtab.errors import Refused
from trimtab.measure import Bench, choose_runtime
from trimtab.recipe import bind, bind_runtime
from trimtab.run.onnx_files import MODEL, check_external
from trimtab.run.program import drive
from trimtab.values.model import Model, Single, program_to_json
from trimtab.values.session import Session
from trimtab.values.store import MANIFEST, copy_folder, write_atomically
from workloads import Workload

META = "meta.json"
EXAMPLES = 300
"""Training examples that the models run on for calibration: what onnxruntime's and NNCF's documents use."""
CALLS = 2
"""Calls kept of each part and example where a program calls a part more than once."""
LIMIT_BYTES = 1 << 28
"""Calibration data of one part ends here."""

Arrays = Mapping[str, NDArray[Any]]


def write(workload: Workload, base: Made, shop: Workshop, folder: Path) -> Path:
    """Write the folder, or leave it as it is where it was written for this very base; return it."""
    plain = _plain(base, shop)
    keys = {"base": base.key, "plain": plain.key}
    if (folder / META).is_file() and keys.items() <= json.loads((folder / META).read_text()).items():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy_folder(base.folder, folder / "base", leave_out={MANIFEST})
    for name, part in plain.model.parts.items():
        if len(check_external(part.path / MODEL)) > 0:
            raise ValueError(f"the part {name} keeps its weights outside its ONNX file; peers are given single files")
        (folder / "parts").mkdir(exist_ok=True)
        shutil.copyfile(part.path / MODEL, folder / "parts" / f"{name}.onnx")
    np.savez(folder / "calibration.npz", **calibration(plain.model, shop))
    with Bench(shop, base, choose_runtime(base, shop)) as bench:
        np.save(folder / "base_rows.npy", bench.base_rows("validation"))
    (folder / "plain.json").write_text(json.dumps(str(plain.folder)))
    write_atomically(folder / META, json.dumps(_meta(workload, plain.model) | keys, indent=1))
    return folder


def _plain(base: Made, shop: Workshop) -> Made:
    """Return the base in float ONNX: exported, or simplified, with its branches decided, as some tools need it."""
    if base.model.format != "onnx":
        return shop.apply(base, bind("onnx").passes, base)
    try:
        return shop.apply(base, bind("simplify").passes, base)
    except Refused:
        return base


def _meta(workload: Workload, plain: Model) -> dict[str, Any]:
    return {
        "workload": workload.id,
        "kind": workload.kind,
        "model": workload.model,
        "task": workload.task,
        "promises": list(workload.promises),
        "seed": 0,
        "program": program_to_json(plain.program),
        "parts": {name: json.loads(json.dumps(asdict(part.signature))) for name, part in plain.parts.items()},
    }


class Recorder:
    """A session that keeps what each part was called with."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.calls: dict[str, list[Arrays]] = {}

    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        """Run the part."""
        self.calls.setdefault(part, []).append({name: np.array(array) for name, array in inputs.items()})
        return self.session.run(inputs, part)


def calibration(plain: Model, shop: Workshop) -> dict[str, NDArray[Any]]:
    """Return what each part is called with on training examples spread over the split: `part/number/input`."""
    train = shop.view.split("train")
    rng = np.random.default_rng(0)
    chosen = sorted(rng.choice(len(train), min(EXAMPLES, len(train)), replace=False))
    session = bind_runtime(f"onnxruntime(threads={shop.machine.cores})").load(plain, shop.machine)
    kept: dict[str, list[Arrays]] = {}
    for index in chosen:
        recorder = Recorder(session)
        drive(plain, recorder, shop.task.collate([train[int(index)]]).inputs)
        for part, calls in recorder.calls.items():
            some = calls if isinstance(plain.program, Single) else [calls[i] for i in _some(rng, len(calls))]
            kept.setdefault(part, []).extend(some)
    return {
        f"{part}/{number:04d}/{name}": array
        for part, calls in kept.items()
        for number, call in enumerate(_within(calls))
        for name, array in call.items()
    }


def _some(rng: np.random.Generator, count: int) -> list[int]:
    return sorted(map(int, rng.choice(count, min(CALLS, count), replace=False)))


def _within(calls: list[Arrays]) -> list[Arrays]:
    sizes = np.cumsum([sum(array.nbytes for array in call.values()) for call in calls])
    return calls[: max(1, int((sizes <= LIMIT_BYTES).sum()))]
