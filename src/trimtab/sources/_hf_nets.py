"""Builds nets of the transformers library from their configuration alone: what a worker needs to load one.

The configuration may come from anybody's folder, so it is data and nothing more: only the library's own model classes
are built, and a setting that would bring in code is refused.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from trimtab.errors import Refused, UnsafeFile
from trimtab.fit.halves import Halves

CODE = frozenset({"auto_map", "custom_pipelines", "trust_remote_code", "use_kernels", "attn_implementation"})
"""Settings that bring in code; the last may name a repository of compiled kernels."""
FAR = -10_000.0
"""Added to the attention of padding; exp(-10000) is 0 in float32."""
PADDED = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert", "mpnet", "ernie"})
"""Models that take a mask [N, 1, 1, T] as it is; others get [N, T] and make their own of it."""
IN_A_ROW = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie"})
"""Models whose `encoder.layer` runs one after the other on states and such a mask."""


def encoder(config: Mapping[str, Any], classes: int, pooling: str = "mean") -> nn.Module:
    """Return an encoder with a linear head on the mean of the text's last states, or on the `first` one."""
    return Encoder(transformers.AutoModel.from_config(_read(config), **without_pooler(config)), classes, pooling)


def classifier(config: Mapping[str, Any], order: Sequence[int]) -> nn.Module:
    """Return the library's own sequence classifier; its class order[i] becomes class i."""
    read = _read({**config, "num_labels": len(order)})
    return Classifier(transformers.AutoModelForSequenceClassification.from_config(read), order)


def image(config: Mapping[str, Any], order: Sequence[int]) -> nn.Module:
    """Return the library's own image classifier; its class order[i] becomes class i."""
    read = _read({**config, "num_labels": len(order)})
    return Image(transformers.AutoModelForImageClassification.from_config(read), order)


BUILDERS: Mapping[str, Callable[..., nn.Module]] = {each.__name__: each for each in (encoder, classifier, image)}


def without_pooler(config: Mapping[str, Any]) -> dict[str, bool]:
    """Return the argument that leaves out a pooling layer which only some models have, and nobody here reads."""
    kind = transformers.MODEL_MAPPING[type(_read(config))]
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}


def check_plain(config: Any) -> None:
    """Raise UnsafeFile where a configuration, or one inside it, would bring in code."""
    if not isinstance(config, Mapping):
        return
    for key, value in config.items():
        if str(key).lstrip("_") in CODE:
            raise UnsafeFile(f"its configuration says {key}={str(value)[:80]!r}, which may run code that is not here")
        check_plain(value)


def _read(config: Mapping[str, Any]) -> Any:
    check_plain(config)
    settings = dict(config)
    return transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)


class Masked(nn.Module):
    """A model of texts whose mask is made here, in the form that fusing optimizers know (Devlin et al. 2018's code)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model

    def run(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """Return what the model gives for tokens [N, T] and their mask [N, T]."""
        mask = _far(attention_mask) if self.model.config.model_type in PADDED else attention_mask
        with _plain_when_exported(self.model):
            return self.model(input_ids=input_ids, attention_mask=mask)


class Encoder(Masked):
    """An encoder with a head of our own."""

    def __init__(self, model: Any, classes: int, pooling: str) -> None:
        super().__init__(model)
        self.pooling = pooling
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(model.config.hidden_size, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits [N, classes] of tokens [N, T] and their mask [N, T]."""
        states = self.run(input_ids, attention_mask).last_hidden_state
        return self.head(self.dropout(self.pooled(states, attention_mask)))  # type: ignore[no-any-return]

    def pooled(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Return what the head reads of states [N, T, W]: [N, W]."""
        if self.pooling == "first":
            return states[:, 0]
        weight = attention_mask.unsqueeze(2).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1)

    def places(self) -> int:
        """Return the number of layers; raises Refused where it cannot be told how they follow each other."""
        if self.model.config.model_type not in IN_A_ROW:
            raise Refused(f"a {self.model.config.model_type} cannot be cut in two; {', '.join(sorted(IN_A_ROW))} can")
        return len(self.model.encoder.layer)

    def halves(self, after: int, inputs: Sequence[str]) -> Halves:
        """Return the layers up to `after` and those behind it; see `trimtab.fit.halves`."""
        below, above = copy.deepcopy(self), copy.deepcopy(self)
        below.model.encoder.layer = below.model.encoder.layer[:after]
        above.model.encoder.layer = above.model.encoder.layer[after:]
        del below.head, above.model.embeddings
        return Halves(Below(below), Above(above), tuple(inputs[1:]))


class Below(nn.Module):
    """The first layers of an encoder."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return their states pooled [N, W], and as they are [N, T, W]."""
        states = self.encoder.run(input_ids, attention_mask).last_hidden_state
        return self.encoder.pooled(states, attention_mask), states


class Above(nn.Module):
    """The later layers of an encoder."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits [N, classes] of states [N, T, W] and the mask [N, T]."""
        whole = self.encoder
        with _plain_when_exported(whole.model):
            states = whole.model.encoder(hidden, attention_mask=_far(attention_mask)).last_hidden_state
        return whole.head(whole.dropout(whole.pooled(states, attention_mask)))  # type: ignore[no-any-return]


class Classifier(Masked):
    """A sequence classifier with its own head."""

    def __init__(self, model: Any, order: Sequence[int]) -> None:
        super().__init__(model)
        self.order = list(order)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits [N, classes] of tokens [N, T] and their mask [N, T], in the task's order."""
        return _ordered(self.run(input_ids, attention_mask).logits, self.order)


class Image(nn.Module):
    """An image classifier with its own head."""

    def __init__(self, model: Any, order: Sequence[int]) -> None:
        super().__init__()
        self.model: Any = model
        self.order = list(order)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, C, H, W]."""
        with _plain_when_exported(self.model):
            return _ordered(self.model(pixel_values=image).logits, self.order)


def _far(attention_mask: Tensor) -> Tensor:
    """Return what is added to attention [N, 1, 1, T]: nothing, or so little that padding does not count."""
    return (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * FAR


def _ordered(logits: Tensor, order: Sequence[int]) -> Tensor:
    return logits if list(order) == sorted(order) else logits[:, list(order)]


@contextmanager
def _plain_when_exported(model: Any) -> Iterator[None]:
    """Compute attention by plain products while the model is exported: fewer operators, and those that fuse."""
    config, name = model.config, "_attn_implementation"
    exporting = torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None
    if not exporting or getattr(config, name, None) != "sdpa":
        yield
        return
    setattr(config, name, "eager")
    try:
        yield
    finally:
        setattr(config, name, "sdpa")
