import numpy as np
import pytest

from trimtab.values.model import Model

SIDE, CHANNELS, KINDS = 12, 4, 10


@pytest.fixture(scope="session")
def cnn(tmp_path_factory, make_onnx):
    """A small convolutional ONNX model, its weights, and inputs."""
    root = tmp_path_factory.mktemp("cnn")
    rng = np.random.default_rng(0)
    shapes = {"K": (CHANNELS, 1, 3, 3), "B": (CHANNELS,), "W": (CHANNELS * SIDE * SIDE, KINDS), "b": (KINDS,)}
    constants = {name: (rng.normal(size=shape) * 0.1).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        ("Conv", "image K B", "conv", {"pads": [1, 1, 1, 1]}),
        ("Relu", "conv", "relu", {}),
        ("Flatten", "relu", "flat", {}),
        ("Gemm", "flat W b", "output", {}),
    ]
    taken = [("image", "float32", ["batch", 1, SIDE, SIDE])]
    part = make_onnx(root / "main", nodes, taken, [("output", "float32", ["batch", KINDS])], constants)
    Model({"main": part}).save(root)
    return root, constants, {"image": rng.normal(size=(5, 1, SIDE, SIDE)).astype(np.float32)}
