"""Your own ONNX file and arrays without labels: the trimmed model must answer as the file does. Needs no torch.

The same on the command line:

    trimtab trim onnx:net.onnx arrays.npz --promise "agreement >= 0.97" --no-train --within 1m
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import trimtab


def write_files(folder: Path, rows: int = 3000) -> tuple[Path, Path]:
    """Write a net of three wide layers that tells ten clouds of points apart, and points without their answers."""
    chance = np.random.default_rng(0)
    centres = chance.normal(size=(10, 64))
    clouds = chance.integers(0, 10, rows)
    points = (centres[clouds] + 0.6 * chance.normal(size=(rows, 64))).astype(np.float32)
    first, second = (chance.normal(scale=size**-0.5, size=(size, 2048)).astype(np.float32) for size in (64, 2048))
    hidden = np.maximum(np.maximum(points @ first, 0) @ second, 0)
    last = np.linalg.lstsq(hidden, np.eye(10)[clouds], rcond=None)[0].astype(np.float32)
    weights = {"first": first, "second": second, "last": last}
    steps = [("MatMul", "x first", "a"), ("Relu", "a", "b"), ("MatMul", "b second", "c"), ("Relu", "c", "d")]
    graph = helper.make_graph(
        [helper.make_node(kind, taken.split(), [given]) for kind, taken, given in [*steps, ("MatMul", "d last", "y")]],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    np.savez(folder / "arrays.npz", x=points)
    return folder / "net.onnx", folder / "arrays.npz"


def main(folder: Path) -> None:
    """Trim the file, then ask the bundle about the first points."""
    folder.mkdir(parents=True, exist_ok=True)
    net, arrays = write_files(folder)
    result = trimtab.trim(f"onnx:{net}", arrays, "agreement >= 0.97", within="1m", train=False, out=folder / "run")
    print(result.document["sentence"])
    if result.bundle is None:
        sys.exit(3)
    points = np.load(arrays)["x"][:3]
    with trimtab.load(result.bundle) as bundle:
        print("the first points give", bundle.predict({"x": points})["output"].argmax(axis=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
