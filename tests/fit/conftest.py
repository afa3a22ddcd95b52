"""A small real task: scikit-learn's handwritten digits of 8x8 pixels."""

import functools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from trimtab.values.task import Batch, Example, Metric, Task, TaskView


class Accuracy(Metric):
    name, better, unit, binary = "accuracy", "higher", "share", True

    def reduce(self, rows, weights):
        return (weights @ rows[:, 0]) / weights.sum(1)


@functools.cache
def examples():
    images, targets = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1
    return [Example(str(i), {"image": x}, int(y)) for i, (x, y) in enumerate(zip(images, targets, strict=True))]


@dataclass(frozen=True)
class SmallDigits(Task):
    name = "small_digits"
    objective = "cross_entropy"
    labels = tuple("0123456789")
    train: int = 200

    @property
    def metrics(self):
        return (Accuracy(),)

    def split(self, name):
        cuts = {"train": slice(0, self.train), "validation": slice(900, 1200), "test": slice(1200, None)}
        return examples()[cuts[name]]

    def collate(self, chosen):
        images = np.stack([example.inputs["image"] for example in chosen])
        return Batch({"image": images}, np.array([example.target for example in chosen]))

    def score(self, outputs, batch):
        return (outputs["output"].argmax(1) == batch.targets).astype(float)[:, None]

    def augment(self, batch, seed):
        noise = np.random.default_rng(seed).normal(0, 0.1, batch.inputs["image"].shape)
        return replace(batch, inputs={"image": (batch.inputs["image"] + noise).astype(np.float32)})


@pytest.fixture
def view():
    torch.set_num_threads(1)
    return TaskView(SmallDigits())
