"""The benchmarks are scripts, not a package: they are imported from their folders."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peers")]


@pytest.fixture
def linear(make_onnx, tmp_path, monkeypatch):
    """The reference of an ONNX net that solves `toy(features=8)`; runs, tabs and cache go into a temporary folder."""
    import tabs
    from trimtab import measure
    from trimtab.run import onnx_files
    from trimtab.tasks.toy import Toy

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tabs, "TABS", tmp_path / "tabs")
    for name, value in (("BLOCK_SECONDS", 0.005), ("QUICK_BLOCKS", 2), ("FINAL_BLOCKS", 3)):
        monkeypatch.setattr(measure, name, value)
    train = Toy(features=8).split("train")
    features = np.stack([example.inputs["features"] for example in train])
    wanted = np.eye(3)[[example.target for example in train]]
    weights = np.linalg.lstsq(features, wanted, rcond=None)[0].astype(np.float32)
    specs = [("features", "float32", ["batch", 8])], [("output", "float32", ["batch", 3])]
    part = make_onnx(tmp_path / "net", [("MatMul", "features w", "output", {})], *specs, {"w": weights})
    return f"onnx:{part.path / onnx_files.MODEL}"
