"""A tiny encoder and decoder, a recurrent step, and tasks for them: training of programs of several calls."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trimtab.fit import code
from trimtab.fit import module as artefact
from trimtab.values.model import Greedy, Model, Scan, Signature, TensorSpec
from trimtab.values.task import Batch, Example, Metric, Task

STOP, START, LETTERS, WIDTH = 0, 1, 5, 24
CODE = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed, self.core = nn.Embedding(7, width), nn.GRU(width, width, batch_first=True)

    def forward(self, letters):
        return self.core(self.embed(letters))[0][:, -1]

class Decoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed, self.core, self.head = nn.Embedding(7, width), nn.GRUCell(width, width), nn.Linear(width, 7)

    def forward(self, token, state):
        state = self.core(self.embed(token), state)
        return {"logits": self.head(state), "next": state}

class Step(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.core, self.head = nn.GRUCell(2, width), nn.Linear(width, 1)

    def forward(self, sequence, state):
        state = self.core(sequence, state)
        return self.head(state).squeeze(1), state

def make(kind, width, seed):
    torch.manual_seed(seed)
    return {"encoder": Encoder, "decoder": Decoder, "step": Step}[kind](width)
"""


class Wrong(Metric):
    name, better, unit = "wrong", "lower", "share"

    def reduce(self, rows, weights):
        return (weights @ rows[:, 0]) / weights.sum(1)


@dataclass(frozen=True)
class Backwards(Task):
    """Words of two or three letters, to be spelt backwards."""

    name = "backwards"
    objective = "token_nll"
    count: int = 120

    @property
    def metrics(self):
        return (Wrong(),)

    def split(self, name):
        random = np.random.default_rng(["train", "validation", "test"].index(name))
        words = [random.integers(2, 2 + LETTERS, random.integers(2, 4)) for _ in range(self.count)]
        return [Example(f"{name}{i}", {"letters": w}, (*w[::-1].tolist(), STOP)) for i, w in enumerate(words)]

    def collate(self, examples):
        size = max(len(e.inputs["letters"]) for e in examples)
        letters, targets = np.zeros((len(examples), size), np.int64), np.full((len(examples), size + 1), -1)
        for i, example in enumerate(examples):
            word = example.inputs["letters"]
            letters[i, size - len(word) :], targets[i, : len(word) + 1] = word, example.target
        return Batch({"letters": letters}, targets)

    def score(self, outputs, batch):
        tokens, size = outputs["tokens"], batch.targets.shape[1]
        tokens = np.pad(tokens, ((0, 0), (0, max(0, size - tokens.shape[1]))))[:, :size]
        return ((tokens != batch.targets) & (batch.targets >= 0)).any(1).astype(float)[:, None]


class Miss(Metric):
    name, better, unit = "mse", "lower", "square"

    def reduce(self, rows, weights):
        return (weights @ rows[:, 0]) / weights.sum(1)


@dataclass(frozen=True)
class Sums(Task):
    """The running sum of the first of two numbers, step by step."""

    name = "sums"
    objective = "mse"

    @property
    def metrics(self):
        return (Miss(),)

    def split(self, name):
        random = np.random.default_rng(["train", "validation", "test"].index(name))
        rows = random.normal(size=(96, 4, 2)).astype(np.float32) / 2
        return [Example(f"{name}{i}", {"sequence": row}, row[:, 0].cumsum()) for i, row in enumerate(rows)]

    def collate(self, examples):
        return Batch(
            {"sequence": np.stack([e.inputs["sequence"] for e in examples])}, np.stack([e.target for e in examples])
        )

    def score(self, outputs, batch):
        return ((outputs["output"] - batch.targets) ** 2).mean(1, keepdims=True)


def part(folder: Path, kind: str, inputs, outputs, state=None, width=WIDTH, seed=0):
    """Write one part whose code lies beside it."""
    folder.mkdir(exist_ok=True)
    file = folder / "nets.py"
    file.write_text(CODE)
    build = {"ref": f"{file}:make", "arguments": {"kind": kind, "width": width, "seed": seed}}
    build["sha256"] = code.code_hash(build["ref"])
    signature = Signature(
        *(tuple(TensorSpec(n, d, tuple(s)) for n, d, s in side) for side in (inputs, outputs)), state or {}
    )
    module = code.build(build)
    shapes = [[{"batch": 2, "time": 3}.get(size, size) for size in spec.shape] for spec in signature.inputs]
    example = {s.name: np.ones(shape, s.dtype) for s, shape in zip(signature.inputs, shapes, strict=True)}
    made = artefact.save(module, folder / kind, signature, build, [], Batch(example, None))
    return replace(made, facts=replace(made.facts, format="torch"))


def greedy(folder: Path, width=WIDTH, seed=0) -> Model:
    """Return an untrained model that spells, of two parts."""
    letters, state = ("letters", "int64", ("batch", "time")), ("state", "float32", ("batch", width))
    encoder = part(folder, "encoder", [letters], [state], width=width, seed=seed)
    given, answer = [("token", "int64", ("batch",)), state], [("logits", "float32", ("batch", 7))]
    answer += [("next", "float32", ("batch", width))]
    decoder = part(folder, "decoder", given, answer, {"next": "state"}, width=width, seed=seed)
    return Model({"encoder": encoder, "decoder": decoder}, Greedy("encoder", "decoder", START, STOP, 6))


def scan(folder: Path) -> Model:
    """Return an untrained model of one recurrent step."""
    given = [("sequence", "float32", ("batch", 2)), ("state", "float32", ("batch", WIDTH))]
    answer = [("output", "float32", ("batch",)), ("next", "float32", ("batch", WIDTH))]
    return Model({"main": part(folder, "step", given, answer, {"next": "state"})}, Scan("main", ("sequence",)))
