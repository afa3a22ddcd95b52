"""Small models, programs and a toy task that tests of several floors share."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Cascade, Greedy, Model, Part, Scan, Signature, TensorSpec
from trimtab.values.task import Batch, Example, Metric, Task, TaskView

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
sys.path.insert(0, str(Path(__file__).parent))  # for `workbench`
FEATURES, CLASSES, STEP, WIDTH, TOKENS = 5, 3, 4, 6, 7

Folder = Path
Reference = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Program:
    """A model on disk, inputs for it, and what plain numpy says the answer is."""

    folder: Path
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


class _Accuracy(Metric):
    name, better, unit, binary = "accuracy", "higher", "share", True

    def reduce(self, rows, weights):
        return weights @ rows[:, 0] / weights.sum(axis=1)

    def values(self, rows):
        return rows[:, 0]


class _Agreement(Metric):
    name, better, unit, paired = "agreement", "higher", "share", True

    def reduce(self, rows, weights):
        return weights @ (rows[:, 1] == rows[:, 3]) / weights.sum(axis=1)


@dataclass(frozen=True)
class ToyTask(Task):
    """Points whose class is the largest of their first three features; 100 in each split."""

    name = "toy"
    objective = "cross_entropy"
    labels = ("a", "b", "c")

    @property
    def metrics(self):
        return (_Accuracy(), _Agreement())

    def split(self, name):
        rng = np.random.default_rng(["train", "validation", "test"].index(name))
        points = rng.normal(size=(100, FEATURES)).astype(np.float32)
        return [Example(f"{name}{i}", {"features": p}, int(p[:CLASSES].argmax())) for i, p in enumerate(points)]

    def collate(self, examples):
        targets = np.array([e.target for e in examples])
        return Batch({"features": np.stack([e.inputs["features"] for e in examples])}, targets)

    def score(self, outputs, batch):
        chosen = outputs["output"].argmax(axis=1)
        return np.stack([chosen == batch.targets, chosen], axis=1).astype(np.float64)


@pytest.fixture(scope="session")
def toy_view() -> TaskView:
    return TaskView(ToyTask())


@pytest.fixture(scope="session")
def machine() -> Machine:
    """Plain facts: two cores, priced, with no power meter."""
    rates = {"fp32": 160.0, "int8": 640.0}
    return Machine(
        "test",
        2,
        ("sse4_2", "avx2"),
        8.0,
        rates,
        bandwidth_gbs=20.0,
        idle_w=2.0,
        full_w=10.0,
        usd_per_hour=0.1,
    )


@pytest.fixture(scope="session")
def make_null(tmp_path_factory) -> Callable[..., Folder]:
    """make_null(W, b): the folder of a model of one `null` part; by default it solves the toy task."""

    def make(weights: np.ndarray | None = None, bias: np.ndarray | None = None) -> Folder:
        weights = np.eye(FEATURES, CLASSES, dtype=np.float32) if weights is None else weights
        bias = np.zeros(weights.shape[1], weights.dtype) if bias is None else bias
        root = tmp_path_factory.mktemp("null")
        (root / "main").mkdir()
        np.savez(root / "main" / "weights.npz", W=weights, b=bias)
        inputs = (TensorSpec("features", str(weights.dtype), ("batch", weights.shape[0])),)
        outputs = (TensorSpec("output", str(weights.dtype), ("batch", weights.shape[1])),)
        facts = Facts("null", weights.size + bias.size, weights.size, {"linear": 1})
        part = Part("null", root / "main", Signature(inputs, outputs), facts)
        Model({"main": part}).save(root)
        return root

    return make


@pytest.fixture(scope="session")
def make_onnx(tmp_path_factory) -> Callable[..., Part]:
    """make_onnx(folder, nodes, specs in, specs out, constants, state): write one ONNX part."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    def make(folder, nodes, inputs, outputs, constants, state=None) -> Part:
        kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
        described = [[helper.make_tensor_value_info(n, kinds[d], s) for n, d, s in side] for side in (inputs, outputs)]
        stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        made = [helper.make_node(op, takes.split(), gives.split(), **more) for op, takes, gives, more in nodes]
        graph = helper.make_graph(made, "graph", *described, stored)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        checker.check_model(proto)
        folder.mkdir(parents=True)
        save(proto, folder / "model.onnx")
        specs = [tuple(TensorSpec(n, d, tuple(s)) for n, d, s in side) for side in (inputs, outputs)]
        size = sum(value.size for value in constants.values())
        return Part("onnx", folder, Signature(*specs, state or {}), Facts("onnx", size, size, {"linear": len(nodes)}))

    return make


def _random(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="session")
def stateful(tmp_path_factory, make_onnx) -> Program:
    """A recurrent ONNX part that takes one step; its state is fed back along the sequence."""
    root = tmp_path_factory.mktemp("stateful")
    c = _random(1, W=(STEP, WIDTH), U=(WIDTH, WIDTH), V=(WIDTH, CLASSES))
    nodes = [
        ("MatMul", "sequence W", "xw", {}),
        ("MatMul", "h_in U", "hu", {}),
        ("Add", "xw hu", "sum", {}),
        ("Tanh", "sum", "h_out", {}),
        ("MatMul", "h_out V", "output", {}),
    ]
    inputs = [("sequence", "float32", ["batch", STEP]), ("h_in", "float32", ["batch", WIDTH])]
    outputs = [("output", "float32", ["batch", CLASSES]), ("h_out", "float32", ["batch", WIDTH])]
    part = make_onnx(root / "main", nodes, inputs, outputs, c, {"h_out": "h_in"})
    Model({"main": part}, Scan("main", ("sequence",))).save(root)
    given = _random(2, sequence=(3, 8, STEP))
    state, steps = np.zeros((3, WIDTH), np.float32), []
    for step in range(8):
        state = np.tanh(given["sequence"][:, step] @ c["W"] + state @ c["U"])
        steps.append(state @ c["V"])
    return Program(root, given, {"output": np.stack(steps, axis=1), "h_out": state})


@pytest.fixture(scope="session")
def greedy(tmp_path_factory, make_onnx) -> Program:
    """An encoder whose output is the first state of a decoder that picks tokens until token 0, at most 9."""
    root = tmp_path_factory.mktemp("greedy")
    c = _random(36, A=(STEP, WIDTH), E=(TOKENS, WIDTH), U=(WIDTH, WIDTH), V=(WIDTH, TOKENS))
    encode = [("ReduceMean", "letters", "mean", {"axes": [1], "keepdims": 0}), ("MatMul", "mean A", "h_in", {})]
    taken = [("letters", "float32", ["batch", "time", STEP])]
    encoder = make_onnx(root / "encoder", encode, taken, [("h_in", "float32", ["batch", WIDTH])], {"A": c["A"]})
    decode = [
        ("Gather", "E token", "e", {}),
        ("MatMul", "h_in U", "hu", {}),
        ("Add", "e hu", "sum", {}),
        ("Tanh", "sum", "h_out", {}),
        ("MatMul", "h_out V", "logits", {}),
    ]
    taken = [("token", "int64", ["batch"]), ("h_in", "float32", ["batch", WIDTH])]
    given_out = [("logits", "float32", ["batch", TOKENS]), ("h_out", "float32", ["batch", WIDTH])]
    constants = {name: c[name] for name in "EUV"}
    decoder = make_onnx(root / "decoder", decode, taken, given_out, constants, {"h_out": "h_in"})
    Model({"encoder": encoder, "decoder": decoder}, Greedy("encoder", "decoder", 1, 0, 9)).save(root)
    given = _random(6, letters=(16, 5, STEP))
    found = [_decode(row.mean(axis=0) @ c["A"], c) for row in given["letters"]]
    longest = max(len(tokens) for tokens, _ in found)
    expected = {
        "tokens": np.array([tokens + [0] * (longest - len(tokens)) for tokens, _ in found]),
        "lengths": np.array([len(tokens) for tokens, _ in found]),
        "log_probability": np.array([chances + [0.0] * (longest - len(chances)) for _, chances in found], np.float32),
    }
    return Program(root, given, expected)


def _decode(state: np.ndarray, c: dict[str, np.ndarray]) -> tuple[list[int], list[float]]:
    token, tokens, chances = 1, [], []
    while len(tokens) < 9 and token != 0:
        state = np.tanh(c["E"][token] + state @ c["U"])
        chance = _softmax(state @ c["V"])
        token = int(chance.argmax())
        tokens.append(token)
        chances.append(float(np.log(chance.max())))
    return tokens, chances


@pytest.fixture(scope="session")
def cascade(tmp_path_factory, make_onnx) -> Program:
    """A small model that also gives `hidden`, and a large one that takes it for the rows that are unsure."""
    root = tmp_path_factory.mktemp("cascade")
    c = _random(8, S=(FEATURES, WIDTH), T=(WIDTH, CLASSES), L=(FEATURES, WIDTH), M=(WIDTH, CLASSES))
    nodes = [("MatMul", "features S", "s", {}), ("Relu", "s", "hidden", {}), ("MatMul", "hidden T", "output", {})]
    taken = [("features", "float32", ["batch", FEATURES])]
    answer, hidden = ("output", "float32", ["batch", CLASSES]), ("hidden", "float32", ["batch", WIDTH])
    small = make_onnx(root / "small", nodes, taken, [answer, hidden], {n: c[n] for n in "ST"})
    nodes = [
        ("MatMul", "features L", "l", {}),
        ("Add", "l hidden", "sum", {}),
        ("Tanh", "sum", "t", {}),
        ("MatMul", "t M", "output", {}),
    ]
    large = make_onnx(root / "large", nodes, [*taken, hidden], [answer], {n: c[n] for n in "LM"})
    Model({"small": small, "large": large}, Cascade(("small", "large"), (0.8,))).save(root)
    given = _random(9, features=(32, FEATURES))
    first_hidden = np.maximum(given["features"] @ c["S"], 0)
    first = first_hidden @ c["T"]
    second = np.tanh(given["features"] @ c["L"] + first_hidden) @ c["M"]
    unsure = _softmax(first).max(axis=1) < 0.8
    expected = {"output": np.where(unsure[:, None], second, first), "stage": unsure.astype(np.int64)}
    return Program(root, given, expected)
