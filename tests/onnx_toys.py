"""Small ONNX graphs and the data they are for, as tests of passes over graphs share them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from trimtab.run import onnx_check, onnx_files
from trimtab.values.machine import Machine
from trimtab.values.model import Model
from trimtab.values.task import Batch, Example, Task

SIZE, CLASSES = 8, 10
MODERN = Machine("modern", 2, ("avx2", "avx512_vnni"))
RNG = np.random.default_rng(5)
PROTOTYPES = RNG.normal(size=(CLASSES, 1, SIZE, SIZE)).astype(np.float32)


@dataclass(frozen=True)
class Figures(Task):
    """Ten figures of 1 x 8 x 8 under noise."""

    name = "figures"
    objective = "cross_entropy"
    labels = tuple("0123456789")
    metrics = ()
    spoilt: float = 0.0

    def split(self, name):
        rng = np.random.default_rng(["train", "validation"].index(name))
        classes = rng.integers(0, CLASSES, 200)
        images = PROTOTYPES[classes] + rng.normal(0, 0.8, (200, 1, SIZE, SIZE)).astype(np.float32)
        images[17, 0, 3, 3] += np.float32(self.spoilt)
        return [Example(f"{name}{i}", {"image": x}, c) for i, (x, c) in enumerate(zip(images, classes, strict=True))]

    def collate(self, examples):
        (name,) = examples[0].inputs
        return Batch({name: np.stack([e.inputs[name] for e in examples])}, np.array([e.target for e in examples]))

    def score(self, outputs, batch):
        return (outputs["output"].argmax(1) == batch.targets)[:, None].astype(np.float64)


@dataclass(frozen=True)
class Sequences(Figures):
    """The same figures read row by row."""

    def split(self, name):
        return [replace(e, inputs={"sequence": e.inputs["image"][0]}) for e in super().split(name)]


def random(*shape):
    return (RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def write(folder, nodes, weights, name="image", shape=(1, SIZE, SIZE)):
    graph = helper.make_graph(
        [helper.make_node(op, i.split(), o.split(), **more) for op, i, o, more in nodes],
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return Model({"main": onnx_files.save(model, folder)})


def convolutional(folder):
    """Matched filters: a convolution as large as the image, a 1x1 convolution that passes on, a linear head."""
    nodes = [
        ("Conv", "image filters", "c", {"pads": [1, 1, 1, 1]}),
        ("Relu", "c", "r", {}),
        ("Conv", "r mix", "m", {}),
        ("GlobalMaxPool", "m", "p", {}),
        ("Flatten", "p", "f", {}),
        ("Gemm", "f head", "output", {"transB": 1}),
    ]
    eye = np.eye(CLASSES, dtype=np.float32)
    weights = {"filters": PROTOTYPES / 64, "mix": eye[:, :, None, None] + 0.01 * random(10, 10, 1, 1), "head": eye * 4}
    return write(folder, nodes, weights)


def recurrent(folder, kind):
    gates = {"LSTM": 4, "GRU": 3}[kind]
    nodes = [
        ("Transpose", "sequence", "t", {"perm": [1, 0, 2]}),
        (kind, "t W R", "steps last", {"hidden_size": 16}),
        ("Squeeze", "last zero", "s", {}),
        ("MatMul", "s head", "output", {}),
    ]
    weights = {"W": random(1, gates * 16, SIZE), "R": random(1, gates * 16, 16), "zero": [0], "head": random(16, 10)}
    return write(folder, nodes, weights, "sequence", (SIZE, SIZE))


@dataclass(frozen=True)
class Texts(Figures):
    """Sequences of 3 to 12 token numbers, padded and masked."""

    def split(self, name):
        rng = np.random.default_rng(0)
        return [Example(str(i), {"input_ids": rng.integers(1, 90, rng.integers(3, 13))}, 0) for i in range(40)]

    def collate(self, examples):
        rows = [e.inputs["input_ids"] for e in examples]
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
        return Batch({"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}, np.zeros(len(rows)))


def bert(folder):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.BertConfig(
        vocab_size=90, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=16, initializer_range=0.15, num_labels=CLASSES,
    )  # fmt: skip
    inner = transformers.BertForSequenceClassification(config).eval()

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits

    arguments = tuple(torch.from_numpy(a) for a in Texts().collate(Texts().split("train")[:3]).inputs.values())
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}
    names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["output"]}
    with onnx_check.quietly():
        program = torch.onnx.export(
            Plain(), arguments, dynamo=True, dynamic_shapes=(axes, axes), opset_version=20, verbose=False, **names
        )
    return Model({"main": onnx_files.save(program.model_proto, folder, {"batch": 1, "time": 8})})
