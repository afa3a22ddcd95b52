"""Small nets of the usual kinds, made for the task at hand: mlp, vgg, resnet, lstm, gru, transformer.

`zoo:resnet`, or with sizes: `zoo:resnet(width=16, depth=2)`. Each builder is fully described by its JSON arguments;
input shapes and the number of classes come from the task. Weights are random, from `seed`: a recipe trains them.

Two facts of physics in these files: a residual net's gradient reaches early layers through the sum unchanged (He et al.
2016, arXiv 1512.03385); recurrent nets and encoders read only the valid steps of a padded sequence, through a mask.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.errors import DataError, RecipeError, UnknownName, suggest
from trimtab.fit import code
from trimtab.fit import module as artefact
from trimtab.sources import Source
from trimtab.values.model import Model
from trimtab.values.notation import Step
from trimtab.values.task import Split, TaskView
from trimtab.values.trust import ZOO


def mlp(shape: Sequence[int], classes: int, width: int = 256, depth: int = 2) -> nn.Module:
    """Return a multilayer perceptron: `depth` hidden layers of `width`, on any input of fixed shape."""
    sizes = [math.prod(shape)] + [width] * depth
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))


def vgg(shape: Sequence[int], classes: int, width: int = 32, depth: int = 2) -> nn.Module:
    """Return a VGG-style net on [C, H, W]: three stages of `depth` 3x3 convolutions, width x 1, 2, 4."""
    channels = _image(shape)
    layers: list[nn.Module] = []
    for stage, size in enumerate((width, 2 * width, 4 * width)):
        layers += [nn.MaxPool2d(2)] if stage else []
        for _ in range(depth):
            layers += [*_convolution(channels, size), nn.ReLU()]
            channels = size
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet(shape: Sequence[int], classes: int, width: int = 48, depth: int = 1) -> nn.Module:
    """Return a residual net for small images [C, H, W]: three stages of `depth` blocks, width x 1, 2, 4.

    The first convolution halves images of 24 pixels and more: half the work, and no loss seen on handwritten digits.
    """
    channels = width
    layers = [*_convolution(_image(shape), width, 3, 2 if min(shape[1:]) >= 24 else 1), nn.ReLU()]
    for stage, size in enumerate((width, 2 * width, 4 * width)):
        for block in range(depth):
            layers.append(Residual(channels, size, stride=2 if stage and block == 0 else 1))
            channels = size
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def lstm(shape: Sequence[int], classes: int, width: int = 128, depth: int = 1, vocabulary: int = 0) -> nn.Module:
    """Return an LSTM classifier of sequences [T, D], or of tokens [T] where `vocabulary` is given."""
    return Recurrent(nn.LSTM, _width_in(shape, vocabulary), classes, (width, depth, vocabulary))


def gru(shape: Sequence[int], classes: int, width: int = 128, depth: int = 1, vocabulary: int = 0) -> nn.Module:
    """Return a GRU classifier of sequences [T, D], or of tokens [T] where `vocabulary` is given."""
    return Recurrent(nn.GRU, _width_in(shape, vocabulary), classes, (width, depth, vocabulary))


def transformer(shape: Sequence[int], classes: int, width: int = 64, depth: int = 2, vocabulary: int = 0) -> nn.Module:
    """Return a transformer encoder for sequences [T, D], or tokens [T]; heads of 16, sine positions."""
    return Encoder(_width_in(shape, vocabulary), classes, width, depth, vocabulary)


BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    builder.__name__: builder for builder in (mlp, vgg, resnet, lstm, gru, transformer)
}


class Residual(nn.Module):
    """Two convolutions and a short cut around them."""

    def __init__(self, channels: int, size: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(channels, size, 3, stride), nn.ReLU(), *_convolution(size, size))
        same = stride == 1 and channels == size
        self.short = nn.Identity() if same else nn.Sequential(*_convolution(channels, size, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(body(x) + short(x)): [N, size, H / stride, W / stride]."""
        return torch.relu(self.body(x) + self.short(x))


class Recurrent(nn.Module):
    """A unidirectional LSTM or GRU; the state after the last valid step answers."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], features: int, classes: int, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        width, depth, vocabulary = sizes
        self.embed = nn.Embedding(vocabulary, features) if vocabulary else nn.Identity()
        self.core = kind(features, width, depth, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, sequence: Tensor, length: Tensor | None = None) -> Tensor:
        """Return logits [N, classes] of `sequence` [N, T, D] or [N, T]; `length` [N] steps count, or tokens above 0."""
        steps, _ = self.core(self.embed(sequence))
        if length is None and sequence.ndim == 3:
            return self.head(steps[:, -1])  # type: ignore[no-any-return]
        length = (sequence != 0).sum(1) if length is None else length
        last = (length - 1).clamp(min=0).reshape(-1, 1, 1).expand(-1, 1, steps.shape[2])
        return self.head(steps.gather(1, last).squeeze(1))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """A transformer encoder whose answer is read off the mean of the valid steps."""

    def __init__(self, features: int, classes: int, width: int, depth: int, vocabulary: int) -> None:
        super().__init__()
        if width % 16:
            raise ValueError(f"a transformer's width is a multiple of 16, got {width}")
        self.embed = nn.Embedding(vocabulary, width) if vocabulary else nn.Linear(features, width)
        layer = nn.TransformerEncoderLayer(width, width // 16, 4 * width, 0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, sequence: Tensor, length: Tensor | None = None) -> Tensor:
        """Return logits [N, classes] of `sequence` [N, T, D] or [N, T]; without `length`, token 0 is padding."""
        x = self.embed(sequence)
        x = x + _positions(x)
        valid = _valid(sequence, length)
        x = self.norm(self.layers(x, src_key_padding_mask=~valid))
        weight = valid.unsqueeze(2).to(x.dtype)
        return self.head((x * weight).sum(1) / weight.sum(1).clamp(min=1))  # type: ignore[no-any-return]


class Zoo(Source):
    """Opens `zoo:NAME(size=...)`: an untrained net that fits the task."""

    def open(self, ref: str, scratch: Path, task: TaskView) -> Model:
        """Return the net with random weights from `seed` (an argument of the reference, 0 unless given)."""
        step = _parse(ref)
        sizes = {key: value for key, value in step.named.items() if key != "seed"}
        build = {
            "ref": f"{ZOO}:{step.name}",
            "arguments": _fitted(step.name, task) | sizes,
            "sha256": None,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step.named.get("seed", 0))
            net = code.build(build)
        signature = artefact.signature(net, task)
        part = artefact.save(net, scratch / "main", signature, build, (), artefact.example(task))
        return Model({"main": part}, frontend=task.task.frontend(), lineage=(f"zoo:{step}",))

    def fingerprint(self, ref: str) -> str:
        """Return a hash of the reference and of this file."""
        return hashlib.sha256(f"{_parse(ref)} {code.file_hash(Path(__file__))}".encode()).hexdigest()


def _parse(ref: str) -> Step:
    step = Step.parse(ref)
    if step.name not in BUILDERS:
        raise UnknownName("zoo net", step.name, BUILDERS)
    known = {*inspect.signature(BUILDERS[step.name]).parameters, "seed"} - {"shape", "classes"}
    if step.positional:
        raise RecipeError(f"zoo:{step.name} takes named sizes, as in {step.name}({min(known)}=...): {ref}")
    for key, value in step.named.items():
        if key not in known:
            raise RecipeError(f"zoo:{step.name} has no argument {key!r}{suggest(key, known)}")
        if not isinstance(value, int) or value < (key != "seed"):
            raise RecipeError(f"zoo:{step.name}: {key} is a whole number from 1, got {value!r}")
    return step


def _fitted(name: str, view: TaskView) -> dict[str, Any]:
    """Return the builder's arguments that the task decides."""
    batch, inputs = artefact.example(view, 1), view.split("train")[0].inputs
    first = next(iter(inputs))
    wanted = "vocabulary" in inspect.signature(BUILDERS[name]).parameters
    if len(inputs) - ("length" in inputs) != 1 or ("length" in inputs and not wanted):
        raise DataError(
            f"zoo:{name} takes one input, {view.task.name} gives {', '.join(inputs)}; use torch:FILE:callable"
        )
    classes = len(view.task.labels) or int(np.asarray(batch.targets).size)
    fitted: dict[str, Any] = {"shape": [int(size) for size in inputs[first].shape], "classes": classes}
    tokens = wanted and inputs[first].dtype.kind in "iu"
    return fitted | ({"vocabulary": _vocabulary(view, first)} if tokens else {})


def _vocabulary(view: TaskView, name: str) -> int:
    splits: tuple[Split, ...] = ("train", "validation")
    examples = (example for split in splits for example in view.split(split))
    return 1 + max(int(example.inputs[name].max(initial=0)) for example in examples)


def _image(shape: Sequence[int]) -> int:
    if len(shape) != 3:
        raise ValueError(f"it takes an image [C, H, W], the task gives {list(shape)}; mlp takes any shape")
    return shape[0]


def _width_in(shape: Sequence[int], vocabulary: int) -> int:
    if len(shape) != (1 if vocabulary else 2):
        raise ValueError(f"it takes a sequence [T, D] of numbers or [T] of tokens, the task gives {list(shape)}")
    return 64 if vocabulary else shape[1]


def _convolution(channels: int, size: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels, size, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(size)]


def _positions(x: Tensor) -> Tensor:
    """Return sine positions [T, width] (Vaswani et al. 2017, section 3.5), for any T."""
    width = x.shape[2]
    rate = torch.exp(torch.arange(0, width, 2, device=x.device) * (-math.log(10000.0) / width))
    angle = torch.arange(x.shape[1], device=x.device).unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _valid(sequence: Tensor, length: Tensor | None) -> Tensor:
    """Return which steps [N, T] are not padding; the first always counts, or attention would have nothing to read."""
    if length is not None:
        return torch.arange(sequence.shape[1], device=sequence.device) < length.clamp(min=1).unsqueeze(1)
    if sequence.ndim == 2:
        first = torch.arange(sequence.shape[1], device=sequence.device) == 0
        return (sequence != 0) | first
    return torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device)
