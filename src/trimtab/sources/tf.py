"""TensorFlow SavedModels by tf2onnx: `tf:FOLDER` becomes an ONNX part, in an environment that has TensorFlow.

TensorFlow cannot live beside the other libraries: it brings its own builds of protobuf, of OpenMP and of LLVM into the
process, its pins of numpy and protobuf move apart from onnx's, and it is 1.6 GB that nothing else needs. So it gets
an environment of its own under the cache, made on first use; $TRIMTAB_TF_PYTHON names one that is there already.

Where the model takes images [H, W, C] and the task gives [C, H, W], as ours do, the model is turned to take that.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trimtab.errors import CorruptFile, DataError, Refused, UnsafeFile
from trimtab.run import onnx_order
from trimtab.run.environment import interpreter
from trimtab.sources import Source
from trimtab.values.model import Model
from trimtab.values.registry import registry
from trimtab.values.store import file_hash, files_of
from trimtab.values.task import TaskView
from trimtab.values.trust import check_links

PINS = ("tensorflow-cpu==2.21.0", "tf2onnx==1.17.0", "onnx==1.23.2", "numpy==2.4.6", "setuptools<81")
OPSET = 18
SECONDS = 900
CONVERTER = Path(__file__).with_name("_tf_convert.py")


class TensorFlow(Source):
    """Opens `tf:FOLDER`: a SavedModel with the signature `serving_default`."""

    def open(self, ref: str, scratch: Path, task: TaskView) -> Model:
        """Return the model as ONNX."""
        folder = _folder(ref)
        with TemporaryDirectory() as room:
            target = Path(room) / "model.onnx"
            _convert(folder, target)
            given = [array.shape for array in task.split("train")[0].inputs.values()]
            turned = onnx_order.turned(target, given)
            onnx_order.channels_first(target, turned)
            opened: Model = registry("sources").take("onnx")().open(str(target), scratch, task)
        notes = {**opened.notes, "tf": {"by": list(PINS[:2]), "opset": OPSET, "channels_turned": turned}}
        return Model(opened.parts, opened.program, opened.frontend, (f"tf:{ref}",), notes)

    def fingerprint(self, ref: str) -> str:
        """Return a hash of the folder's files and of what converts them."""
        folder = _folder(ref)
        files = [[path.relative_to(folder).as_posix(), file_hash(path)] for path in files_of(folder)]
        return hashlib.sha256(json.dumps([files, PINS, OPSET, file_hash(CONVERTER)]).encode()).hexdigest()


def _folder(ref: str) -> Path:
    folder = Path(ref).expanduser()
    if not (folder / "saved_model.pb").is_file():
        what = "holds no saved_model.pb" if folder.is_dir() else "is no folder"
        raise DataError(f"{ref} {what}; tf: takes the folder of a SavedModel, as model.export(FOLDER) writes it")
    check_links(folder)
    return folder.resolve()


def _convert(folder: Path, target: Path) -> None:
    python = interpreter("tf", PINS, "TensorFlow")
    command = [str(python), "-I", str(CONVERTER), str(folder), str(target), str(OPSET)]
    settings = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        told: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"tf2onnx cannot convert {folder}: {error}") from error
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CorruptFile(f"TensorFlow cannot open {folder}: {last}") from error
    if "unsafe" in told:
        raise UnsafeFile(f"{folder} uses the operator {told['unsafe']}, which reaches beyond the model; it was not run")
    if "error" in told:
        raise Refused(f"tf2onnx cannot convert {folder}: {str(told['error']).strip().partition(chr(10))[0]}")
