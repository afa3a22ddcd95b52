"""Small models of several parts and kinds, and tasks for them, that tests of structure share."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from trimtab.fit import module as artefact
from trimtab.fit.code import code_hash
from trimtab.passes import Context
from trimtab.values.machine import Machine
from trimtab.values.model import Greedy, Model, Signature, TensorSpec
from trimtab.values.registry import registry
from trimtab.values.task import Batch, Example, Metric, Task, TaskView

HERE = Machine("here", 1)
IDS, CLASSES, TOKENS = 60, 3, 9

CODE = """
import torch
from torch import nn

class Bert(nn.Module):
    def __init__(self, layers, width):
        super().__init__()
        from transformers import AutoModelForSequenceClassification, BertConfig
        config = BertConfig(vocab_size=60, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
                            intermediate_size=2 * width, max_position_embeddings=32, num_labels=3)
        self.net = AutoModelForSequenceClassification.from_config(config)

    def forward(self, input_ids, attention_mask):
        return self.net(input_ids=input_ids, attention_mask=attention_mask).logits

def bert(layers=3, width=32):
    return Bert(layers, width)

class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.cell = nn.GRUCell(8, width)

    def forward(self, letters):
        hidden = torch.zeros(len(letters), self.cell.hidden_size)
        for step in self.embed(letters).unbind(1):
            hidden = self.cell(step, hidden)
        return hidden

class Decoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.cell = nn.GRUCell(8, width)
        self.head = nn.Linear(width, 9)

    def forward(self, token, hidden):
        hidden = self.cell(self.embed(token), hidden)
        return self.head(hidden), hidden

def encoder(width=24):
    return Encoder(width)

def decoder(width=24):
    return Decoder(width)
"""


class Share(Metric):
    name, better, unit, binary = "accuracy", "higher", "share", True

    def reduce(self, rows, weights):
        return weights @ rows[:, 0] / weights.sum(axis=1)


@dataclass(frozen=True)
class Texts(Task):
    """Ragged token ids below 40 of 60, whose class their sum decides."""

    name = "texts"
    objective = "cross_entropy"
    labels = ("a", "b", "c")

    @property
    def metrics(self):
        return (Share(),)

    def split(self, name):
        return _texts(name)

    def collate(self, examples):
        longest = max(len(example.inputs["input_ids"]) for example in examples)
        pad = lambda array: np.pad(array, (0, longest - len(array)))  # noqa: E731
        inputs = {key: np.stack([pad(e.inputs[key]) for e in examples]) for key in ("input_ids", "attention_mask")}
        return Batch(inputs, np.array([example.target for example in examples]))

    def score(self, outputs, batch):
        return (outputs["output"].argmax(1) == batch.targets).astype(float)[:, None]


@cache
def _texts(name):
    rng = np.random.default_rng(["train", "validation", "test"].index(name))
    ids = [rng.integers(1, 40, rng.integers(3, 12)) for _ in range(40)]
    inputs = [{"input_ids": one, "attention_mask": np.ones_like(one)} for one in ids]
    return [Example(f"{name}{i}", one, int(one["input_ids"].sum() % CLASSES)) for i, one in enumerate(inputs)]


@dataclass(frozen=True)
class Spelling(Task):
    """Letters to be given back in reverse, by a decoder that stops at token 8."""

    name = "spelling"
    objective = "token_nll"

    @property
    def metrics(self):
        return (Share(),)

    def split(self, name):
        rng = np.random.default_rng(["train", "validation", "test"].index(name))
        words = [rng.integers(0, 7, 4) for _ in range(24)]
        return [Example(f"{name}{i}", {"letters": word}, [*word[::-1], 8]) for i, word in enumerate(words)]

    def collate(self, examples):
        letters = np.stack([example.inputs["letters"] for example in examples])
        return Batch({"letters": letters}, np.array([example.target for example in examples]))

    def score(self, outputs, batch):
        return (outputs["tokens"][:, :1] == batch.targets[:, :1]).astype(float)


def texts():
    return TaskView(Texts())


def sequences():
    """Return a task of padded sequences [T, 6] with lengths."""
    rng = np.random.default_rng(0)
    length, targets = rng.integers(2, 8, 36), np.arange(36) % 3
    batches = [([rng.normal(size=(36, 7, 6)).astype(np.float32), length], targets) for _ in range(2)]
    return TaskView(registry("tasks").take("loaders")(batches[:1], batches[1:]))


def code(folder):
    path = Path(folder) / "nets.py"
    if not path.exists():
        path.write_text(CODE)
    return path


def opened(ref, view, folder, file=None):
    """Open `zoo:NET`, or a net of CODE or another file by its name and arguments, with weights of a fixed seed."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    kind, colon, rest = ref.partition(":")
    if colon:
        return registry("sources").take(kind)().open(rest, folder, view)
    return registry("sources").take("torch")().open(f"{file or code(folder)}:{ref}", folder, view)


def speller(folder, width=24):
    """Return a Greedy model of two parts: GRU cells that share a state."""
    folder.mkdir(parents=True, exist_ok=True)
    ref, parts = code(folder), {}
    state = TensorSpec("hidden", "float32", ("batch", width))
    sides = {
        "encoder": Signature((TensorSpec("letters", "int64", ("batch", 4)),), (state,)),
        "decoder": Signature(
            (TensorSpec("token", "int64", ("batch",)), state),
            (TensorSpec("logits", "float32", ("batch", TOKENS)), TensorSpec("next", "float32", ("batch", width))),
            {"next": "hidden"},
        ),
    }
    examples = {
        "encoder": Batch({"letters": np.zeros((2, 4), np.int64)}, None),
        "decoder": Batch({"token": np.zeros(2, np.int64), "hidden": np.zeros((2, width), np.float32)}, None),
    }
    for name, signature in sides.items():
        torch.manual_seed(len(name))
        build = {"ref": f"{ref}:{name}", "arguments": {"width": width}, "sha256": code_hash(f"{ref}:{name}")}
        module = artefact.code.build(build)
        parts[name] = artefact.save(module, folder / name, signature, build, (), examples[name])
    return Model(parts, Greedy("encoder", "decoder", 7, 8, 6))


def context(view, folder, model=None, kinds=()):
    """Return a context with the statistics that are asked for."""
    from trimtab.fit.statistics import collect

    found = collect(model, view, kinds, 0) if kinds else {}
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Context(view, Path(folder), HERE, statistics=found)
