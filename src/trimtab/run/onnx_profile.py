"""How long each layer takes in float and in 8 bits, by onnxruntime's own profiler.

Kernels are fused and renamed when a session is made: a layer is found again by a number in its node's name, or, where
convolutions go to the NCHWc layout, by the tensor it gives. Converting activations at the border between float and
8 bits is not a layer's, and not counted. The graphs take turns, so that a busy moment hits them all.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trimtab.run import onnx_check, onnx_precision
from trimtab.run.onnx_inputs import Feed
from trimtab.run.onnx_layers import DYNAMIC, STATIC, Layer, Ranges

Floats = NDArray[np.float64]
RUNS, WARM = 12, 3
NUMBERED = re.compile(r"layer(\d+)_")


def milliseconds(model: onnx.ModelProto, layers: Sequence[Layer], feed: Feed, ranges: Ranges) -> dict[str, Floats]:
    """Return for each layer its milliseconds [float, static int8, dynamic int8], NaN where there is none."""
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    for number, layer in enumerate(layers):
        marked.graph.node[layer.index].name = f"layer{number}_"
    tensors = {name: number for number, layer in enumerate(layers) for name in (_output(model, layer), layer.target)}
    settings = onnx_precision.Settings(masked=True)
    graphs = (marked, onnx_precision.static(marked, ranges, settings), onnx_precision.dynamic(marked, settings))
    with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
        sessions = [_profiling(graph, Path(folder) / str(number)) for number, graph in enumerate(graphs)]
        for session in sessions * (WARM + RUNS):
            session.run(None, feed)
        times = [_times(Path(session.end_profiling()), tensors) for session in sessions]
    return {layer.name: np.array(_row(number, layer, times)) for number, layer in enumerate(layers)}


def _output(model: onnx.ModelProto, layer: Layer) -> str:
    return str(model.graph.node[layer.index].output[0])


def _row(number: int, layer: Layer, times: Sequence[Mapping[int, float]]) -> list[float]:
    kinds = (True, layer.kind in STATIC, layer.kind in DYNAMIC and not layer.why_float)
    return [time.get(number, np.nan) if known else np.nan for time, known in zip(times, kinds, strict=True)]


def _profiling(model: onnx.ModelProto, prefix: Path) -> Any:
    options = onnx_check.options()
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    return onnx_check.session(model.SerializeToString(), chosen=options)


def _times(profile: Path, tensors: Mapping[str, int]) -> dict[int, float]:
    """Return number of a layer -> milliseconds of its kernels: the lower quartile, as other work only ever adds."""
    taken: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(profile.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e3)
    found: dict[int, float] = defaultdict(float)
    for name, durations in taken.items():
        numbered = NUMBERED.search(name)
        number = int(numbered[1]) if numbered else tensors.get(name.removesuffix("_nchwc"), -1)
        if number >= 0:
            found[number] += float(np.quantile(durations[WARM:], 0.25))
    return found
