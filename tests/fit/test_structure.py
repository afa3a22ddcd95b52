"""Groups over all kinds of nets: found, proved, and what cannot be cut named."""

import copy

import pytest
import torch

from structures import Spelling, code, opened, sequences, speller
from trimtab.fit import module as artefact
from trimtab.fit.program import Net
from trimtab.fit.proof import difference
from trimtab.fit.structure import survey
from trimtab.fit.units import cuts_of, narrowed, repeat
from trimtab.values.task import TaskView

ALL = ("channels", "heads", "feed_forward", "hidden", "embedding", "width")


def found(model, view, kinds=ALL):
    return survey(Net.load(model, True).eval(), artefact.example(view, 4), kinds, ("magnitude", {}))


def by_root(structure):
    return {group.root: group for group in structure.groups}


def without(structure, group, units):
    """Return the part's module without the units."""
    module = copy.deepcopy(structure.modules[group.part])
    return repeat(module, cuts_of([(group, units)])[group.part])


def silenced(module, layer, gone):
    """Silence features that a layer reads, as independent proof."""
    index = torch.tensor(gone)
    return module.get_submodule(layer).register_forward_pre_hook(lambda _, x: (x[0].index_fill(-1, index, 0.0),))


@torch.no_grad()
def test_a_transformer_without_heads_and_neurons_answers_as_with_them_silenced(tmp_path):
    view = sequences()
    structure = found(opened("zoo:transformer(width=32, depth=2)", view, tmp_path), view)
    groups = by_root(structure)
    assert groups["layers.layers.0.self_attn"].kind == "heads"
    assert groups["layers.layers.0.linear1"].kind == "feed_forward"
    assert groups["head"].kept_because == "gives the model's output"
    # Sine positions depend on the width, which tracing cannot see.
    width = next(group for group in structure.groups if group.kind == "width")
    assert width.kept_because == "cannot lose any: the smaller model computes something else"
    inputs = structure.arguments("main")
    for root, units, reader, features in (
        ("layers.layers.1.self_attn", [1], "layers.layers.1.self_attn.output", [*range(16, 32)]),
        ("layers.layers.0.linear1", [0, 7, 100], "layers.layers.0.linear2", [0, 7, 100]),
    ):
        handle = silenced(structure.modules["main"], reader, features)
        expected = structure.modules["main"](*inputs)
        handle.remove()
        torch.testing.assert_close(without(structure, groups[root], units)(*inputs), expected)


@pytest.mark.parametrize("ref", ["zoo:lstm(width=16, depth=2)", "zoo:gru(width=16)"])
def test_recurrent_units_go_from_every_level_and_reader(ref, tmp_path):
    view = sequences()
    structure = found(opened(ref, view, tmp_path), view)
    group = by_root(structure)["core"]
    assert (group.kind, group.kept_because, group.ports) == ("hidden", "", ())
    assert {(item.layer, item.side) for item in group.items} == {("core", "hidden"), ("head", "in")}
    assert group.scores.tolist() == pytest.approx(group.scores.tolist())
    small = without(structure, group, [0, 3])
    assert (small.core.hidden_size, small.head.in_features) == (14, 14)
    assert difference(structure.model, structure.modules, [(group, [0, 3, 9])], structure.batch) == ""


def test_an_encoder_and_its_decoder_lose_the_same_units(tmp_path):
    view = TaskView(Spelling())
    structure = found(speller(tmp_path), view)
    (group,) = (group for group in structure.groups if group.kind == "hidden")
    embeddings = [group for group in structure.groups if group.kind == "embedding"]
    assert {group.name for group in embeddings if not group.kept_because} == {"encoder/embed", "decoder/embed"}
    assert difference(structure.model, structure.modules, [(one, [0, 5]) for one in embeddings], structure.batch) == ""
    assert group.name == "encoder/cell"
    assert set(group.ports) == {("encoder", "hidden"), ("decoder", "hidden"), ("decoder", "next")}
    assert {(item.part, item.layer, item.side) for item in group.items} == {
        ("encoder", "cell", "hidden"),
        ("decoder", "cell", "hidden"),
        ("decoder", "head", "in"),
    }
    plan = [(group, [0, 1, 2, 3])]
    assert difference(structure.model, structure.modules, plan, structure.batch) == ""
    parts = narrowed(structure.model, plan).parts
    assert parts["decoder"].signature.inputs[1].shape == parts["encoder"].signature.outputs[0].shape == ("batch", 20)


STRANGE = '''
import torch
from torch import nn

class Shown(nn.Module):
    """Gives its hidden units away, and norms others."""
    def __init__(self, normed):
        super().__init__()
        self.first, self.core = nn.Linear(6, 8), nn.GRU(8, 8, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 8)
        self.normed = normed

    def forward(self, x, length):
        steps, _ = self.core(self.first(x))
        return self.head(self.norm(steps[:, -1])) if self.normed else steps[:, -1]

def shown(normed=False):
    return Shown(normed)

class Flat(nn.Module):
    """Remembers its width in a formula."""
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x, length):
        x = self.a(x).relu()
        return self.b(x / x.shape[-1]).mean(1)

def flat():
    return Flat()
'''


@pytest.mark.parametrize(
    ("ref", "root", "reason"),
    [
        ("shown", "core", "gives the model's output"),
        ("shown(normed=True)", "core", "is read by norm, a LayerNorm"),
        ("flat", "a", "cannot lose any: the smaller model computes something else"),
    ],
)
def test_what_cannot_be_cut_is_kept_with_the_reason(ref, root, reason, tmp_path):
    view = sequences()
    path = code(tmp_path)
    path.write_text(STRANGE)
    structure = found(opened(ref, view, tmp_path / "model", path), view)
    assert by_root(structure)[root].kept_because == reason
    if ref != "flat":
        assert structure.left_alone["first"] == "what reads it could not be traced"
