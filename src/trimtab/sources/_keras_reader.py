"""Opens a .keras file in a process of its own: `python -m trimtab.sources._keras_reader FILE FOLDER [onnx]`.

Keras takes its backend from the environment before it is first imported and keeps settings in the user's home, so it
stays out of the process that trims. FOLDER holds `example.npz`, inputs in the model's order; what comes out beside it
is data: `config.json`, `weights.npz`, `answer.npz`, and `model.onnx` where it is asked for. One line of JSON on stdout.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OLDEST = (3, 12)
"""Before it, files could name functions to call even in safe mode (CVE-2025-1550, 8747, 9905)."""


class Misfit(Exception):
    """The task's inputs are not the model's."""


def graph_of(model: Any) -> Any:
    """Return the graph of a functional or sequential model; None for any other."""
    graph = getattr(model, "_functional", None) or model
    return graph if hasattr(graph, "operations") and hasattr(graph, "get_config") else None


def weights(graph: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays of every layer as `layer/number`, in the order in which the layer lists them."""
    return {f"{layer.name}/{i}": np.asarray(w) for layer in graph.layers for i, w in enumerate(layer.weights)}


def arranged(array: NDArray[Any], shape: tuple[int | None, ...], dtype: str) -> tuple[NDArray[Any], bool]:
    """Return an input as the model wants it, and whether [N, C, H, W] had to be turned into [N, H, W, C]."""
    turned = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
    for candidate in (array, turned):
        if len(shape) == array.ndim and all(n in (None, size) for n, size in zip(shape, candidate.shape, strict=True)):
            return candidate.astype(dtype), candidate is not array
    raise Misfit(f"the model takes {shape_text(shape)}; the task gives {shape_text((None, *array.shape[1:]))}")


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return a shape as text, the free sizes named."""
    return f"[{', '.join('batch' if not i else 'any' if n is None else str(n) for i, n in enumerate(shape))}]"


def main(file: str, folder: Path, onnx: bool) -> dict[str, Any]:
    """Load the file in safe mode, write what it holds, and return what there is to tell."""
    import keras

    if tuple(int(part) for part in keras.__version__.split(".")[:2]) < OLDEST:
        raise RuntimeError(
            f"Keras {keras.__version__} opens files less safely; install {OLDEST[0]}.{OLDEST[1]} or newer"
        )
    model = keras.models.load_model(file, compile=False, safe_mode=True)
    with np.load(folder / "example.npz", allow_pickle=False) as given:
        arrays = [given[name] for name in given.files]
    if len(model.inputs) > len(arrays):
        raise Misfit(f"the model takes {len(model.inputs)} inputs; the task gives {len(arrays)}")
    pairs = zip(arrays, model.inputs, strict=False)
    ready = [arranged(array, tuple(tensor.shape), tensor.dtype) for array, tensor in pairs]
    answers = model([array for array, _ in ready] if len(ready) > 1 else ready[0][0], training=False)
    listed = answers if isinstance(answers, list | tuple) else [answers]
    np.savez(folder / "answer.npz", *(keras.ops.convert_to_numpy(answer) for answer in listed))
    graph = graph_of(model)
    (folder / "config.json").write_text(json.dumps(graph.get_config() if graph is not None else None))
    np.savez(folder / "weights.npz", allow_pickle=False, **(weights(graph) if graph is not None else {}))
    if onnx:
        model.export(folder / "model.onnx", format="onnx", verbose=False)
    return {"turned": [turned for _, turned in ready]}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    stdout = os.dup(1)
    os.dup2(2, 1)  # what Keras prints is no answer
    try:
        told = main(sys.argv[1], Path(sys.argv[2]), "onnx" in sys.argv[3:])
    except ModuleNotFoundError as error:
        told = {"missing": error.name}
    except Misfit as error:
        told = {"misfit": str(error)}
    except Exception as error:
        told = {"error": f"{type(error).__name__}: {error}"}
    os.write(stdout, json.dumps(told).encode())
