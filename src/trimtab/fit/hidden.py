"""Groups of hidden units: recurrent layers, what feeds and reads them, and the states that parts of a program hand on.

What shares a state shares its units: an encoder whose last state starts a decoder, a decoder that feeds its state back.
Such layers lose the same units. The levels of a layer of its own only have to stay equally wide, so each loses its own
least useful units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from trimtab.fit import recurrent
from trimtab.fit.channels import Score
from trimtab.fit.readers import Probe, Source
from trimtab.fit.units import Group, Item
from trimtab.values.model import Model
from trimtab.values.task import Batch

Node = tuple[str, str, str]
"""(part, "layer" or "embedding", its name), or (part, "in" or "out", a tensor's name)."""
ROOTS = ("layer", "embedding")


@dataclass
class _Found:
    """What the experiments showed of one node."""

    width: int
    items: dict[int, list[Item]] = field(default_factory=dict)
    """By section."""
    joined: set[Node] = field(default_factory=set)
    reason: str = ""


def groups(model: Model, modules: Mapping[str, nn.Module], met: Mapping[str, Batch], score: Score) -> list[Group]:
    """Return the groups of hidden units of a model's parts; `met` is a real input for each part."""
    survey = _Survey(model)
    for part, module in modules.items():
        if any(isinstance(layer, recurrent.KINDS) for layer in module.modules()):
            survey.part(part, Probe(module, model.parts[part].signature, met[part]))
    return [_group(nodes, survey, score) for nodes in survey.components()]


class _Survey:
    """Nodes that have hidden units, over all parts, and which of them share units."""

    def __init__(self, model: Model) -> None:
        self.model, self.found = model, dict[Node, _Found]()

    def part(self, part: str, probe: Probe) -> None:
        """Look at the recurrent layers of a part, and at the inputs that may be states."""
        for name, layer in probe.recurrent().items():
            found = self.found[part, "layer", name] = _Found(int(layer.hidden_size))  # type: ignore[arg-type]
            found.reason = recurrent.unfit(layer)
            if found.reason:
                continue
            for section in range(recurrent.sections(layer)):
                start = section * found.width
                found.items[section] = [Item(part, name, "hidden", _column(found.width, start))]
                self._readers(part, probe, Source(name, section), found)
        self._embeddings(part, probe)
        widths = {found.width for node, found in self.found.items() if node[:2] == (part, "layer")}
        for spec in probe.signature.inputs:
            if spec.shape and spec.shape[-1] in widths and spec.dtype == "float32":
                port = self.found[part, "in", spec.name] = _Found(int(spec.shape[-1]), {0: []})
                self._readers(part, probe, Source("", input=spec.name), port)

    def _embeddings(self, part: str, probe: Probe) -> None:
        """Look at the embeddings that a recurrent layer reads; others are traced with the layers that read them."""
        for name, layer in probe.layers.items():
            if isinstance(layer, nn.Embedding):
                width = layer.embedding_dim
                reads = [probe.layers.get(reader.layer) for reader in probe.readers(Source(name), width)]
                if any(isinstance(reader, recurrent.KINDS) for reader in reads):
                    found = _Found(width, {0: [Item(part, name, "out", _column(width, 0))]})
                    self.found[part, "embedding", name] = found
                    self._readers(part, probe, Source(name), found)

    def _readers(self, part: str, probe: Probe, source: Source, found: _Found) -> None:
        for reader in probe.readers(source, found.width):
            layer = probe.layers.get(reader.layer)
            if layer is None:
                name = probe.signature.outputs[reader.position].name
                self.found.setdefault((part, "out", name), _Found(found.width, {0: []}))
                found.joined.add((part, "out", name))
                found.reason = found.reason or ("gives only a part of an output" if reader.offset else "")
            elif isinstance(layer, recurrent.KINDS) and reader.position:
                found.joined.add((part, "layer", reader.layer))
            elif isinstance(layer, nn.Linear | nn.modules.conv._ConvNd | recurrent.KINDS):
                item = Item(part, reader.layer, "in", _column(found.width, reader.offset))
                found.items[source.section].append(item)
            else:
                found.reason = found.reason or f"is read by {reader.layer}, a {type(layer).__name__}"

    def components(self) -> Iterator[dict[Node, _Found]]:
        """Yield the nodes that share units, in order, where a recurrent layer is among them."""
        left = dict(self.found)
        links = self._links()
        while left:
            reached, waiting = dict[Node, _Found](), [next(iter(left))]
            while waiting:
                node = waiting.pop()
                if node in left:
                    reached[node] = left.pop(node)
                    waiting += sorted(links.get(node, ()))
            if any(kind in ROOTS for _, kind, _ in reached):
                yield reached

    def _links(self) -> dict[Node, set[Node]]:
        links: dict[Node, set[Node]] = {}
        pairs = [(node, other) for node, found in self.found.items() for other in found.joined]
        for one, other in (*pairs, *self.handed()):
            if one in self.found and other in self.found:
                links.setdefault(one, set()).add(other)
                links.setdefault(other, set()).add(one)
        return links

    def handed(self) -> Iterator[tuple[Node, Node]]:
        """Yield outputs with the inputs that they reach: states of a part, and names that two parts share."""
        parts = self.model.parts
        for name, part in parts.items():
            for output, fed in part.signature.state.items():
                yield (name, "out", output), (name, "in", fed)
            for other, taker in parts.items():
                takes = {spec.name for spec in taker.signature.inputs} if other != name else set()
                for spec in part.signature.outputs:
                    if spec.name in takes:
                        yield (name, "out", spec.name), (other, "in", spec.name)


def _column(width: int, start: int) -> torch.Tensor:
    return torch.arange(start, start + width).unsqueeze(1)


def _group(nodes: Mapping[Node, _Found], survey: _Survey, score: Score) -> Group:
    roots = sorted((node for node in nodes if node[1] in ROOTS), key=lambda node: node[1] != "layer")
    (part, kind, root), width = roots[0], nodes[roots[0]].width
    reason = _reason(nodes, survey)
    sections = max(len(found.items) for found in nodes.values())
    items: list[Item] = []
    scores = torch.zeros(width)
    for section in range(0 if reason else sections):
        those = [item for found in nodes.values() for item in found.items.get(section, ())]
        values = score(those)
        if values is None:
            reason = "has no scale to rank its units by"
            break
        ranked, order = values.sort(stable=True)
        # Units that leave together: of a lone section the unit itself, of several those of equal rank.
        order, ranked = (torch.arange(width), values) if sections == 1 else (order, ranked)
        items += [Item(item.part, item.layer, item.side, item.table[order]) for item in those]
        scores += ranked / sections
    ports = tuple((node[0], node[2]) for node in nodes if node[1] not in ROOTS)
    kind = "hidden" if kind == "layer" else kind
    return Group(part, root, kind, scores if not reason else torch.ones(width), tuple(items), ports, reason)


def _reason(nodes: Mapping[Node, _Found], survey: _Survey) -> str:
    """Return why the units that these nodes share must all stay, or nothing."""
    given = next((found.reason for found in nodes.values() if found.reason), "")
    if given or len(nodes) == 1:
        return given
    if len({found.width for found in nodes.values()}) > 1 or any(len(found.items) > 1 for found in nodes.values()):
        return "shares its state with others, level by level"
    pairs = {*survey.handed()}
    for node in nodes:
        if node[1] == "out" and not any(node == out for out, _ in pairs):
            return "gives the model's output"
        if node[1] == "in" and not any(node == fed for _, fed in pairs):
            return f"takes the model's input {node[2]} as its state"
    return ""
