"""Run an ONNX model inside a pass, to check what it computes: one thread, no log lines. Serving is a runtime's work."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import onnxruntime


def options() -> Any:
    """Return session options: one thread, silent."""
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 4
    return chosen


def session(model: Path | bytes, optimized: bool = True, chosen: Any = None) -> Any:
    """Return an onnxruntime session; not `optimized`, quantized layers compute in float, as they were meant."""
    chosen = chosen or options()
    if not optimized:
        chosen.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, chosen, providers=["CPUExecutionProvider"])


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what exporters and quantizers print, warn and log to themselves; torch's C++ prints to the descriptors."""
    before = logging.root.manager.disable
    sys.stdout.flush()
    sys.stderr.flush()
    kept, nothing = {number: os.dup(number) for number in (1, 2)}, os.open(os.devnull, os.O_WRONLY)
    logging.disable(logging.CRITICAL)
    for number in kept:
        os.dup2(nothing, number)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
        os.close(nothing)
        logging.disable(before)


@contextmanager
def kept_file() -> Iterator[Path]:
    """Yield a path for a model that is needed for a moment; it and its folder are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
        yield Path(folder) / "model.onnx"
