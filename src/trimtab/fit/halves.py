"""Cuts a net in two between its blocks, so that easy examples may leave after the first half.

The first half gives its own answer and `hidden`, the second takes `hidden` and goes on where the first ended. A net of
pixels is cut where all that goes on has just left a block: a composed child of an `nn.Sequential`, or else a pooling
layer; `torch.fx` traces it to see that. Other nets know it themselves: their `places()` is the number of blocks that
run one after the other, their `halves(after, inputs)` gives `Halves`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from trimtab.errors import Refused, one_line
from trimtab.fit.facts import operations

LISTS = (nn.Sequential, nn.ModuleList)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.MaxPool1d, nn.AvgPool1d)


class Halves(NamedTuple):
    """Both halves of a net, and the inputs of the net that the second half takes after `hidden`, by name."""

    body: nn.Module
    """Takes what the net takes; gives (pooled [N, W], hidden)."""
    main: nn.Module
    takes: tuple[str, ...]


class First(nn.Module):
    """The first half with an exit of its own."""

    def __init__(self, body: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.exit = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, given: Tensor, second: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the exit's logits [N, classes] and `hidden`."""
        pooled, hidden = self.body(given) if second is None else self.body(given, second)
        return self.exit(pooled), hidden


class Short(nn.Module):
    """The first half alone: its exit is the answer."""

    def __init__(self, first: First) -> None:
        super().__init__()
        self.first = first

    def forward(self, given: Tensor, second: Tensor | None = None) -> Tensor:
        """Return the exit's answer [N, classes]."""
        answer: Tensor = self.first(given, second)[0]
        return answer


class Pupil(Short):
    """The first half while its exit learns: the blocks stay as they are, batch norms included."""

    def __init__(self, first: First) -> None:
        super().__init__(first)
        first.body.requires_grad_(False)

    def train(self, mode: bool = True) -> Pupil:
        """Stay in eval mode: nothing but the exit's weights may change."""
        return super().train(False)


class Pooled(nn.Module):
    """The first layers of a net of pixels [N, C, ...], and the mean of each of their channels; what has none stays."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, given: Tensor, second: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return [N, C] and the pixels."""
        hidden: Tensor = self.layers(given) if second is None else self.layers(given, second)
        return hidden.flatten(2).mean(2) if hidden.ndim > 2 else hidden, hidden


class _Whole(fx.Tracer):
    """Traces a net down to the blocks that stand in its lists, which stay whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Blocks are the children of lists; a list in a list is looked into."""
        above = self.root.get_submodule(module_qualified_name.rpartition(".")[0])
        block = isinstance(above, LISTS) and not isinstance(m, LISTS)
        return block or super().is_leaf_module(m, module_qualified_name)


def places(module: nn.Module) -> int:
    """Return how many blocks run one after the other; a net can be cut after each but the last.

    Raises:
        Refused: it cannot be told where this net could be cut.
    """
    if hasattr(type(module), "halves"):
        return int(module.places())  # type: ignore[operator]
    return len(_ends(module, _traced(module))) + 1


def cut(module: nn.Module, after: int, inputs: Sequence[str]) -> Halves:
    """Return both halves of a net that takes `inputs`, cut after its block number `after`, counted from 1.

    Raises:
        Refused: there is no such place.
    """
    own = hasattr(type(module), "halves")
    graph = fx.Graph() if own else _traced(module)
    ends = [] if own else _ends(module, graph)
    count = int(module.places()) if own else len(ends) + 1  # type: ignore[operator]
    if not 0 < after < count:
        where = f"1 to {count - 1}" if count > 1 else "nowhere: it has one block"
        raise Refused(f"a net of {count} blocks that run one after the other can be cut after {where}; got {after}")
    if own:
        halves: Halves = module.halves(after, tuple(inputs))  # type: ignore[operator]
        return halves
    body, main = _split(module, graph, ends[after - 1])
    return Halves(Pooled(body), main, ())


def place(module: nn.Module, share: float, arguments: tuple[Tensor, ...]) -> int:
    """Return after which block at most this share of the operations is done; the first where that alone does more.

    Raises:
        Refused: the net cannot be cut.
    """
    found, whole = 1, share * operations(module, arguments)
    for after in range(1, places(module)):
        done = operations(cut(module, after, ()).body.eval(), arguments)
        if done > whole:
            break
        found = after
    return found


def rebuilt(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
    """Cut a freshly built net as an edit {"half", "after", "inputs", "width", "classes"} says; returns that half."""
    halves = cut(module, int(edit["after"]), edit["inputs"])
    return halves.main if edit["half"] == "main" else First(halves.body, int(edit["width"]), int(edit["classes"]))


def _traced(module: nn.Module) -> fx.Graph:
    """Return the net's graph; raises Refused where it cannot be traced, or reads no pixels."""
    if not any(isinstance(layer, nn.modules.conv._ConvNd) for layer in module.modules()):
        raise Refused(
            f"{type(module).__name__} does not say where it could be cut in two: that is told of nets of convolutions, "
            "and by nets with the methods places() and halves(after, inputs)"
        )
    try:
        return _Whole().trace(module)
    except Exception as error:  # whatever the net's own code raises when it is given proxies
        raise Refused(
            f"torch.fx cannot trace {type(module).__name__} ({one_line(error)}); a net can say itself "
            "where it is cut, by the methods places() and halves(after, inputs)"
        ) from error


def _ends(module: nn.Module, graph: fx.Graph) -> list[fx.Node]:
    """Return what leaves each block after which the net could be cut: composed blocks, else pooling layers."""
    called = {node: module.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
    blocks = [node for node, child in called.items() if _composed(child)]
    ends = blocks[:-1] if len(blocks) > 1 else [node for node, child in called.items() if isinstance(child, POOLS)]
    return [node for node in ends if _alone(graph, node)]


def _alone(graph: fx.Graph, end: fx.Node) -> bool:
    """Tell whether all that is read behind a node is that node, and what comes later."""
    nodes = list(graph.nodes)
    place = nodes.index(end)
    known = {node for node in nodes[:place] if node.op != "get_attr"}
    return not any(known & set(node.all_input_nodes) for node in nodes[place + 1 :])


def _split(module: nn.Module, graph: fx.Graph, end: fx.Node) -> tuple[nn.Module, nn.Module]:
    """Return what comes up to a node, and what comes behind it."""
    nodes = list(graph.nodes)
    before, behind = nodes[: nodes.index(end) + 1], nodes[nodes.index(end) + 1 :]
    fixed = [node for node in before if node.op == "get_attr" and set(node.users) & set(behind)]
    first, main = fx.Graph(), fx.Graph()
    below: dict[fx.Node, fx.Node] = {}
    above = {end: main.placeholder("hidden")}
    for half, copies, wanted in ((first, below, before), (main, above, [*fixed, *behind])):
        for node in wanted:
            copies[node] = half.node_copy(node, copies.__getitem__)
    first.output(below[end])
    return fx.GraphModule(module, first), fx.GraphModule(module, main)


def _composed(child: nn.Module) -> bool:
    return any(True for _ in child.children()) and any(True for _ in child.parameters())
