"""Keras layers as torch modules of the plain kinds, so that everything that trains, prunes and exports torch applies.

A plan is JSON: the steps of the graph, each with a kind, its Keras configuration, its inputs and their shapes. Images
are [N, C, H, W] inside, whatever the Keras layers say, because torch's kernels and passes count on it; where Keras
flattens [H, W, C], the rows of the dense layer behind are put in the new order. A layer or setting that is not in
`MAKERS` raises `Unknown`: then the model goes through ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Config = Mapping[str, Any]
Shape = Sequence[int | None]


class Unknown(ValueError):
    """A layer, or a setting of one, that has no torch module here; its text names it."""


class Apply(nn.Module):
    """A function without weights as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Tensor) -> Tensor:
        """Return the function of the inputs."""
        return self.function(*given)


class Sequence1d(nn.Module):
    """A convolution over time on [N, T, D]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, sequence: Tensor) -> Tensor:
        """Return [N, T', filters]."""
        return self.inner(sequence.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """An LSTM or GRU that gives every step or the last."""

    def __init__(self, core: nn.LSTM | nn.GRU, every: bool) -> None:
        super().__init__()
        self.core, self.every = core, every

    def forward(self, sequence: Tensor) -> Tensor:
        """Return [N, T, width], or [N, width] of the last step of each direction."""
        steps, state = self.core(sequence)
        if self.every:
            return steps  # type: ignore[no-any-return]
        last = state[0] if isinstance(state, tuple) else state
        return torch.cat(list(last), dim=1)


class Net(nn.Module):
    """Runs the steps of a plan; inputs go in by place, and those beyond what the model takes are left out."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        super().__init__()
        self.takes, self.gives = list(plan["inputs"]), list(plan["outputs"])
        self.order = [(str(step["name"]), list(step["inputs"])) for step in plan["steps"]]
        self.layers = nn.ModuleDict(
            {key(s["name"]): MAKERS[s["kind"]](s["config"], s["shapes"]) for s in plan["steps"]}
        )

    def forward(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output, or the outputs in their order."""
        values = dict(zip(self.takes, given, strict=False))
        for name, inputs in self.order:
            values[name] = self.layers[key(name)](*(values[i] for i in inputs))
        found = tuple(values[name] for name in self.gives)
        return found if len(found) > 1 else found[0]


def build(plan: Mapping[str, Any]) -> Net:
    """Return the net of a plan, its weights random; raises Unknown."""
    for step in plan["steps"]:
        if step["kind"] not in MAKERS:
            raise Unknown(f"{step['kind']} ({step['name']})")
    return Net(plan)


def key(name: str) -> str:
    """Return a name that torch takes for a module."""
    return "".join(char if char.isalnum() else "_" for char in name)


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
}


def activation(config: Config, dims: int) -> nn.Module:
    """Return the activation of a layer whose output has `dims` axes."""
    name = config.get("activation") or "linear"
    if name == "softmax":
        return nn.Softmax(1 if dims == 4 else -1)
    if name not in ACTIVATIONS:
        raise Unknown(f"activation {name}")
    return ACTIVATIONS[name]()


def _with_activation(layers: list[nn.Module], config: Config, dims: int) -> nn.Sequential:
    found = activation(config, dims)
    return nn.Sequential(*layers, *([] if isinstance(found, nn.Identity) else [found]))


def need(good: bool, what: str) -> None:
    """Raise Unknown that names what there is no torch module for, unless it is good."""
    if not good:
        raise Unknown(what)


def pads(config: Config, sizes: Sequence[int | None], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """Return (before, after) for each axis: Keras's `same` puts the odd one after, and depends on size and stride."""
    if config["padding"] == "valid":
        return [(0, 0)] * len(kernel)
    need(config["padding"] == "same", f"padding {config['padding']}")
    found = []
    dilations = config.get("dilation_rate", 1)
    for axis, size in enumerate(kernel):
        stride, dilation = _at(config["strides"], axis), _at(dilations, axis)
        span, known = (size - 1) * dilation + 1, sizes[axis]
        need(known is not None or stride == 1, "padding 'same' with strides and a free size")
        total = span - 1 if known is None else max(0, (-(-known // stride) - 1) * stride + span - known)
        found.append((total // 2, total - total // 2))
    return found


def _at(value: Any, axis: int) -> int:
    return int(value[axis]) if isinstance(value, list | tuple) else int(value)


def _padded(layer: Callable[[Any], nn.Module], around: list[tuple[int, int]], fill: float = 0.0) -> list[nn.Module]:
    """Return the layer with its own padding where that is the same on both sides, else a padding layer before it."""
    if all(before == after for before, after in around):
        return [layer(tuple(before for before, _ in around))]
    flat = [side for pair in reversed(around) for side in pair]
    pad = nn.ConstantPad2d(flat, fill) if len(around) == 2 else nn.ConstantPad1d(flat, fill)  # type: ignore[arg-type]
    return [pad, layer((0,) * len(around))]


def _list(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _convolution(config: Config, shapes: Sequence[Shape], groups: int = 0, filters: int = 0) -> list[nn.Module]:
    channels = _size(shapes[0][-1])
    kernel = _list(config["kernel_size"])
    kind: type[nn.Conv1d | nn.Conv2d] = nn.Conv1d if len(kernel) == 1 else nn.Conv2d

    def layer(padding: Any) -> nn.Module:
        return kind(
            channels,
            filters or config["filters"],
            kernel,  # type: ignore[arg-type]
            stride=_list(config["strides"]),  # type: ignore[arg-type]
            padding=padding,
            dilation=_list(config.get("dilation_rate", 1)),  # type: ignore[arg-type]
            groups=groups or config.get("groups", 1),
            bias=config["use_bias"],
        )

    return _padded(layer, pads(config, shapes[0][1:-1], kernel))


def _last(config: Config) -> None:
    need(config.get("data_format", "channels_last") == "channels_last", "data_format channels_first")


def conv2d(config: Config, shapes: Sequence[Shape]) -> nn.Module:
    """Conv2D."""
    _last(config)
    return _with_activation(_convolution(config, shapes), config, 4)


def conv1d(config: Config, shapes: Sequence[Shape]) -> nn.Module:
    """Conv1D."""
    _last(config)
    return nn.Sequential(Sequence1d(nn.Sequential(*_convolution(config, shapes))), activation(config, 3))


def depthwise(config: Config, shapes: Sequence[Shape]) -> nn.Module:
    """DepthwiseConv2D: one group a channel."""
    _last(config)
    channels = _size(shapes[0][-1])
    layers = _convolution(config, shapes, channels, channels * config["depth_multiplier"])
    return _with_activation(layers, config, 4)


def separable(config: Config, shapes: Sequence[Shape]) -> nn.Module:
    """SeparableConv2D: a depthwise convolution without bias, then a 1x1 one."""
    _last(config)
    channels = _size(shapes[0][-1])
    wide = channels * config["depth_multiplier"]
    first = _convolution({**config, "use_bias": False}, shapes, channels, wide)
    return _with_activation([*first, nn.Conv2d(wide, config["filters"], 1, bias=config["use_bias"])], config, 4)


def dense(config: Config, shapes: Sequence[Shape]) -> nn.Module:
    """Dense; `order` says how what was flattened came to be in another order."""
    need(len(shapes[0]) != 4, "Dense on images")
    layer = nn.Linear(_size(shapes[0][-1]), config["units"], bias=config["use_bias"])
    return _with_activation([layer], config, len(shapes[0]))


def batch_norm(config: Config, shapes: Sequence[Shape]) -> nn.Module:
    """BatchNormalization over the last axis."""
    dims = len(shapes[0])
    need(config["axis"] in (-1, dims - 1) and dims in (2, 4), f"batch normalization of axis {config['axis']}")
    kind = nn.BatchNorm2d if dims == 4 else nn.BatchNorm1d
    return kind(_size(shapes[0][-1]), config["epsilon"], 1 - config["momentum"])


def layer_norm(config: Config, shapes: Sequence[Shape]) -> nn.Module:
    """LayerNormalization over the last axis."""
    axis = config["axis"][0] if isinstance(config["axis"], list) else config["axis"]
    need(axis in (-1, len(shapes[0]) - 1) and len(shapes[0]) != 4, "layer normalization of this axis")
    return nn.LayerNorm(_size(shapes[0][-1]), config["epsilon"])


def pooling(kind: type[nn.Module]) -> Callable[[Config, Sequence[Shape]], nn.Module]:
    """Return the maker of a pooling layer on images."""

    def make(config: Config, shapes: Sequence[Shape]) -> nn.Module:
        _last(config)
        kernel = _list(config["pool_size"])
        around = pads({**config, "dilation_rate": 1}, shapes[0][1:-1], kernel)
        plain = all(pair == (0, 0) for pair in around)
        need(plain or kind is nn.MaxPool2d, "average pooling with padding")
        strides = _list(config["strides"])
        return nn.Sequential(*_padded(lambda p: kind(kernel, strides, p), around, float("-inf")))

    return make


def reduced(function: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Callable[[Config, Sequence[Shape]], nn.Module]:
    """Return the maker of a global pooling layer."""

    def make(config: Config, shapes: Sequence[Shape]) -> nn.Module:
        _last(config)
        need(not config.get("keepdims"), "keepdims")
        axes = (2, 3) if len(shapes[0]) == 4 else (1,)
        return Apply(lambda x: function(x, axes))

    return make


def merged(function: Callable[..., Tensor]) -> Callable[[Config, Sequence[Shape]], nn.Module]:
    """Return the maker of a layer that merges inputs of one shape."""

    def make(config: Config, shapes: Sequence[Shape]) -> nn.Module:
        need(len({tuple(shape) for shape in shapes}) == 1, "merging inputs of different shapes")
        return Apply(function)

    return make


def concatenate(config: Config, shapes: Sequence[Shape]) -> nn.Module:
    """Concatenate along an axis, counted as Keras does."""
    dims = len(shapes[0])
    axis = config["axis"] % dims
    place = {1: 2, 2: 3, 3: 1}.get(axis, axis) if dims == 4 else axis
    return Apply(lambda *given: torch.cat(given, dim=place))


def embedding(config: Config, shapes: Sequence[Shape]) -> nn.Module:
    """Embedding without a mask."""
    need(not config["mask_zero"], "Embedding with mask_zero")
    return nn.Embedding(config["input_dim"], config["output_dim"])


def recurrent(kind: type[nn.LSTM | nn.GRU], both: bool = False) -> Callable[[Config, Sequence[Shape]], nn.Module]:
    """Return the maker of an LSTM or GRU with the usual activations."""

    def make(config: Config, shapes: Sequence[Shape]) -> nn.Module:
        usual = {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "go_backwards": False}
        usual |= {"return_state": False, "stateful": False, "dropout": 0.0, "recurrent_dropout": 0.0}
        for name, wanted in (usual | ({"reset_after": True} if kind is nn.GRU else {})).items():
            need(config[name] == wanted, f"{kind.__name__} with {name}={config[name]}")
        core = kind(_size(shapes[0][-1]), config["units"], batch_first=True, bidirectional=both)
        return Recurrent(core, config["return_sequences"])

    return make


def bidirectional(config: Config, shapes: Sequence[Shape]) -> nn.Module:
    """Bidirectional around an LSTM or GRU, both directions side by side."""
    inner, other = config["layer"], config["backward_layer"]
    kinds: Mapping[str, type[nn.LSTM | nn.GRU]] = {"LSTM": nn.LSTM, "GRU": nn.GRU}
    need(inner["class_name"] in kinds and config["merge_mode"] == "concat", "Bidirectional of this kind")
    need(other["config"]["units"] == inner["config"]["units"], "Bidirectional with two sizes")
    return recurrent(kinds[inner["class_name"]], both=True)(inner["config"], shapes)


def _plain(make: Callable[[Config], nn.Module]) -> Callable[[Config, Sequence[Shape]], nn.Module]:
    return lambda config, shapes: make(config)


def _softmax(config: Config, shapes: Sequence[Shape]) -> nn.Module:
    need(config["axis"] in (-1, len(shapes[0]) - 1), "softmax of this axis")
    return nn.Softmax(1 if len(shapes[0]) == 4 else -1)


def _relu(config: Config) -> nn.Module:
    slope, most, least = config["negative_slope"], config["max_value"], config["threshold"]
    need(not least and (most is None or (most == 6 and not slope)), f"ReLU with max_value={most}, threshold={least}")
    return nn.ReLU6() if most else nn.LeakyReLU(slope) if slope else nn.ReLU()


def _rescaling(config: Config) -> nn.Module:
    scale, offset = config["scale"], config["offset"]
    need(isinstance(scale, int | float) and isinstance(offset, int | float), "Rescaling by channel")
    return Apply(lambda x: x * scale + offset)


def _zero_padding(config: Config) -> nn.Module:
    (top, bottom), (left, right) = config["padding"]
    return nn.ZeroPad2d((left, right, top, bottom))


def _size(value: int | None) -> int:
    need(value is not None, "a layer whose last axis has no fixed size")
    return int(value or 0)


def _permute(config: Config) -> nn.Module:
    return Apply(lambda x: x.permute(0, *config["axes"]))


Maker = Callable[[Config, Sequence[Shape]], nn.Module]
MAKERS: Mapping[str, Maker] = {
    "Activation": lambda config, shapes: activation(config, len(shapes[0])),
    "Add": merged(lambda *given: torch.stack(given).sum(0) if len(given) > 2 else given[0] + given[1]),
    "AveragePooling2D": pooling(nn.AvgPool2d),
    "BatchNormalization": batch_norm,
    "Bidirectional": bidirectional,
    "Concatenate": concatenate,
    "Conv1D": conv1d,
    "Conv2D": conv2d,
    "Dense": dense,
    "DepthwiseConv2D": depthwise,
    "Dropout": _plain(lambda config: nn.Dropout(config["rate"])),
    "ELU": _plain(lambda config: nn.ELU(config["alpha"])),
    "Embedding": embedding,
    "Flatten": _plain(lambda config: nn.Flatten()),
    "GRU": recurrent(nn.GRU),
    "GlobalAveragePooling1D": reduced(lambda x, axes: x.mean(axes)),
    "GlobalAveragePooling2D": reduced(lambda x, axes: x.mean(axes)),
    "GlobalMaxPooling1D": reduced(lambda x, axes: x.amax(axes)),
    "GlobalMaxPooling2D": reduced(lambda x, axes: x.amax(axes)),
    "LSTM": recurrent(nn.LSTM),
    "LayerNormalization": layer_norm,
    "LeakyReLU": _plain(lambda config: nn.LeakyReLU(config["negative_slope"])),
    "MaxPooling2D": pooling(nn.MaxPool2d),
    "Multiply": merged(lambda first, second: first * second),
    "Permuted": _plain(_permute),
    "ReLU": _plain(_relu),
    "Rescaling": _plain(_rescaling),
    "SeparableConv2D": separable,
    "Softmax": _softmax,
    "SpatialDropout2D": _plain(lambda config: nn.Dropout2d(config["rate"])),
    "ZeroPadding2D": _plain(_zero_padding),
}
"""Keras's layers, and `Permuted`, which turns inputs of the task into the inside's order."""
