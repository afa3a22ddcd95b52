"""Reads images at a lower resolution: they are resized in front of the net, which then has fewer places to look at.

A net's work falls with the square of the side. Where images were enlarged to what a pretrained net is used to, or show
large things, little is lost, and a torch net can get used to the rest (resolution is one of the three sizes that Tan
and Le 2019, arXiv 1905.11946, section 3, scale together). Answers as large as the image, such as maps, are brought back
to its size. Sides stay multiples of 32, or of a smaller power of two, which nets halve evenly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from trimtab.errors import Refused, one_line
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.run import onnx_check, onnx_files
from trimtab.run.onnx_resize import resized
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part, Signature, Single, TensorSpec
from trimtab.values.session import Arrays
from trimtab.values.task import Batch

LEAST = 24
"""Pixels of a side below which little is left to see: small images are mostly 28 or 32 pixels wide as they are."""
EVEN, FAR = (32, 16, 8, 4, 2, 1), 0.1
"""Multiples, best first, and how far from what was asked for one may lead."""
LOSS = 0.25
"""Share of the score lost at no resolution at all, before any recovery; it falls with the square of what is gone."""
Size = tuple[int, int]
Known = tuple[Mapping[str, Size], Mapping[str, Size]]
"""The sizes of images as they are, and as they will be."""


@dataclass(frozen=True)
class Downscale(Pass):
    """Reads images at a `scale` of their size, for torch nets and ONNX graphs."""

    scale: float = 0.5
    """Of each side, above 0 and below 1."""

    formats: ClassVar = {"torch": "torch", "onnx": "onnx"}
    stage: ClassVar[Stage] = "structure"
    uses: ClassVar[frozenset[Use]] = frozenset({"train"})

    def __post_init__(self) -> None:
        if not 0 < self.scale < 1:
            raise ValueError(f"scale is above 0 and below 1, got {self.scale}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return half the side for torch nets that can be trained, milder scales for graphs that cannot."""
        if facts.cut or 2 * facts.operations_by.get("conv", 0) <= facts.operations or facts.calls > 1:
            return ()
        return (cls(),) if facts.format == "torch" else (cls(scale=0.8), cls(scale=0.7), cls(scale=0.6))

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect the operations to fall with the square of the scale."""
        left = self.scale**2
        return replace(
            facts,
            operations=round(facts.operations * left),
            operations_by={kind: round(number * left) for kind, number in facts.operations_by.items()},
            quality_loss=min(1.0, facts.quality_loss + LOSS * (1 - self.scale) ** 2),
        )

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one network that reads images."""
        if not isinstance(model.program, Single) or len(model.parts) > 1:
            return "downscale takes models of one network, before they are put together"
        if not any(spec.dtype == "float32" and len(spec.shape) == 4 for spec in model.main.signature.inputs):
            return "downscale takes images, channels first; this model takes none"
        return None

    def apply(self, model: Model, context: Context) -> Model:
        """Put the resize in front; weights stay as they are. Notes say which size became which.

        Raises:
            Refused: the images are too small already, or the model cannot take other sizes.
        """
        context.check_time()
        view = context.task
        batch = view.task.collate([view.split("train")[i] for i in range(2)])
        part, whole = model.main, {}
        for spec in part.signature.inputs:
            if spec.dtype == "float32" and len(spec.shape) == 4:
                height, width = batch.inputs[spec.name].shape[2:]
                whole[spec.name] = (height, width)
        sizes = {name: (self._side(height), self._side(width)) for name, (height, width) in whole.items()}
        if sizes == whole or min(min(size) for size in sizes.values()) < LEAST:
            small = min(min(size) for size in whole.values())
            raise Refused(f"images of {small} pixels a side are too small for a scale of {self.scale}")
        work = _by_torch if model.format == "torch" else _by_onnx
        saved = work(self, model, context, batch, (whole, sizes))
        loss = self.predict(part.facts, context.machine).quality_loss
        facts = replace(saved.facts, cut=part.facts.cut, blocks=part.facts.blocks, quality_loss=loss)
        notes = {name: [list(whole[name]), list(size)] for name, size in sizes.items()}
        name = next(iter(model.parts))
        return model.map_parts({name: replace(saved, facts=facts)}, notes={**model.notes, "downscale": notes})

    @staticmethod
    def rebuild(module: Any, edit: Mapping[str, Any]) -> Any:
        """Put the recorded resize in front of a freshly built module."""
        from trimtab.fit.shrink import Resized

        return Resized(module, edit["sizes"], bool(edit["dense"]))

    def _side(self, side: int) -> int:
        """Return the smaller side: the most even one that is not far from what was asked for.

        >>> Downscale(scale=0.7)._side(320), Downscale()._side(64), Downscale()._side(28)
        (224, 32, 14)
        """
        wanted = self.scale * side
        sides = (max(1, round(wanted / step)) * step for step in EVEN if side % step == 0)
        return min(side, next(one for one in sides if abs(one - wanted) <= max(FAR * wanted, 0.5)))


def _by_torch(settings: Downscale, model: Model, context: Context, batch: Batch, known: Known) -> Part:
    """Return the torch part with the resize as an edit."""
    import torch

    from trimtab.fit import module as artefact
    from trimtab.fit.shrink import Resized

    part, (whole, smaller) = model.main, known
    sizes = [list(smaller[spec.name]) if spec.name in smaller else None for spec in part.signature.inputs]
    given = artefact.arguments(batch, part.signature)
    try:
        with torch.no_grad():
            found = artefact.named(Resized(artefact.load(part, editable=True), sizes, False)(*given))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise Refused(f"smaller images this model cannot take: {one_line(error)}") from error
    dense = bool(_dense(part, {name: value.numpy() for name, value in found.items()}, whole))
    module = Resized(artefact.load(part, editable=True), sizes, dense)
    build, edits = artefact.edited(part)
    edits = [*edits, {"by": settings.name(), "edit": {"sizes": sizes, "dense": dense}}]
    return artefact.save(module, context.scratch / next(iter(model.parts)), part.signature, build, edits, batch)


def _by_onnx(settings: Downscale, model: Model, context: Context, batch: Batch, known: Known) -> Part:
    """Return the ONNX part with the resize in its graph."""
    part, (whole, smaller) = model.main, known
    name, proto = next(iter(model.parts)), onnx_files.load(part)
    given = {spec.name: np.asarray(batch.inputs[spec.name], spec.dtype) for spec in part.signature.inputs}
    names = [spec.name for spec in part.signature.outputs]
    images = {image: (whole[image], smaller[image]) for image in smaller}
    try:
        found = onnx_check.session(resized(proto, images, {}).SerializeToString()).run(names, given)
    except Exception as error:  # onnxruntime's own
        raise Refused(f"smaller images this model cannot take: {one_line(error)}") from error
    new = resized(proto, images, _dense(part, dict(zip(names, found, strict=True)), whole))
    saved = onnx_files.save(new, context.scratch / name, {"batch": 1, **_free(part, whole)})
    return replace(saved, signature=_of_one_size(part.signature, _free(part, whole)))


def _of_one_size(signature: Signature, sizes: Mapping[str, int]) -> Signature:
    """Return the signature with the sides of images as numbers: an answer is brought back to that size alone."""

    def fixed(side: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, shape=tuple(sizes.get(str(size), size) for size in spec.shape)) for spec in side)

    return replace(signature, inputs=fixed(signature.inputs), outputs=fixed(signature.outputs))


def _free(part: Part, whole: Mapping[str, Size]) -> dict[str, int]:
    """Return what the symbolic sides of images stand for."""
    sides = ((spec.shape[2:], whole[spec.name]) for spec in part.signature.inputs if spec.name in whole)
    pairs = ((name, size) for names, sizes in sides for name, size in zip(names, sizes, strict=True))
    return {name: size for name, size in pairs if isinstance(name, str)}


def _dense(part: Part, found: Arrays, whole: Mapping[str, Size]) -> dict[str, Size]:
    """Return the outputs that are as large as the image and must be brought back; refuse other changes of shape."""
    size, dense = next(iter(whole.values())), {}
    for spec in part.signature.outputs:
        shape = np.shape(found[spec.name])[1:]
        wanted = spec.shape[1:]
        fixed = [(w, g) for w, g in zip(wanted, shape, strict=True) if isinstance(w, int)]
        if len(shape) == 3 and (tuple(wanted[1:]) == size or not isinstance(wanted[1], int)):
            dense[spec.name] = size
        elif any(w != g for w, g in fixed):
            raise Refused(f"of smaller images this model gives {spec.name} as {list(shape)}, not {list(wanted)}")
    if len(dense) > 1 or (dense and len(part.signature.outputs) > 1):
        raise Refused("downscale brings back one map the size of the image, and this model gives more")
    return dense
